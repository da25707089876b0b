/// What a LoRA adapter changes, and how strongly.
///
/// The defaults are those of Hugging Face's PEFT for rank and alpha, on all projections of all layers.
///
/// ```swift
/// // The last 16 layers with a factor of 20, as `mlx_lm.lora` does by default.
/// let options = LoRAOptions(scale: .factor(20), layers: .last(16))
/// ```
public struct LoRAOptions: Hashable, Sendable {
    /// The rank of the change, 1 to 4096.
    public var rank: Int
    /// The strength of the change.
    public var scale: Scale
    /// The share of the adapter's inputs that are set to 0 in training, 0 or more and below 1.
    public var dropout: Double
    /// Divides alpha by the square root of the rank (rsLoRA).
    public var useRSLoRA: Bool
    /// Trains the lengths of the rows of weights apart from their directions (DoRA).
    public var useDoRA: Bool
    /// The projections that are changed.
    public var targets: Targets
    /// The layers in which they are changed.
    public var layers: LayerSelection

    /// Makes options; what is left out has its default.
    public init(
        rank: Int = 8, scale: Scale = .alpha(16), dropout: Double = 0, useRSLoRA: Bool = false,
        useDoRA: Bool = false, targets: Targets = .all, layers: LayerSelection = .all
    ) {
        self.rank = rank
        self.scale = scale
        self.dropout = dropout
        self.useRSLoRA = useRSLoRA
        self.useDoRA = useDoRA
        self.targets = targets
        self.layers = layers
    }

    /// The strength of an adapter, of which Hugging Face and mlx-lm mean different things.
    public enum Scale: Hashable, Sendable {
        /// The strength before division by the rank, or by its root for rsLoRA: `lora_alpha` of PEFT.
        case alpha(Double)
        /// The strength itself, which no rank divides: `scale` of mlx-lm.
        case factor(Double)
    }

    /// A linear map of a layer.
    public enum Projection: String, Codable, CaseIterable, Sendable {
        /// To queries.
        case query = "q_proj"
        /// To keys.
        case key = "k_proj"
        /// To values.
        case value = "v_proj"
        /// From heads of attention to hidden states.
        case output = "o_proj"
        /// To the gates of the feed-forward network.
        case gate = "gate_proj"
        /// Into the feed-forward network.
        case up = "up_proj"
        /// Out of the feed-forward network.
        case down = "down_proj"
    }

    /// The projections that an adapter changes.
    public enum Targets: Hashable, Sendable {
        /// These, in every selected layer.
        case projections(Set<Projection>)
        /// Those whose whole name, such as `model.layers.3.self_attn.q_proj`, the regular expression matches.
        case pattern(String)

        /// All projections.
        public static let all = Targets.projections(Set(Projection.allCases))
    }
}

extension LoRAOptions: Codable {
    private enum CodingKeys: String, CodingKey {
        case rank, alpha, scale, dropout
        case useRSLoRA = "use_rslora"
        case useDoRA = "use_dora"
        case targets = "target_modules"
    }

    /// Reads options; a key that is left out has its default.
    public init(from decoder: any Decoder) throws {
        self.init()
        let values = try decoder.container(keyedBy: CodingKeys.self)
        rank = try values.decode(.rank, or: rank)
        let alpha = try values.decodeIfPresent(Double.self, forKey: .alpha)
        let factor = try values.decodeIfPresent(Double.self, forKey: .scale)
        switch (alpha, factor) {
        case (nil, nil): break
        case (let alpha?, nil): scale = .alpha(alpha)
        case (nil, let factor?): scale = .factor(factor)
        case (_?, _?):
            throw DecodingError.dataCorruptedError(
                forKey: .scale, in: values, debugDescription: "alpha and scale beside each other")
        }
        dropout = try values.decode(.dropout, or: dropout)
        useRSLoRA = try values.decode(.useRSLoRA, or: useRSLoRA)
        useDoRA = try values.decode(.useDoRA, or: useDoRA)
        targets = try values.decode(.targets, or: targets)
        layers = try LayerSelection(from: decoder)
    }

    /// Writes all options, as JSON for the C interface.
    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(rank, forKey: .rank)
        switch scale {
        case .alpha(let alpha): try values.encode(alpha, forKey: .alpha)
        case .factor(let factor): try values.encode(factor, forKey: .scale)
        }
        try values.encode(dropout, forKey: .dropout)
        try values.encode(useRSLoRA, forKey: .useRSLoRA)
        try values.encode(useDoRA, forKey: .useDoRA)
        try values.encode(targets, forKey: .targets)
        try layers.encode(to: encoder)
    }
}

extension LoRAOptions.Targets: Codable {
    /// Reads a list of names, or a regular expression.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let pattern = try? container.decode(String.self) {
            self = .pattern(pattern)
        } else {
            self = .projections(try container.decode(Set<LoRAOptions.Projection>.self))
        }
    }

    /// Writes a list of names, or a regular expression.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .projections(let projections):
            try container.encode(LoRAOptions.Projection.allCases.filter(projections.contains))
        case .pattern(let pattern):
            try container.encode(pattern)
        }
    }
}
