import Foundation
import MetalCandle
import Synchronization
import TestSupport
import Testing

/// Records what it is told, and may act on it.
private final class RecordingProgress: Progress, @unchecked Sendable {
    // Sound, as what it adds is under a lock.
    private let record = Mutex<[Int64]>([])
    private let onUpdate: @Sendable (RecordingProgress, Int) -> Void

    init(onUpdate: @escaping @Sendable (RecordingProgress, Int) -> Void = { _, _ in }) {
        self.onUpdate = onUpdate
        super.init(parent: nil, userInfo: nil)
    }

    var all: [Int64] { record.withLock(\.self) }

    override var completedUnitCount: Int64 {
        get { super.completedUnitCount }
        set {
            super.completedUnitCount = newValue
            let count = record.withLock { record in
                record.append(newValue)
                return record.count
            }
            onUpdate(self, count)
        }
    }
}

/// The message of an error, by its case.
private func notFound(_ error: (any Error)?) -> String? {
    if case MetalCandleError.notFound(let message)? = error { message } else { nil }
}

private func invalidArgument(_ error: (any Error)?) -> String? {
    if case MetalCandleError.invalidArgument(let message)? = error { message } else { nil }
}

private func greedy(_ model: Model, _ prompt: Prompt = "fn main() {", count: Int = 12) async throws -> [UInt32] {
    try await Generator(model).generation(of: prompt, options: GenerateOptions(maxTokens: count)).tokens
}

@Suite(.timeLimit(.minutes(1))) struct LoadTests {
    @Test func aModelKnowsWhatItIs() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        #expect(model.parameterCount == 6_297_856)
        #expect(model.contextLength == 2048)
        #expect(model.vocabularySize == 6144)
        #expect(model.device == .cpu)
        #expect(model.dtype == .f32)
        #expect(!model.isQuantized)
        #expect(model.hasChatTemplate)
        #expect(try !model.summary.isEmpty)
        try await model.warmUp()
    }

    @Test func progressRisesToItsTotal() async throws {
        let progress = RecordingProgress()
        _ = try await Model.load(from: tinyCoder, options: exact, progress: progress)
        #expect(progress.totalUnitCount > 10_000_000)
        #expect(progress.completedUnitCount == progress.totalUnitCount)
        #expect(progress.fractionCompleted == 1)
        #expect(progress.isFinished)
        #expect(progress.all.count > 10)
        #expect(progress.all == progress.all.sorted())
    }

    @Test func cancellingTheProgressCancelsTheLoading() async throws {
        let progress = RecordingProgress { progress, count in
            if count == 3 {
                progress.cancel()
            }
        }
        let error = await thrown { try await Model.load(from: tinyCoder, options: exact, progress: progress) }
        guard case MetalCandleError.cancelled? = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(progress.all.count == 3)
        let before = Progress(totalUnitCount: 1)
        before.cancel()
        let second = await thrown { try await Model.load(from: tinyCoder, progress: before) }
        #expect((second as? MetalCandleError)?.statusName == "MCANDLE_CANCELLED")
    }

    @Test func cancellingTheTaskCancelsTheLoading() async throws {
        let task = Mutex<Task<Model, any Error>?>(nil)
        let progress = RecordingProgress { _, count in
            if count == 3 {
                task.withLock { $0?.cancel() }
            }
        }
        let loading = task.withLock { task in
            let loading = Task { try await Model.load(from: tinyCoder, options: exact, progress: progress) }
            task = loading
            return loading
        }
        let result = await loading.result
        #expect(throws: CancellationError.self) { try result.get() }
        #expect(progress.all.count == 3)
    }

    @Test func aTaskThatIsCancelledBeforeLoadsNothing() async {
        let progress = RecordingProgress()
        let task = Task {
            withUnsafeCurrentTask { $0?.cancel() }
            return try await Model.load(from: tinyCoder, options: exact, progress: progress)
        }
        let result = await task.result
        #expect(throws: CancellationError.self) { try result.get() }
        #expect(progress.all.isEmpty)
    }

    /// More loads than there are processors stand still until a plain task lets them go on.
    @Test func loadsLeaveTheCooperativePoolFree() async throws {
        let gate = DispatchSemaphore(value: 0)
        let count = ProcessInfo.processInfo.activeProcessorCount * 2 + 2
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<count {
                group.addTask {
                    let progress = RecordingProgress { _, count in
                        if count == 1 {
                            gate.wait()
                        }
                    }
                    _ = try await Model.load(from: tinyCoder, options: exact, progress: progress)
                }
            }
            await Task {}.value
            for _ in 0..<count {
                gate.signal()
            }
            try await group.waitForAll()
        }
    }
}

