/// How the next token is chosen.
///
/// The defaults choose the likeliest token, always. Names and meanings are those of transformers and
/// llama.cpp.
public struct SamplingOptions: Codable, Hashable, Sendable {
    /// 0 chooses the likeliest token; higher values spread the choice.
    public var temperature = 0.0
    /// Chooses among this many of the likeliest tokens; 0 for all.
    public var topK = 0
    /// Chooses among the likeliest tokens that have this probability together; 1 for all.
    public var topP = 1.0
    /// Leaves out tokens that are less likely than this share of the likeliest; 0 for none.
    public var minP = 0.0
    /// Chooses among the tokens that are as surprising as expected, up to this probability; 1 for all.
    public var typicalP = 1.0
    /// How often the likeliest tokens are left out but for the last of them that is at least
    /// ``xtcThreshold`` likely.
    public var xtcProbability = 0.0
    /// The probability that a token must have to be left out so.
    public var xtcThreshold = 0.1
    /// Makes tokens that came before less likely by a factor; 1 for no change.
    public var repetitionPenalty = 1.0
    /// Is taken from the logit of each token that came before.
    public var presencePenalty = 0.0
    /// Is taken from the logit of a token for each time that it came before.
    public var frequencyPenalty = 0.0
    /// How many of the last tokens count for penalties; 0 for all.
    public var penaltyLastN = 0
    /// The strength of the penalty for going on with a sequence that came before; 0 for none.
    public var dryMultiplier = 0.0
    /// How much the penalty grows with each further token of such a sequence.
    public var dryBase = 1.75
    /// The shortest sequence, in tokens, that has the penalty.
    public var dryAllowedLength = 2
    /// How many of the last tokens are searched for such sequences; 0 for all.
    public var dryPenaltyLastN = 0
    /// Texts at which such sequences end.
    public var drySequenceBreakers = ["\n", ":", "\"", "*"]
    /// Is added to the logits of token ids; negative infinity bans one.
    public var logitBias: [UInt32: Float] = [:]
    /// Where the choice is random, the same seed chooses the same tokens.
    public var seed: UInt64 = 0

    /// Makes options that choose the likeliest token.
    public init() {}

    /// Makes options with what is most often set.
    public init(temperature: Double, topP: Double = 1, topK: Int = 0, minP: Double = 0, seed: UInt64 = 0) {
        self.temperature = temperature
        self.topP = topP
        self.topK = topK
        self.minP = minP
        self.seed = seed
    }

    private enum CodingKeys: String, CodingKey {
        case temperature
        case topK = "top_k"
        case topP = "top_p"
        case minP = "min_p"
        case typicalP = "typical_p"
        case xtcProbability = "xtc_probability"
        case xtcThreshold = "xtc_threshold"
        case repetitionPenalty = "repetition_penalty"
        case presencePenalty = "presence_penalty"
        case frequencyPenalty = "frequency_penalty"
        case penaltyLastN = "penalty_last_n"
        case dryMultiplier = "dry_multiplier"
        case dryBase = "dry_base"
        case dryAllowedLength = "dry_allowed_length"
        case dryPenaltyLastN = "dry_penalty_last_n"
        case drySequenceBreakers = "dry_sequence_breakers"
        case logitBias = "logit_bias"
        case seed
    }

    /// The options that are counts, by their names.
    var counts: [(String, Int)] {
        [
            (CodingKeys.topK.rawValue, topK),
            (CodingKeys.penaltyLastN.rawValue, penaltyLastN),
            (CodingKeys.dryAllowedLength.rawValue, dryAllowedLength),
            (CodingKeys.dryPenaltyLastN.rawValue, dryPenaltyLastN),
        ]
    }

    /// Reads options; a key that is left out has its default.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        temperature = try values.decode(.temperature, or: temperature)
        topK = try values.decode(.topK, or: topK)
        topP = try values.decode(.topP, or: topP)
        minP = try values.decode(.minP, or: minP)
        typicalP = try values.decode(.typicalP, or: typicalP)
        xtcProbability = try values.decode(.xtcProbability, or: xtcProbability)
        xtcThreshold = try values.decode(.xtcThreshold, or: xtcThreshold)
        repetitionPenalty = try values.decode(.repetitionPenalty, or: repetitionPenalty)
        presencePenalty = try values.decode(.presencePenalty, or: presencePenalty)
        frequencyPenalty = try values.decode(.frequencyPenalty, or: frequencyPenalty)
        penaltyLastN = try values.decode(.penaltyLastN, or: penaltyLastN)
        dryMultiplier = try values.decode(.dryMultiplier, or: dryMultiplier)
        dryBase = try values.decode(.dryBase, or: dryBase)
        dryAllowedLength = try values.decode(.dryAllowedLength, or: dryAllowedLength)
        dryPenaltyLastN = try values.decode(.dryPenaltyLastN, or: dryPenaltyLastN)
        drySequenceBreakers = try values.decode(.drySequenceBreakers, or: drySequenceBreakers)
        let biases = try values.decode(.logitBias, or: [String: Bias]())
        for (id, bias) in biases {
            guard let id = UInt32(id) else {
                throw DecodingError.dataCorruptedError(
                    forKey: .logitBias, in: values, debugDescription: "\(id) is not a token id")
            }
            logitBias[id] = bias.value
        }
        seed = try values.decode(.seed, or: seed)
    }

    /// Writes all options, as JSON for the C interface.
    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(temperature, forKey: .temperature)
        try values.encode(topK, forKey: .topK)
        try values.encode(topP, forKey: .topP)
        try values.encode(minP, forKey: .minP)
        try values.encode(typicalP, forKey: .typicalP)
        try values.encode(xtcProbability, forKey: .xtcProbability)
        try values.encode(xtcThreshold, forKey: .xtcThreshold)
        try values.encode(repetitionPenalty, forKey: .repetitionPenalty)
        try values.encode(presencePenalty, forKey: .presencePenalty)
        try values.encode(frequencyPenalty, forKey: .frequencyPenalty)
        try values.encode(penaltyLastN, forKey: .penaltyLastN)
        try values.encode(dryMultiplier, forKey: .dryMultiplier)
        try values.encode(dryBase, forKey: .dryBase)
        try values.encode(dryAllowedLength, forKey: .dryAllowedLength)
        try values.encode(dryPenaltyLastN, forKey: .dryPenaltyLastN)
        try values.encode(drySequenceBreakers, forKey: .drySequenceBreakers)
        let biases = logitBias.map { (String($0.key), Bias(value: $0.value)) }
        try values.encode(Dictionary(uniqueKeysWithValues: biases), forKey: .logitBias)
        try values.encode(seed, forKey: .seed)
    }

    /// What is added to a logit. JSON has no infinity: a ban is `false`.
    private struct Bias: Codable {
        let value: Float

        init(value: Float) {
            self.value = value
        }

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if (try? container.decode(Bool.self)) == false {
                value = -.infinity
            } else {
                value = try container.decode(Float.self)
            }
        }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.singleValueContainer()
            if value == -.infinity {
                try container.encode(false)
            } else {
                try container.encode(value)
            }
        }
    }
}
