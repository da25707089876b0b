import MetalCandle
import TestSupport
import XCTest

final class GeneratorTests: XCTestCase {
    func testChunksMakeUpTheGeneration() async throws {
        let generator = try Generator(try await Model.load(from: tinyCoder, options: exact))
        var text = ""
        var count = 0
        var end: Generation?
        for try await chunk in generator.generate("fn main() {", options: GenerateOptions(maxTokens: 12)) {
            text += chunk.text
            switch chunk {
            case .token: count += 1
            case .end(let generation): end = generation
            }
        }
        let generation = try XCTUnwrap(end)
        XCTAssertEqual(generation.text, text)
        XCTAssertEqual(generation.tokens.count, 12)
        XCTAssertGreaterThanOrEqual(count, 12)
        XCTAssertEqual(generation.finishReason, .length)
    }

    func testASecondGenerationWaitsForOneThatWasLetGo() async throws {
        let generator = try Generator(try await Model.load(from: tinyCoder, options: exact))
        let options = GenerateOptions(maxTokens: 200)
        for try await _ in generator.generate("fn main() {", options: options) {
            break
        }
        let generation = try await generator.generation(of: "fn add(", options: GenerateOptions(maxTokens: 3))
        XCTAssertEqual(generation.tokens.count, 3)
    }

    func testChat() async throws {
        let session = try ChatSession(try await Model.load(from: tinyCoder), options: GenerateOptions(maxTokens: 8))
        let answer = try await session.respond(to: "Reverse a string in Rust.")
        let messages = await session.messages
        XCTAssertEqual(messages, [.user("Reverse a string in Rust."), .assistant(answer)])
    }
}
