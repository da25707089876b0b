/// How a model learns to prefer one answer to another, from rows of a prompt and two answers.
public enum PreferenceLoss: Hashable, Sendable {
    /// Direct preference optimisation.
    ///
    /// - `beta`: How closely the model is held to the one before training; the smaller, the further it may go.
    ///   Above 0.
    /// - `labelSmoothing`: The share of pairs that may be the wrong way round, 0 or more and below 0.5.
    case dpo(beta: Double = 0.1, labelSmoothing: Double = 0)
    /// Odds ratio preference optimisation. It needs no second model, so a step takes less time than one of DPO.
    ///
    /// - `lambda`: The weight of the odds ratio beside the likelihood of the chosen answer. Above 0.
    case orpo(lambda: Double = 0.1)
}

extension PreferenceLoss: Codable {
    private enum Name: String, Codable {
        case dpo, orpo
    }

    private struct DPO: Codable {
        var beta: Double?
        var labelSmoothing: Double?

        enum CodingKeys: String, CodingKey {
            case beta
            case labelSmoothing = "label_smoothing"
        }
    }

    private struct ORPO: Codable {
        var lambda: Double?
    }

    /// Reads the name of a loss, or an object with its name and settings.
    public init(from decoder: any Decoder) throws {
        let named = try Named<Name>(from: decoder)
        switch named.name {
        case .dpo:
            let settings = try named.settings(from: decoder, or: DPO())
            self = .dpo(beta: settings.beta ?? 0.1, labelSmoothing: settings.labelSmoothing ?? 0)
        case .orpo:
            let settings = try named.settings(from: decoder, or: ORPO())
            self = .orpo(lambda: settings.lambda ?? 0.1)
        }
    }

    /// Writes an object with the name of the loss and its settings.
    public func encode(to encoder: any Encoder) throws {
        switch self {
        case .dpo(let beta, let labelSmoothing):
            try Named(Name.dpo).encode(to: encoder)
            try DPO(beta: beta, labelSmoothing: labelSmoothing).encode(to: encoder)
        case .orpo(let lambda):
            try Named(Name.orpo).encode(to: encoder)
            try ORPO(lambda: lambda).encode(to: encoder)
        }
    }
}
