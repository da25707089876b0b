import MetalCandle
import TestSupport
import XCTest

/// Many calls at the same time, on one generator and on several.
final class ConcurrencyTests: XCTestCase {
    func testGenerationsOfOneGeneratorAreDoneInTheirOrder() async throws {
        let generator = try Generator(try await Model.load(from: tinyCoder, options: exact))
        let options = GenerateOptions(maxTokens: 1)
        // Each shares all but the last token of the one before it with it, and another number with others.
        let streams = (0..<20).map { place in
            let prompt = (0..<place).map { UInt32(100 + $0) } + [UInt32(1000 + place)]
            return generator.generate(.ids(prompt), options: options)
        }
        for (place, stream) in streams.enumerated() {
            let end = try await stream.end()
            XCTAssertEqual(end?.promptTokens, place + 1)
            XCTAssertEqual(end?.cachedTokens, max(place - 1, 0))
        }
    }

    func testCallsOfAllKindsWaitForEachOther() async throws {
        let generator = try Generator(try await Model.load(from: tinyCoder, options: exact))
        let options = GenerateOptions(maxTokens: 3)
        let counts = try await withThrowingTaskGroup(of: Int.self) { group in
            for index in 0..<24 {
                group.addTask {
                    switch index % 4 {
                    case 0: try await generator.generation(of: "fn main() {", options: options).tokens.count
                    case 1: try await generator.embed([5, 17]).count
                    case 2: try await generator.logprobs([5, 17, 42]).count
                    default: try await generator.fork().context.count >= 0 ? 1 : 0
                    }
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        XCTAssertEqual(counts.sorted(), ([1, 2, 3, 256] as [Int]).flatMap { Array(repeating: $0, count: 6) })
    }

    func testGeneratorsOfOneModelGiveWhatEachGivesAlone() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let prompts = try Reference.read().prompts
        try await withThrowingTaskGroup(of: Void.self) { group in
            for prompt in prompts + prompts {
                group.addTask {
                    let generation = try await Generator(model).generation(
                        of: .ids(prompt.inputIDs), options: GenerateOptions(maxTokens: 12))
                    XCTAssertEqual(generation.tokens, Array(prompt.greedyIDs.prefix(12)))
                }
            }
            try await group.waitForAll()
        }
    }

    func testAGeneratorMayBeLetGoOfWhileItsStreamRuns() async throws {
        func stream() async throws -> AsyncThrowingStream<Chunk, any Error> {
            let generator = try Generator(try await Model.load(from: tinyCoder, options: exact))
            return generator.generate("fn main() {", options: GenerateOptions(maxTokens: 20))
        }
        let end = try await stream().end()
        XCTAssertEqual(end?.tokens.count, 20)
        XCTAssertEqual(end?.finishReason, .length)
    }
}
