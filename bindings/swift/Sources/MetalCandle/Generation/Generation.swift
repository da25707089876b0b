internal import CMetalCandle

/// What comes from a generation: its tokens, and last the whole of it.
///
/// ```swift
/// for try await chunk in generator.generate("fn main() {") {
///     print(chunk.text, terminator: "")
/// }
/// ```
public enum Chunk: Hashable, Sendable {
    /// A token.
    case token(Token)
    /// The end: all that was generated, and what it took. It comes once, and last.
    case end(Generation)

    /// The text that this chunk adds; empty at the end.
    public var text: String {
        if case .token(let token) = self { token.text } else { "" }
    }

    /// One generated token.
    ///
    /// Where text was held back at the end, because it might have become a stop string or the bytes of a
    /// character never came, one more repeats the last token with it.
    public struct Token: Codable, Hashable, Sendable {
        /// Its place among the generated tokens, from 0.
        public var index: Int
        /// Its id.
        public var id: UInt32
        /// The text that it adds, of whole characters; empty where they are not complete yet.
        public var text: String
        /// The natural logarithm of its probability by the model, before any option of sampling.
        public var logprob: Float
        /// The likeliest tokens in its place, the likeliest first, as many as
        /// ``GenerateOptions/topLogprobs`` asks for.
        public var topLogprobs: [TopLogprob]

        /// A token that was possible.
        public struct TopLogprob: Codable, Hashable, Sendable {
            /// Its id.
            public var id: UInt32
            /// The natural logarithm of its probability by the model.
            public var logprob: Float
        }

        init(_ chunk: OpaquePointer) {
            index = mcandle_chunk_index(chunk)
            id = mcandle_chunk_token(chunk)
            text = MetalCandle.text { mcandle_chunk_text(chunk, $0) }
            logprob = mcandle_chunk_logprob(chunk)
            let ids = array { mcandle_chunk_top_tokens(chunk, $0) }
            let logprobs = array { mcandle_chunk_top_logprobs(chunk, $0) }
            topLogprobs = zip(ids, logprobs).map { TopLogprob(id: $0, logprob: $1) }
        }
    }
}

/// A finished generation.
public struct Generation: Codable, Hashable, Sendable {
    /// All text, without the stop string; empty where the model has no tokenizer.
    public var text: String
    /// The ids of all tokens, without the one that ended the text; those of a stop string are among them.
    public var tokens: [UInt32]
    /// The natural logarithms of their probabilities by the model.
    public var logprobs: [Float]
    /// How many tokens the prompt has.
    public var promptTokens: Int
    /// How many of them had been read before, and cost nothing.
    public var cachedTokens: Int
    /// The seconds until the first token.
    public var timeToFirstToken: Double
    /// The tokens after the first, by the time after the first; 0 where there is none.
    public var tokensPerSecond: Double
    /// Why it ended.
    public var finishReason: FinishReason
    /// The stop string that was generated, where one was.
    public var stopString: String?
    /// How many tokens were drafted.
    public var draftedTokens: Int
    /// How many of them were right.
    public var acceptedTokens: Int

    init(_ generation: OpaquePointer) throws {
        text = MetalCandle.text { mcandle_generation_text(generation, $0) }
        tokens = array { mcandle_generation_tokens(generation, $0) }
        logprobs = array { mcandle_generation_logprobs(generation, $0) }
        promptTokens = mcandle_generation_prompt_tokens(generation)
        cachedTokens = mcandle_generation_cached_tokens(generation)
        timeToFirstToken = mcandle_generation_time_to_first_token(generation)
        tokensPerSecond = mcandle_generation_tokens_per_second(generation)
        finishReason = try FinishReason(mcandle_generation_finish_reason(generation))
        stopString =
            finishReason == .stopString ? MetalCandle.text { mcandle_generation_stop_string(generation, $0) } : nil
        draftedTokens = mcandle_generation_drafted_tokens(generation)
        acceptedTokens = mcandle_generation_accepted_tokens(generation)
    }
}

/// Why a generation ended.
public enum FinishReason: String, Codable, CaseIterable, Sendable {
    /// The model ended the text.
    case stop
    /// The most tokens were generated.
    case length
    /// It was cancelled.
    case cancelled
    /// A stop string was generated.
    case stopString = "stop_string"
    /// The context is full.
    case contextFull = "context_full"
    /// The time is over.
    case timeLimit = "time_limit"

    init(_ constant: mcandle_finish_reason) throws {
        switch constant {
        case .stop: self = .stop
        case .length: self = .length
        case .cancelled: self = .cancelled
        case .stopString: self = .stopString
        case .contextFull: self = .contextFull
        case .timeLimit: self = .timeLimit
        @unknown default: throw MetalCandleError.internal("a generation ended for reason \(constant.rawValue)")
        }
    }
}
