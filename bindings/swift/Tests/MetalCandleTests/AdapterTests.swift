import MetalCandle
import TestSupport
import XCTest

/// The reference of an adapter that PEFT made: the logits after a prompt with it, and tokens with it merged.
private struct AdapterReference: Decodable {
    struct Prompt: Decodable {
        var inputIDs: [UInt32]
        var logits: Reference.Logits
        var mergedGreedy: [UInt32]

        private enum CodingKeys: String, CodingKey {
            case inputIDs = "input_ids"
            case logits = "adapter_logits"
            case mergedGreedy = "merged_greedy16"
        }
    }

    var prompts: [Prompt]
}

final class AdapterTests: XCTestCase {
    private let folder = repository.appending(path: "tests/fixtures/lora/nonzero_b")

    private func reference() throws -> AdapterReference {
        let data = try Data(contentsOf: folder.appending(path: "expected.json"))
        return try JSONDecoder().decode(AdapterReference.self, from: data)
    }

    func testAnAdapterGivesTheLogitsOfTheReference() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let adapter = try await Adapter.load(from: folder, for: model)
        XCTAssertGreaterThan(adapter.parameterCount, 0)
        XCTAssertGreaterThan(adapter.rank, 0)
        let generator = try Generator(model)
        for prompt in try reference().prompts {
            let plain = try await generator.nextLogits(prompt.inputIDs)
            try await generator.setAdapter(adapter)
            let logits = try await generator.nextLogits(prompt.inputIDs)
            for (id, expected) in zip(prompt.logits.ids, prompt.logits.values) {
                XCTAssertEqual(logits[Int(id)], expected, accuracy: 1e-3)
            }
            try await generator.setAdapter(nil)
            let without = try await generator.nextLogits(prompt.inputIDs)
            XCTAssertEqual(without, plain)
            XCTAssertNotEqual(without, logits)
        }
    }

    func testAFusedModelGivesTheTokensOfTheReference() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let fused = try await model.fused(with: try await Adapter.load(from: folder, for: model))
        for prompt in try reference().prompts {
            let generation = try await Generator(fused).generation(
                of: .ids(prompt.inputIDs), options: GenerateOptions(maxTokens: prompt.mergedGreedy.count))
            XCTAssertEqual(generation.tokens, prompt.mergedGreedy)
        }
    }

    func testASavedAdapterIsTheSameInBothFormats() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let adapter = try await Adapter.load(from: folder, for: model)
        let ids = try XCTUnwrap(try reference().prompts.first).inputIDs
        let generator = try Generator(model)
        try await generator.setAdapter(adapter)
        let expected = try await generator.nextLogits(ids)
        try await withTemporaryFolder { folder in
            for format in Adapter.Format.allCases {
                let saved = folder.appending(path: format.rawValue)
                try await adapter.save(to: saved, format: format)
                try await generator.setAdapter(try await Adapter.load(from: saved, for: model))
                let logits = try await generator.nextLogits(ids)
                XCTAssertEqual(logits, expected)
            }
        }
    }

    func testAnAdapterOfAnotherModelIsRefused() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let other = try await Model.load(from: smallQwen, options: exact)
        let error = await thrown { try await Adapter.load(from: folder, for: other) }
        XCTAssertEqual((error as? MetalCandleError)?.statusName, "MCANDLE_INCOMPATIBLE")
        let adapter = try await Adapter.load(from: folder, for: model)
        let set = await thrown { try await Generator(other).setAdapter(adapter) }
        XCTAssertEqual((set as? MetalCandleError)?.statusName, "MCANDLE_INVALID_ARGUMENT")
        let missing = await thrown { try await Adapter.load(from: URL(filePath: "/nowhere"), for: model) }
        XCTAssertEqual((missing as? MetalCandleError)?.statusName, "MCANDLE_NOT_FOUND")
    }
}
