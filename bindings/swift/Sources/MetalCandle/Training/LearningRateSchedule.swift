/// How the learning rate goes on after the warm-up.
///
/// Constant, linear and cosine are those of Hugging Face transformers; step and exponential are `StepLR` and
/// `ExponentialLR` of PyTorch, `step_decay` and `exponential_decay` of mlx.
public enum LearningRateSchedule: Hashable, Sendable {
    /// It stays.
    case constant
    /// It falls on a straight line to ``TrainOptions/minLearningRate`` at the last step.
    case linear
    /// It falls on half a cosine wave to ``TrainOptions/minLearningRate`` at the last step.
    case cosine
    /// It is multiplied by `gamma`, above 0 and at most 1, each `size` steps.
    case step(size: Int, gamma: Double = 0.1)
    /// It is multiplied by `gamma`, above 0 and at most 1, each step.
    case exponential(gamma: Double)
}

extension LearningRateSchedule: Codable {
    private enum Name: String, Codable {
        case constant, linear, cosine, step, exponential
    }

    private enum CodingKeys: String, CodingKey {
        case name
        case size = "step_size"
        case gamma
    }

    /// Reads the name of a schedule, or an object with its name and settings.
    public init(from decoder: any Decoder) throws {
        switch try Named<Name>(from: decoder).name {
        case .constant: self = .constant
        case .linear: self = .linear
        case .cosine: self = .cosine
        case .step:
            let values = try decoder.container(keyedBy: CodingKeys.self)
            self = .step(size: try values.decode(Int.self, forKey: .size), gamma: try values.decode(.gamma, or: 0.1))
        case .exponential:
            let values = try decoder.container(keyedBy: CodingKeys.self)
            self = .exponential(gamma: try values.decode(Double.self, forKey: .gamma))
        }
    }

    /// Writes the name of the schedule, or an object with its name and settings where it has some.
    public func encode(to encoder: any Encoder) throws {
        switch self {
        case .constant: try Name.constant.encode(to: encoder)
        case .linear: try Name.linear.encode(to: encoder)
        case .cosine: try Name.cosine.encode(to: encoder)
        case .step(let size, let gamma):
            var values = encoder.container(keyedBy: CodingKeys.self)
            try values.encode(Name.step, forKey: .name)
            try values.encode(size, forKey: .size)
            try values.encode(gamma, forKey: .gamma)
        case .exponential(let gamma):
            var values = encoder.container(keyedBy: CodingKeys.self)
            try values.encode(Name.exponential, forKey: .name)
            try values.encode(gamma, forKey: .gamma)
        }
    }
}

extension LearningRateSchedule {
    /// The settings that have no sign, by their names.
    var counts: [(String, Int)] {
        if case .step(let size, _) = self { [(CodingKeys.size.rawValue, size)] } else { [] }
    }
}
