/// The settings of Muon, with the meaning and the defaults of PyTorch's `Muon`.
///
/// Tensors that are not matrices between hidden states take AdamW with the same learning rate.
public struct MuonOptions: Codable, Hashable, Sendable {
    /// The decay of the mean of gradients, 0 or more and below 1.
    public var momentum = 0.95
    /// Looks ahead along the momentum.
    public var nesterov = true
    /// The iterations that make a matrix orthogonal, 1 to 99.
    public var nsSteps = 5
    /// What an iteration makes of each singular value x: the polynomial with these three numbers before x, x³ and
    /// x⁵.
    public var nsCoefficients = SIMD3(3.4445, -4.775, 2.0315)
    /// The least norm that a matrix is divided by; above 0.
    public var eps = 1e-7
    /// The share of each weight that is taken away per step and unit of learning rate, 0 or more.
    public var weightDecay = 0.1
    /// How the learning rate follows the shape of a matrix.
    public var learningRateAdjustment = LearningRateAdjustment.original
    /// The settings for the tensors that Muon does not change.
    public var adamW = AdamWOptions()

    /// Makes settings; what is left out has its default.
    public init(
        momentum: Double = 0.95, weightDecay: Double = 0.1,
        learningRateAdjustment: LearningRateAdjustment = .original, adamW: AdamWOptions = AdamWOptions()
    ) {
        self.momentum = momentum
        self.weightDecay = weightDecay
        self.learningRateAdjustment = learningRateAdjustment
        self.adamW = adamW
    }

    /// How the learning rate follows the shape of a matrix.
    public enum LearningRateAdjustment: String, Codable, CaseIterable, Sendable {
        /// It is multiplied by the root of rows over columns, where there are more rows.
        case original
        /// It is multiplied by 0.2 times the root of the larger dimension, so that a learning rate that suits
        /// AdamW suits Muon.
        case matchRMSAdamW = "match_rms_adamw"
    }

    private enum CodingKeys: String, CodingKey {
        case momentum, nesterov
        case nsSteps = "ns_steps"
        case nsCoefficients = "ns_coefficients"
        case eps
        case weightDecay = "weight_decay"
        case learningRateAdjustment = "adjust_lr"
        case adamW = "adamw"
    }

    /// Reads settings; a key that is left out has its default.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        momentum = try values.decode(.momentum, or: momentum)
        nesterov = try values.decode(.nesterov, or: nesterov)
        nsSteps = try values.decode(.nsSteps, or: nsSteps)
        nsCoefficients = try values.decode(.nsCoefficients, or: nsCoefficients)
        eps = try values.decode(.eps, or: eps)
        weightDecay = try values.decode(.weightDecay, or: weightDecay)
        learningRateAdjustment = try values.decode(.learningRateAdjustment, or: learningRateAdjustment)
        adamW = try values.decode(.adamW, or: adamW)
    }
}
