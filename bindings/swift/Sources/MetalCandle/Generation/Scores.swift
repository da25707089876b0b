internal import CMetalCandle

/// How the hidden states of the tokens of a text become one vector.
public enum Pooling: String, Codable, CaseIterable, Sendable {
    /// Their mean.
    case mean
    /// That of the last token, which alone has seen all of the text.
    case last

    var constant: mcandle_pooling {
        switch self {
        case .mean: .mean
        case .last: .last
        }
    }
}

/// How well a model predicts a text.
public struct Perplexity: Codable, Hashable, Sendable {
    /// The exponential of the mean negative log-likelihood of a token.
    public var perplexity: Double
    /// The sum of the negative log-likelihoods.
    public var sumNLL: Double
    /// How many tokens were scored.
    public var tokenCount: Int
}

/// Each reuses what the generator has read where the text starts with it, and forgets it else.
extension Generator {
    /// Gives the logits of the token that comes next, one for each id of the vocabulary.
    public func nextLogits(_ ids: [UInt32]) async throws -> [Float] {
        try await turns.run { [handle] in
            try floats { mcandle_generator_next_logits(handle.pointer, ids, ids.count, $0, $1) }
        }
    }

    /// Gives the natural logarithm of the probability of each token but the first, given those before it.
    public func logprobs(_ ids: [UInt32]) async throws -> [Float] {
        try await turns.run { [handle] in
            try floats { mcandle_generator_logprobs(handle.pointer, ids, ids.count, $0, $1) }
        }
    }

    /// Tells how well the model predicts a text that may be longer than its context.
    ///
    /// - Parameters:
    ///   - ids: The text.
    ///   - window: How many tokens are computed at once: from 2 to the context of the model.
    ///   - stride: How many of them are new in each window: from 1, fewer than the window.
    public func perplexity(_ ids: [UInt32], window: Int, stride: Int) async throws -> Perplexity {
        let window = try size(window, "window")
        let stride = try size(stride, "stride")
        return try await turns.run { [handle] in
            var perplexity = 0.0
            var sum = 0.0
            var count = 0
            try check {
                mcandle_generator_perplexity(
                    handle.pointer, ids, ids.count, window, stride, &perplexity, &sum, &count, $0)
            }
            return Perplexity(perplexity: perplexity, sumNLL: sum, tokenCount: count)
        }
    }

    /// Gives one vector for a text, which lies near those of texts that mean something alike.
    ///
    /// Models that were trained for it do it best; others give a usable one.
    ///
    /// - Parameters:
    ///   - ids: The text.
    ///   - pooling: How the hidden states become one vector.
    ///   - normalize: Whether the vector is scaled to length 1.
    public func embed(_ ids: [UInt32], pooling: Pooling = .mean, normalize: Bool = true) async throws -> [Float] {
        try await turns.run { [handle] in
            try floats {
                mcandle_generator_embed(handle.pointer, ids, ids.count, pooling.constant, normalize, $0, $1)
            }
        }
    }
}

extension Model {
    /// Gives one vector for each text, as ``Generator/embed(_:pooling:normalize:)`` does.
    public func embed(_ texts: [String], pooling: Pooling = .mean, normalize: Bool = true) async throws -> [[Float]] {
        let tokenizer = try tokenizer
        let generator = try Generator(self)
        var vectors: [[Float]] = []
        for text in texts {
            let ids = try await BlockingWork.run { try tokenizer.encode(text, addSpecialTokens: true) }
            vectors.append(try await generator.embed(ids, pooling: pooling, normalize: normalize))
        }
        return vectors
    }
}
