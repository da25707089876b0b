import Foundation

/// What transformers gives for the model that the tests use.
public struct Reference: Decodable, Sendable {
    public var prompts: [Prompt]
    public var perplexity: Perplexity

    public struct Prompt: Decodable, Sendable {
        public var text: String
        public var inputIDs: [UInt32]
        public var greedyIDs: [UInt32]
        public var greedyLogprobs: [Float]
        public var lastLogits: Logits

        private enum CodingKeys: String, CodingKey {
            case text
            case inputIDs = "input_ids"
            case greedyIDs = "greedy_ids"
            case greedyLogprobs = "greedy_logprobs"
            case lastLogits = "last_logits"
        }
    }

    /// The logits of the token after a prompt: the likeliest ids.
    public struct Logits: Decodable, Sendable {
        public var ids: [UInt32]
        public var values: [Float]

        private enum CodingKeys: String, CodingKey {
            case ids = "top20_ids"
            case values = "top20_values"
        }
    }

    public struct Perplexity: Decodable, Sendable {
        public var inputIDs: [UInt32]
        public var sumNLL: Double
        public var perplexity: Double
        public var scoredTokens: Int

        private enum CodingKeys: String, CodingKey {
            case inputIDs = "input_ids"
            case sumNLL = "sum_nll"
            case perplexity
            case scoredTokens = "scored_tokens"
        }
    }

    /// Reads it from the fixtures of the repository.
    public static func read() throws -> Reference {
        let file = repository.appending(path: "tests/fixtures/tiny_coder/expected.json")
        return try JSONDecoder().decode(Reference.self, from: Data(contentsOf: file))
    }
}
