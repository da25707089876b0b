import MetalCandle
import TestSupport
import XCTest

final class StructuredOutputTests: XCTestCase {
    private struct Point: Decodable, Equatable {
        var z: Bool
        var a: String
    }

    private let schema: JSON = [
        "type": "object",
        "properties": ["z": ["type": "boolean"], "a": ["type": "string", "maxLength": 5]],
        "required": ["z", "a"],
        "additionalProperties": false,
    ]

    private func generator() async throws -> Generator {
        try Generator(try await Model.load(from: tinyCoder, options: exact))
    }

    func testOutputIsDecoded() async throws {
        let generator = try await generator()
        let point = try await generator.generate(
            Point.self, from: "{", schema: schema, options: GenerateOptions(maxTokens: 60))
        XCTAssertLessThanOrEqual(point.a.unicodeScalars.count, 5)
    }

    func testKeysComeInTheOrderOfTheSchema() async throws {
        let generator = try await generator()
        let options = GenerateOptions(maxTokens: 60, grammar: .jsonSchema(schema))
        let text = try await generator.generation(of: "{", options: options).text
        let (z, a) = (try XCTUnwrap(text.range(of: "\"z\"")), try XCTUnwrap(text.range(of: "\"a\"")))
        XCTAssertLessThan(z.lowerBound, a.lowerBound, text)
    }

    func testOutputThatIsCompleteWithItsLastTokenIsComplete() async throws {
        let generator = try await generator()
        var options = GenerateOptions(maxTokens: 60, grammar: .jsonSchema(schema))
        let generation = try await generator.generation(of: "{", options: options)
        XCTAssertEqual(generation.finishReason, .stop)
        options.maxTokens = generation.tokens.count
        let point = try await generator.generate(Point.self, from: "{", schema: schema, options: options)
        XCTAssertEqual(point, try JSONDecoder().decode(Point.self, from: Data(generation.text.utf8)))
    }

    func testOutputThatEndsBeforeIsIncomplete() async throws {
        let generator = try await generator()
        let error = await thrown {
            try await generator.generate(
                Point.self, from: "{", schema: schema, options: GenerateOptions(maxTokens: 2))
        }
        let incomplete = try XCTUnwrap(error as? IncompleteOutput)
        XCTAssertEqual(incomplete.generation.finishReason, .length)
        XCTAssertEqual(incomplete.generation.tokens.count, 2)
        XCTAssertTrue(incomplete.localizedDescription.contains("2 tokens"), incomplete.localizedDescription)
    }

    func testASchemaThatAllowsWhatTheTypeDoesNotIsADecodingError() async throws {
        let generator = try await generator()
        let error = await thrown {
            try await generator.generate(Int.self, from: "x = ", schema: ["type": "boolean"])
        }
        XCTAssertTrue(error is DecodingError, String(describing: error))
    }

    func testExpressionsAndGrammarsHold() async throws {
        let generator = try await generator()
        let digits = try await generator.generation(
            of: "x = ", options: GenerateOptions(maxTokens: 20, grammar: .regex("[0-9]{3}")))
        XCTAssertEqual(digits.text.count, 3)
        XCTAssertNotNil(Int(digits.text))
        let lark = try await generator.generation(
            of: "x = ", options: GenerateOptions(maxTokens: 20, grammar: .lark("start: \"yes\" | \"no\"")))
        XCTAssertTrue(["yes", "no"].contains(lark.text), lark.text)
    }
}
