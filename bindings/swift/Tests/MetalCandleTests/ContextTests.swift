import MetalCandle
import TestSupport
import XCTest

/// What a generator keeps, forks, saves and forgets, and what it tells of texts.
final class ContextTests: XCTestCase {
    private func generator(cacheType: CacheType = .full) async throws -> Generator {
        try Generator(try await Model.load(from: tinyCoder, options: exact), cacheType: cacheType)
    }

    private let options = GenerateOptions(maxTokens: 6)

    func testTheContextIsWhatWasReadAndCanBeForgotten() async throws {
        let generator = try await generator()
        let empty = try await generator.context
        XCTAssertEqual(empty, [])
        let prompt = try Reference.read().prompts[0]
        let generation = try await generator.generation(of: .ids(prompt.inputIDs), options: options)
        let context = try await generator.context
        XCTAssertEqual(context, prompt.inputIDs + generation.tokens.dropLast())
        try await generator.truncate(to: 10)
        let start = try await generator.context
        XCTAssertEqual(start, Array(prompt.inputIDs.prefix(10)))
        let again = try await generator.generation(of: .ids(prompt.inputIDs), options: options)
        XCTAssertEqual(again.tokens, generation.tokens)
        XCTAssertEqual(again.cachedTokens, 10)
        try await generator.truncate(to: 0)
        let nothing = try await generator.context
        XCTAssertEqual(nothing, [])
        let error = await thrown { try await generator.truncate(to: -1) }
        XCTAssertEqual(error as? MetalCandleError, .invalidArgument("length is -1, expected at least 0"))
    }

    func testAForkGoesItsOwnWay() async throws {
        let generator = try await generator()
        let prompt = try Reference.read().prompts[0].inputIDs
        _ = try await generator.generation(of: .ids(prompt), options: options)
        let before = try await generator.context
        let fork = try await generator.fork()
        let ofFork = try await fork.context
        XCTAssertEqual(ofFork, before)
        let further = try await fork.generation(of: .ids(before + [5]), options: options)
        XCTAssertEqual(further.cachedTokens, before.count)
        let after = try await generator.context
        XCTAssertEqual(after, before)
    }

    func testASavedSessionGoesOn() async throws {
        let generator = try await generator()
        let prompt = try Reference.read().prompts[0].inputIDs
        let generation = try await generator.generation(of: .ids(prompt), options: options)
        try await withTemporaryFolder { folder in
            let file = folder.appending(path: "session é")
            try await generator.saveSession(to: file)
            let other = try Generator(generator.model)
            try await other.loadSession(from: file)
            let (saved, loaded) = (try await generator.context, try await other.context)
            XCTAssertEqual(loaded, saved)
            let again = try await other.generation(of: .ids(prompt), options: options)
            XCTAssertEqual(again.tokens, generation.tokens)
            XCTAssertGreaterThanOrEqual(again.cachedTokens, prompt.count - 1)

            let another = try await Model.load(from: smallQwen, options: exact)
            let incompatible = await thrown { try await Generator(another).loadSession(from: file) }
            XCTAssertEqual((incompatible as? MetalCandleError)?.statusName, "MCANDLE_INCOMPATIBLE")
            let missing = folder.appending(path: "missing")
            guard
                case MetalCandleError.notFound(let message)? = await thrown({
                    try await other.loadSession(from: missing)
                })
            else {
                return XCTFail("it was loaded")
            }
            XCTAssertTrue(message.contains(missing.path), message)
        }
    }

    func testACacheOfEightBitsGenerates() async throws {
        let generation = try await generator(cacheType: .int8).generation(of: "fn main() {", options: options)
        XCTAssertEqual(generation.tokens.count, 6)
    }

    func testPerplexityIsThatOfTheReference() async throws {
        let generator = try await generator()
        let reference = try Reference.read().perplexity
        let found = try await generator.perplexity(reference.inputIDs, window: 1024, stride: 512)
        XCTAssertEqual(found.perplexity, reference.perplexity, accuracy: 1e-3)
        XCTAssertEqual(found.sumNLL, reference.sumNLL, accuracy: 0.05)
        XCTAssertEqual(found.tokenCount, reference.scoredTokens)
        let error = await thrown { try await generator.perplexity([1, 2], window: -1, stride: 1) }
        XCTAssertEqual((error as? MetalCandleError)?.statusName, "MCANDLE_INVALID_ARGUMENT")
    }

    func testLogprobsAndLogitsAreThoseOfTheReference() async throws {
        let generator = try await generator()
        let prompt = try Reference.read().prompts[0]
        let ids = prompt.inputIDs + prompt.greedyIDs
        let logprobs = try await generator.logprobs(ids)
        XCTAssertEqual(logprobs.count, ids.count - 1)
        for (found, expected) in zip(logprobs.suffix(prompt.greedyIDs.count), prompt.greedyLogprobs) {
            XCTAssertEqual(found, expected, accuracy: 1e-3)
        }
        let logits = try await generator.nextLogits(prompt.inputIDs)
        XCTAssertEqual(logits.count, generator.model.vocabularySize)
        for (id, expected) in zip(prompt.lastLogits.ids, prompt.lastLogits.values) {
            XCTAssertEqual(logits[Int(id)], expected, accuracy: 1e-3)
        }
    }

    func testEmbeddingsOfLikeTextsLieNear() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let texts = [
            "fn add(a: i32, b: i32) -> i32 { a + b }", "fn sum(x: i32, y: i32) -> i32 { x + y }",
            "SELECT name FROM users;",
        ]
        for pooling in Pooling.allCases {
            let vectors = try await model.embed(texts, pooling: pooling)
            XCTAssertEqual(vectors.count, 3)
            for vector in vectors {
                XCTAssertEqual(vector.count, 256)
                XCTAssertEqual(zip(vector, vector).map(*).reduce(0, +), 1, accuracy: 1e-4)
            }
            let alike = zip(vectors[0], vectors[1]).map(*).reduce(0, +)
            let apart = zip(vectors[0], vectors[2]).map(*).reduce(0, +)
            XCTAssertGreaterThan(alike, apart)
        }
        let long = try await model.embed([texts[0]], normalize: false)
        XCTAssertNotEqual(zip(long[0], long[0]).map(*).reduce(0, +), 1, accuracy: 1e-2)
        let none = try await model.embed([])
        XCTAssertEqual(none, [])
    }
}
