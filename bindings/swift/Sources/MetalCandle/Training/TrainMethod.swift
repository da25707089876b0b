/// What a training run changes.
public enum TrainMethod: Hashable, Sendable {
    /// A LoRA, rsLoRA or DoRA adapter beside the model; QLoRA where the model is quantised.
    case lora(LoRAOptions = LoRAOptions())
    /// The weights themselves, of a model that is not quantised. It takes some 16 bytes a weight with Adam.
    ///
    /// With all layers everything is trained, embedding, norms and head included; with some of them only what
    /// belongs to these.
    case full(layers: LayerSelection = .all)
}

extension TrainMethod: Codable {
    private enum CodingKeys: String, CodingKey {
        case type = "fine_tune_type"
    }

    private enum FineTuneType: String, Codable {
        case lora, full
    }

    /// Reads an object with `fine_tune_type`, which is `lora` where it is left out, beside the settings.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        switch try values.decode(.type, or: FineTuneType.lora) {
        case .lora: self = .lora(try LoRAOptions(from: decoder))
        case .full: self = .full(layers: try LayerSelection(from: decoder))
        }
    }

    /// Writes an object with `fine_tune_type` beside the settings.
    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        switch self {
        case .lora(let options):
            try values.encode(FineTuneType.lora, forKey: .type)
            try options.encode(to: encoder)
        case .full(let layers):
            try values.encode(FineTuneType.full, forKey: .type)
            try layers.encode(to: encoder)
        }
    }
}

extension TrainMethod {
    /// The settings that have no sign, by their names.
    var counts: [(String, Int)] {
        switch self {
        case .lora(let options): [("rank", options.rank)] + options.layers.counts
        case .full(let layers): layers.counts
        }
    }
}

/// Layers of a model, counted from 0.
public enum LayerSelection: Hashable, Sendable {
    /// Every layer.
    case all
    /// The last ones, so many; a model of fewer is changed in all: `num_layers` of mlx-lm.
    case last(Int)
    /// These: `layers_to_transform` of PEFT.
    case these(Set<Int>)
}

/// As keys of the object that selects layers: `num_layers`, `layers`, or neither.
extension LayerSelection: Codable {
    private enum CodingKeys: String, CodingKey {
        case last = "num_layers"
        case these = "layers"
    }

    /// Reads the selection from an object with `num_layers`, `layers`, or neither.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        let last = try values.decodeIfPresent(Int.self, forKey: .last)
        let these = try values.decodeIfPresent(Set<Int>.self, forKey: .these)
        switch (last, these) {
        case (nil, nil): self = .all
        case (let last?, nil): self = .last(last)
        case (nil, let these?): self = .these(these)
        case (_?, _?):
            throw DecodingError.dataCorruptedError(
                forKey: .these, in: values, debugDescription: "num_layers and layers beside each other")
        }
    }

    /// Writes an object with the selection.
    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        switch self {
        case .all: break
        case .last(let count): try values.encode(count, forKey: .last)
        case .these(let layers): try values.encode(layers.sorted(), forKey: .these)
        }
    }
}

extension LayerSelection {
    /// The settings that have no sign, by their names.
    var counts: [(String, Int)] {
        switch self {
        case .all: []
        case .last(let count): [(CodingKeys.last.rawValue, count)]
        case .these(let layers): layers.map { (CodingKeys.these.rawValue, $0) }
        }
    }
}
