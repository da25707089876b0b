/// The settings of stochastic gradient descent, with the defaults of PyTorch.
public struct SGDOptions: Codable, Hashable, Sendable {
    /// The share of the last step's direction that the next one keeps, 0 or more and below 1; 0 needs no memory.
    public var momentum: Double
    /// The share of the gradient that the momentum does not take, from 0 to 1.
    public var dampening: Double
    /// Looks ahead along the momentum; needs a momentum, and no dampening.
    public var nesterov: Bool
    /// The share of each weight that is added to its gradient, 0 or more.
    public var weightDecay: Double

    /// Makes settings; what is left out has its default.
    public init(momentum: Double = 0, dampening: Double = 0, nesterov: Bool = false, weightDecay: Double = 0) {
        self.momentum = momentum
        self.dampening = dampening
        self.nesterov = nesterov
        self.weightDecay = weightDecay
    }

    private enum CodingKeys: String, CodingKey {
        case momentum, dampening, nesterov
        case weightDecay = "weight_decay"
    }

    /// Reads settings; a key that is left out has its default.
    public init(from decoder: any Decoder) throws {
        self.init()
        let values = try decoder.container(keyedBy: CodingKeys.self)
        momentum = try values.decode(.momentum, or: momentum)
        dampening = try values.decode(.dampening, or: dampening)
        nesterov = try values.decode(.nesterov, or: nesterov)
        weightDecay = try values.decode(.weightDecay, or: weightDecay)
    }
}
