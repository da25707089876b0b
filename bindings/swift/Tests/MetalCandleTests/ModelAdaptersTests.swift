import MetalCandle
import TestSupport
import XCTest

/// The adapters of a model by name: loaded, listed, weighed, switched.
final class ModelAdaptersTests: XCTestCase {
    private let style = repository.appending(path: "tests/fixtures/lora/nonzero_b")
    private let names = repository.appending(path: "tests/fixtures/mlx/lora_adapter")

    private func tokens(_ model: Model) async throws -> [UInt32] {
        try await Generator(model).generation(of: "fn main() {", options: GenerateOptions(maxTokens: 4)).tokens
    }

    private func refused(_ part: String, _ call: () async throws -> Void, line: UInt = #line) async {
        do {
            try await call()
            XCTFail("it was accepted", line: line)
        } catch MetalCandleError.invalidArgument(let message) {
            XCTAssert(message.contains(part), message, line: line)
        } catch {
            XCTFail("\(error)", line: line)
        }
    }

    func testWhatIsActiveChangesWhatIsGenerated() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let plain = try await tokens(model)
        try await model.loadAdapter(named: "style", from: style)
        try await model.addAdapter(Adapter.load(from: names, for: model), named: "names")
        let inactive = try await tokens(model)
        XCTAssertEqual(inactive, plain)

        var texts = [plain]
        for active in [["style"], ["names"], ["style", "names"]] {
            try await model.setActiveAdapters(active)
            XCTAssertEqual(try model.adapters.filter(\.isActive).map(\.name), active.sorted())
            let changed = try await tokens(model)
            XCTAssertFalse(texts.contains(changed))
            texts.append(changed)
        }
        try await model.setActiveAdapters([])
        let back = try await tokens(model)
        XCTAssertEqual(back, plain)

        try await model.activateAdapter(named: "names")
        let activated = try await tokens(model)
        XCTAssertEqual(activated, texts[2])
        try await model.setAdapterWeight(0, named: "names")
        let weightless = try await tokens(model)
        XCTAssertEqual(weightless, plain)
        try await model.setAdapterWeight(1, named: "names")
        try await model.deactivateAdapter(named: "names")
        let deactivated = try await tokens(model)
        XCTAssertEqual(deactivated, plain)
    }

    func testTheyAreListed() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        XCTAssertEqual(try model.adapters, [])
        let adapter = try await Adapter.load(from: style, for: model)
        try await model.addAdapter(adapter, named: "style 🎨")
        try await model.loadAdapter(named: "names", from: names)
        try await model.setAdapterWeight(-0.5, named: "names")
        try await model.activateAdapter(named: "style 🎨")
        let listed = try model.adapters
        XCTAssertEqual(listed.map(\.name), ["names", "style 🎨"])
        XCTAssertEqual(listed.map(\.isActive), [false, true])
        XCTAssertEqual(listed.map(\.weight), [-0.5, 1])
        XCTAssertEqual(listed[1].rank, adapter.rank)
        XCTAssertEqual(listed[1].parameterCount, adapter.parameterCount)
        XCTAssertFalse(listed[1].usesDoRA)

        // An adapter outlives its place.
        let kept = try model.adapter(named: "names")
        try await model.unloadAdapter(named: "names")
        XCTAssertEqual(try model.adapters.map(\.name), ["style 🎨"])
        let generator = try Generator(model)
        try await generator.setAdapter(kept)
        XCTAssertEqual(kept.rank, listed[0].rank)
    }

    func testNamesThatAreTakenUnknownOrNoneAreRefused() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        try await model.loadAdapter(named: "style", from: style)
        await refused("style") { try await model.loadAdapter(named: "style", from: self.style) }
        await refused("name") { try await model.loadAdapter(named: "", from: self.style) }
        await refused("NUL") { try await model.loadAdapter(named: "a\0b", from: self.style) }
        await refused("NUL") { try await model.setActiveAdapters(["style", "a\0b"]) }
        await refused("other") { try await model.setActiveAdapters(["style", "other"]) }
        await refused("other") { try await model.activateAdapter(named: "other") }
        await refused("other") { try await model.deactivateAdapter(named: "other") }
        await refused("other") { try await model.unloadAdapter(named: "other") }
        await refused("other") { try await model.setAdapterWeight(1, named: "other") }
        await refused("weight") { try await model.setAdapterWeight(.nan, named: "style") }
        await refused("other") { _ = try model.adapter(named: "other") }
        XCTAssertEqual(try model.adapters.map(\.isActive), [false])
    }
}