@Suite(.timeLimit(.minutes(1))) struct LoadErrorTests {
    @Test func aMissingModelIsNamed() async throws {
        let error = await thrown { try await Model.load(from: URL(filePath: "/nowhere/at/all")) }
        #expect(notFound(error)?.contains("/nowhere/at/all") == true)
    }

    @Test func aFolderWithoutAConfigurationIsNamed() async throws {
        try await withTemporaryFolder { folder in
            let weights = folder.appending(path: "model.safetensors")
            try FileManager.default.copyItem(at: tinyCoder.appending(path: "model.safetensors"), to: weights)
            let error = await thrown { try await Model.load(from: folder) }
            #expect(notFound(error)?.contains(folder.appending(path: "config.json").path) == true)
        }
    }

    @Test func damagedWeightsAreNamed() async throws {
        try await withTemporaryFolder { folder in
            let model = folder.appending(path: "a model é")
            try FileManager.default.copyItem(at: tinyCoder, to: model)
            #expect(try await Model.load(from: model, options: exact).vocabularySize == 6144)
            let weights = model.appending(path: "model.safetensors")
            try Data("damaged".utf8).write(to: weights)
            let error = await thrown { try await Model.load(from: model) }
            guard case MetalCandleError.invalidFormat(let message)? = error else {
                Issue.record("\(String(describing: error))")
                return
            }
            #expect(message.contains(weights.path))
        }
    }

    @Test(arguments: ["https://example.invalid/model", "model", "data:,x"])
    func aURLThatIsNoFileIsRefused(text: String) async throws {
        let url = try #require(URL(string: text))
        let error = await thrown { try await Model.load(from: url) }
        #expect(invalidArgument(error)?.contains(text) == true)
    }

    @Test func aPathThatCCannotReadIsRefused() async throws {
        let nul = try #require(URL(string: "file:///tmp/a%00b"))
        #expect(invalidArgument(await thrown { try await Model.load(from: nul) })?.contains("NUL") == true)
        let notUTF8 = try #require(URL(string: "file:///tmp/a%FFb"))
        #expect(invalidArgument(await thrown { try await Model.load(from: notUTF8) })?.contains("UTF-8") == true)
    }

    @Test func aBudgetOfMemoryHolds() async throws {
        var options = exact
        options.memoryBudget = 1_000_000
        let error = await thrown { try await Model.load(from: tinyCoder, options: options) }
        guard case MetalCandleError.outOfMemory(let message)? = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(message.contains("budget"))
        options.memoryBudget = 0
        #expect(invalidArgument(await thrown { try await Model.load(from: tinyCoder, options: options) }) != nil)
        options.memoryBudget = 100_000_000
        #expect(try await Model.load(from: tinyCoder, options: options).vocabularySize == 6144)
    }

    @Test(arguments: [(0, 64), (3, 64), (-4, 64), (4, 0), (4, 33), (8, -1)])
    func aQuantisationThatThereIsNotIsRefused(bits: Int, groupSize: Int) async {
        var options = exact
        options.quantization = .init(bits: bits, groupSize: groupSize)
        #expect(invalidArgument(await thrown { try await Model.load(from: tinyCoder, options: options) }) != nil)
    }

    @Test(arguments: [Device.metal, .cuda]) func aDeviceThatThereIsNotIsRefused(device: Device) async {
        guard !device.isAvailable else {
            return
        }
        let error = await thrown { try await Model.load(from: tinyCoder, options: ModelOptions(device: device)) }
        let name = (error as? MetalCandleError)?.statusName
        #expect(name == "MCANDLE_DEVICE" || name == "MCANDLE_UNSUPPORTED")
    }
}

@Suite(.timeLimit(.minutes(1))) struct SaveTests {
    @Test func aSavedModelGivesTheSameTokens() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        try await withTemporaryFolder { folder in
            let saved = folder.appending(path: "saved")
            try await model.save(to: saved)
            let loaded = try await Model.load(from: saved, options: exact)
            #expect(try await greedy(loaded) == greedy(model))
        }
    }

    @Test func aGGUFFileGivesTheSameTokens() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        try await withTemporaryFolder { folder in
            let file = folder.appending(path: "model.gguf")
            try await model.saveGGUF(to: file, type: .bf16)
            let loaded = try await Model.load(from: file, options: exact)
            #expect(loaded.parameterCount == model.parameterCount)
            #expect(try await greedy(loaded) == greedy(model))
            try await model.saveGGUF(to: file, type: .q8_0)
            #expect(try await Model.load(from: file, options: exact).isQuantized)
        }
    }

    @Test func aPlaceThatCannotBeWrittenIsAnError() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        try await withTemporaryFolder { folder in
            let file = folder.appending(path: "file")
            try Data().write(to: file)
            #expect(await thrown { try await model.save(to: file.appending(path: "model")) } is MetalCandleError)
            #expect(await thrown { try await model.saveGGUF(to: folder) } is MetalCandleError)
        }
    }

    @Test(arguments: [4, 8]) func weightsInFewerBitsGenerate(bits: Int) async throws {
        var options = exact
        options.quantization = .init(bits: bits)
        let model = try await Model.load(from: tinyCoder, options: options)
        #expect(model.isQuantized)
        #expect(try await greedy(model).count == 12)
    }

    @Test func brainFloatsGenerate() async throws {
        let model = try await Model.load(from: tinyCoder, options: ModelOptions(device: .cpu, dtype: .bf16))
        #expect(model.dtype == .bf16)
        #expect(try await greedy(model).count == 12)
    }

    @Test func theTokenizerOutlivesItsModel() async throws {
        let tokenizer = try await Model.load(from: tinyCoder, options: exact).tokenizer
        for text in ["fn main() {}", "é 😀", "", "a\u{0}b"] {
            #expect(try tokenizer.decode(tokenizer.encode(text)) == text)
        }
        let ids = try tokenizer.encode("<|endoftext|>x")
        #expect(try tokenizer.decode(ids, skipSpecialTokens: true) == "x")
    }
}
