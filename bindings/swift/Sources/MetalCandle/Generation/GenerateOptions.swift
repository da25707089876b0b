internal import CMetalCandle
internal import Foundation

/// How a text is continued, and when it ends.
///
/// The defaults are those of the C interface. Options are written to and read from the same JSON as there.
public struct GenerateOptions: Codable, Hashable, Sendable {
    /// The most tokens that are generated.
    public var maxTokens = 256
    /// The fewest tokens that are generated before the model may end the text.
    public var minTokens = 0
    /// How the next token is chosen.
    public var sampling = SamplingOptions()
    /// Texts that end the generation, and are not part of it.
    public var stop: [String] = []
    /// Token ids that end the generation beside those of the model.
    public var stopTokenIDs: [UInt32] = []
    /// Goes on where the model would end the text.
    public var ignoreEOS = false
    /// What the output must conform to.
    public var grammar: Grammar?
    /// The most seconds that a generation takes, its prompt included.
    public var maxTime: Double?
    /// How many of the likeliest tokens come with each token, with their log-probabilities; at most 100.
    public var topLogprobs = 0
    /// Leaves tokens such as that of the end of a text out of the text.
    public var skipSpecialTokens = true
    /// How many tokens of a prompt are computed at once.
    public var prefillChunk = 512
    /// The most tokens that are kept as context, or `nil` for what the model can take into account.
    public var maxKVSize: Int?
    /// The most bytes that the keys and values of the context take, at least those of 256 tokens, or `nil` for no
    /// bound.
    public var maxKVBytes: UInt64?
    /// Where the context is full, forgets its oldest half and goes on.
    public var contextShift = false
    /// How many tokens at the start are not forgotten then.
    public var keep = 4
    /// How many tokens are drafted at once from the text so far, where its last tokens came before: what followed
    /// them there; 0 for none. Drafts change the speed, not the text. With a draft model there are none of these.
    public var promptLookupNumTokens = 0
    /// How many tokens are drafted at once by a draft model.
    public var numDraftTokens = 3

    /// Makes options with the defaults.
    public init() {}

    /// Makes options with what is most often set.
    public init(
        maxTokens: Int = 256, sampling: SamplingOptions = SamplingOptions(), stop: [String] = [],
        grammar: Grammar? = nil
    ) {
        self.maxTokens = maxTokens
        self.sampling = sampling
        self.stop = stop
        self.grammar = grammar
    }

    private enum CodingKeys: String, CodingKey {
        case maxTokens = "max_tokens"
        case minTokens = "min_tokens"
        case sampling, stop
        case stopTokenIDs = "stop_token_ids"
        case ignoreEOS = "ignore_eos"
        case grammar
        case maxTime = "max_time"
        case topLogprobs = "top_logprobs"
        case skipSpecialTokens = "skip_special_tokens"
        case prefillChunk = "prefill_chunk"
        case maxKVSize = "max_kv_size"
        case maxKVBytes = "max_kv_bytes"
        case contextShift = "context_shift"
        case keep
        case promptLookupNumTokens = "prompt_lookup_num_tokens"
        case numDraftTokens = "num_draft_tokens"
    }

    /// Reads options; a key that is left out has its default.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        maxTokens = try values.decode(.maxTokens, or: maxTokens)
        minTokens = try values.decode(.minTokens, or: minTokens)
        sampling = try values.decode(.sampling, or: sampling)
        stop = try values.decode(.stop, or: stop)
        stopTokenIDs = try values.decode(.stopTokenIDs, or: stopTokenIDs)
        ignoreEOS = try values.decode(.ignoreEOS, or: ignoreEOS)
        grammar = try values.decode(.grammar, or: grammar)
        maxTime = try values.decode(.maxTime, or: maxTime)
        topLogprobs = try values.decode(.topLogprobs, or: topLogprobs)
        skipSpecialTokens = try values.decode(.skipSpecialTokens, or: skipSpecialTokens)
        prefillChunk = try values.decode(.prefillChunk, or: prefillChunk)
        maxKVSize = try values.decode(.maxKVSize, or: maxKVSize)
        maxKVBytes = try values.decode(.maxKVBytes, or: maxKVBytes)
        contextShift = try values.decode(.contextShift, or: contextShift)
        keep = try values.decode(.keep, or: keep)
        promptLookupNumTokens = try values.decode(.promptLookupNumTokens, or: promptLookupNumTokens)
        numDraftTokens = try values.decode(.numDraftTokens, or: numDraftTokens)
    }

    func handle() throws -> Handle {
        try checkCounts()
        let options = try optionsHandle(
            self, free: mcandle_generate_options_free, mcandle_generate_options_from_json)
        // Encoders do not keep the order of a schema's keys, which that of the output follows.
        if case .jsonSchema(let schema) = grammar {
            try withText(schema.text) { text, length in
                try check { mcandle_generate_options_set_json_schema(options.pointer, text, length, $0) }
            }
        }
        return options
    }

    /// The library reads counts without a sign, and would not say which one has it.
    private func checkCounts() throws {
        let counts = [
            (CodingKeys.maxTokens.rawValue, maxTokens),
            (CodingKeys.minTokens.rawValue, minTokens),
            (CodingKeys.topLogprobs.rawValue, topLogprobs),
            (CodingKeys.prefillChunk.rawValue, prefillChunk),
            (CodingKeys.maxKVSize.rawValue, maxKVSize ?? 0),
            (CodingKeys.keep.rawValue, keep),
            (CodingKeys.promptLookupNumTokens.rawValue, promptLookupNumTokens),
            (CodingKeys.numDraftTokens.rawValue, numDraftTokens),
        ]
        for (name, count) in counts + sampling.counts {
            _ = try size(count, name)
        }
    }
}

/// What generated text must conform to.
public enum Grammar: Hashable, Sendable {
    /// JSON that conforms to a JSON schema, with its keys in the order of the schema.
    case jsonSchema(JSON)
    /// Text that a regular expression matches as a whole, in the syntax of Rust's `regex`.
    case regex(String)
    /// Text of a grammar in the syntax of Lark.
    case lark(String)
}

extension Grammar: Codable {
    private enum CodingKeys: String, CodingKey {
        case jsonSchema = "json_schema"
        case regex, lark
    }

    /// Reads an object with one of the keys `json_schema`, `regex` and `lark`.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        if let schema = try values.decodeIfPresent(JSON.self, forKey: .jsonSchema) {
            self = .jsonSchema(schema)
        } else if let regex = try values.decodeIfPresent(String.self, forKey: .regex) {
            self = .regex(regex)
        } else {
            self = .lark(try values.decode(String.self, forKey: .lark))
        }
    }

    /// Writes an object with one key.
    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        switch self {
        case .jsonSchema(let schema): try values.encode(schema, forKey: .jsonSchema)
        case .regex(let regex): try values.encode(regex, forKey: .regex)
        case .lark(let lark): try values.encode(lark, forKey: .lark)
        }
    }
}
