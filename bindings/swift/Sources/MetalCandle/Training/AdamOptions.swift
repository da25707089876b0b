/// The settings of AdamW, with the defaults of PyTorch.
public struct AdamWOptions: Codable, Hashable, Sendable {
    /// The decay of the mean of gradients, 0 or more and below 1.
    public var beta1: Double
    /// The decay of the mean of squared gradients, 0 or more and below 1.
    public var beta2: Double
    /// Is added to the denominator; above 0.
    public var eps: Double
    /// The share of each weight that is taken away per step and unit of learning rate, 0 or more.
    public var weightDecay: Double
    /// Makes up for means that start at 0; in mlx it is false.
    public var biasCorrection: Bool

    /// Makes settings; what is left out has its default.
    public init(
        beta1: Double = 0.9, beta2: Double = 0.999, eps: Double = 1e-8, weightDecay: Double = 0.01,
        biasCorrection: Bool = true
    ) {
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.weightDecay = weightDecay
        self.biasCorrection = biasCorrection
    }

    private enum CodingKeys: String, CodingKey {
        case beta1, beta2, eps
        case weightDecay = "weight_decay"
        case biasCorrection = "bias_correction"
    }

    /// Reads settings; a key that is left out has its default.
    public init(from decoder: any Decoder) throws {
        self.init()
        let values = try decoder.container(keyedBy: CodingKeys.self)
        beta1 = try values.decode(.beta1, or: beta1)
        beta2 = try values.decode(.beta2, or: beta2)
        eps = try values.decode(.eps, or: eps)
        weightDecay = try values.decode(.weightDecay, or: weightDecay)
        biasCorrection = try values.decode(.biasCorrection, or: biasCorrection)
    }
}

/// The settings of Adam, with the defaults of PyTorch.
public struct AdamOptions: Codable, Hashable, Sendable {
    /// The decay of the mean of gradients, 0 or more and below 1.
    public var beta1: Double
    /// The decay of the mean of squared gradients, 0 or more and below 1.
    public var beta2: Double
    /// Is added to the denominator; above 0.
    public var eps: Double
    /// The share of each weight that is added to its gradient, 0 or more.
    public var weightDecay: Double
    /// Makes up for means that start at 0; in mlx it is false.
    public var biasCorrection: Bool

    /// Makes settings; what is left out has its default.
    public init(
        beta1: Double = 0.9, beta2: Double = 0.999, eps: Double = 1e-8, weightDecay: Double = 0,
        biasCorrection: Bool = true
    ) {
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.weightDecay = weightDecay
        self.biasCorrection = biasCorrection
    }

    private enum CodingKeys: String, CodingKey {
        case beta1, beta2, eps
        case weightDecay = "weight_decay"
        case biasCorrection = "bias_correction"
    }

    /// Reads settings; a key that is left out has its default.
    public init(from decoder: any Decoder) throws {
        self.init()
        let values = try decoder.container(keyedBy: CodingKeys.self)
        beta1 = try values.decode(.beta1, or: beta1)
        beta2 = try values.decode(.beta2, or: beta2)
        eps = try values.decode(.eps, or: eps)
        weightDecay = try values.decode(.weightDecay, or: weightDecay)
        biasCorrection = try values.decode(.biasCorrection, or: biasCorrection)
    }
}
