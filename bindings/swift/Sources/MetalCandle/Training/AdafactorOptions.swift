/// The settings of Adafactor, with the meaning of `Adafactor` in Hugging Face transformers.
///
/// The learning rate is that of the schedule, as in transformers' trainer.
public struct AdafactorOptions: Hashable, Sendable {
    /// Is added to squared gradients; above 0.
    public var eps: Double
    /// The least size that ``scaleParameter`` takes weights to have, 0 or more; the second number of `eps`.
    public var parameterEps: Double
    /// The root mean square that the change of a tensor is scaled down to, before the learning rate; above 0.
    public var clipThreshold: Double
    /// After step n the mean of squared gradients keeps 1 - n to this power; below 0.
    public var decayRate: Double
    /// The decay of the mean of changes, 0 or more and below 1; `nil` for no mean, which needs no memory.
    public var beta1: Double?
    /// The share of each weight that is taken away per step and unit of learning rate, 0 or more.
    public var weightDecay: Double
    /// Multiplies the learning rate of a tensor by the root mean square of its weights.
    public var scaleParameter: Bool

    /// Makes settings; what is left out has its default.
    public init(
        eps: Double = 1e-30, parameterEps: Double = 1e-3, clipThreshold: Double = 1, decayRate: Double = -0.8,
        beta1: Double? = nil, weightDecay: Double = 0, scaleParameter: Bool = false
    ) {
        self.eps = eps
        self.parameterEps = parameterEps
        self.clipThreshold = clipThreshold
        self.decayRate = decayRate
        self.beta1 = beta1
        self.weightDecay = weightDecay
        self.scaleParameter = scaleParameter
    }
}

extension AdafactorOptions: Codable {
    private enum CodingKeys: String, CodingKey {
        case eps, beta1
        case clipThreshold = "clip_threshold"
        case decayRate = "decay_rate"
        case weightDecay = "weight_decay"
        case scaleParameter = "scale_parameter"
    }

    /// Reads settings; a key that is left out has its default.
    public init(from decoder: any Decoder) throws {
        self.init()
        let values = try decoder.container(keyedBy: CodingKeys.self)
        if values.contains(.eps) {
            var pair = try values.nestedUnkeyedContainer(forKey: .eps)
            eps = try pair.decode(Double.self)
            parameterEps = try pair.decode(Double.self)
        }
        clipThreshold = try values.decode(.clipThreshold, or: clipThreshold)
        decayRate = try values.decode(.decayRate, or: decayRate)
        beta1 = try values.decode(.beta1, or: beta1)
        weightDecay = try values.decode(.weightDecay, or: weightDecay)
        scaleParameter = try values.decode(.scaleParameter, or: scaleParameter)
    }

    /// Writes all settings, as JSON for the C interface.
    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode([eps, parameterEps], forKey: .eps)
        try values.encode(clipThreshold, forKey: .clipThreshold)
        try values.encode(decayRate, forKey: .decayRate)
        try values.encode(beta1, forKey: .beta1)
        try values.encode(weightDecay, forKey: .weightDecay)
        try values.encode(scaleParameter, forKey: .scaleParameter)
    }
}
