import ChatAppModels
import Foundation
import MetalCandle
import Testing

@MainActor
private func fineTuning(in folder: URL, steps: Int) async throws -> (Model, FineTuneModel) {
    let model = try await Model.load(from: Fixtures.tinyCoder, options: Fixtures.exact)
    let data = folder.appending(path: "data")
    try Fixtures.writeRows(to: data)
    let fineTuning = FineTuneModel(model, runs: folder.appending(path: "runs"))
    fineTuning.data = data
    fineTuning.settings.steps = steps
    fineTuning.settings.learningRate = 2e-3
    return (model, fineTuning)
}

@MainActor
@Test func aModelIsFineTunedAndAnswersWithTheAdapter() async throws {
    try await Fixtures.withFolder { folder in
        let (model, fineTuning) = try await fineTuning(in: folder, steps: 4)
        #expect(fineTuning.canStart)
        fineTuning.start()
        #expect(fineTuning.isRunning)
        #expect(!fineTuning.canStart)
        await fineTuning.running?.value
        guard case .ended(let summary) = fineTuning.phase else {
            Issue.record("it is \(fineTuning.phase)")
            return
        }
        #expect(summary.stopReason == .finished)
        #expect(summary.steps == 4)
        #expect(fineTuning.trainingLoss.points.map(\.step) == Array(1...4))
        let validation = fineTuning.validationLoss.points
        #expect(validation.map(\.step) == Array(0...4))
        #expect(try #require(validation.last).loss < (try #require(validation.first)).loss)
        #expect(fineTuning.step?.step == 4)
        #expect(!fineTuning.canResume)

        let chat = try ChatModel(model, options: GenerateOptions(maxTokens: 12))
        @MainActor func answer() async -> String? {
            chat.draft = "table: dogs\ncolumns: age\nQ: How many dogs are there?\nA:"
            chat.send()
            await chat.answering?.value
            return chat.messages.last?.text
        }
        let before = await answer()
        await chat.clear()
        await chat.use(try #require(fineTuning.adapter))
        #expect(chat.hasAdapter)
        #expect(await answer() != before)
        await chat.clear()
        await chat.use(nil)
        #expect(!chat.hasAdapter)
        #expect(await answer() == before)
    }
}

@MainActor
@Test func aRunIsStoppedAndGoesOn() async throws {
    try await Fixtures.withFolder { folder in
        let (model, fineTuning) = try await fineTuning(in: folder, steps: 6)
        fineTuning.start()
        try await wait { (fineTuning.step?.step ?? 0) >= 2 }
        fineTuning.stop()
        #expect(fineTuning.phase == .stopping)
        await fineTuning.running?.value
        guard case .ended(let stopped) = fineTuning.phase else {
            Issue.record("it is \(fineTuning.phase)")
            return
        }
        #expect(stopped.stopReason == .cancelled)
        #expect((2..<6).contains(stopped.steps))
        #expect(fineTuning.adapter != nil)
        #expect(fineTuning.checkpoint?.step == stopped.steps)
        #expect(fineTuning.canResume)

        // One that cannot begin does not hide it.
        fineTuning.settings.rank = 0
        fineTuning.start()
        await fineTuning.running?.value
        #expect(fineTuning.canResume)

        // The app was started anew meanwhile, and nothing is set in its form.
        let again = FineTuneModel(model, runs: folder.appending(path: "runs"))
        #expect(!again.canResume)
        await again.findCheckpoint()
        #expect(again.checkpoint?.step == stopped.steps)
        again.resume()
        await again.running?.value
        guard case .ended(let summary) = again.phase else {
            Issue.record("it is \(again.phase)")
            return
        }
        #expect(summary.stopReason == .finished)
        #expect(summary.steps == 6)
        #expect(again.trainingLoss.points.map(\.step) == Array(stopped.steps + 1...6))
        #expect(!again.canResume)

        await again.findCheckpoint()
        #expect(!again.canResume)
    }
}

@MainActor
@Test func aRunThatCannotStartSaysWhy() async throws {
    try await Fixtures.withFolder { folder in
        let (_, fineTuning) = try await fineTuning(in: folder, steps: 4)
        fineTuning.data = folder
        fineTuning.start()
        await fineTuning.running?.value
        guard case .failed(let reason) = fineTuning.phase else {
            Issue.record("it is \(fineTuning.phase)")
            return
        }
        #expect(reason.contains("train.jsonl"))
        #expect(fineTuning.canStart)

        fineTuning.data = folder.appending(path: "data")
        fineTuning.settings.rank = 0
        fineTuning.start()
        await fineTuning.running?.value
        guard case .failed(let reason) = fineTuning.phase else {
            Issue.record("it is \(fineTuning.phase)")
            return
        }
        #expect(reason.contains("rank"))
    }
}

@MainActor
@Test func aRunIsGivenUpBeforeItsFirstStep() async throws {
    try await Fixtures.withFolder { folder in
        let (_, fineTuning) = try await fineTuning(in: folder, steps: 4)
        fineTuning.start()
        fineTuning.stop()
        await fineTuning.running?.value
        #expect(fineTuning.phase == .idle)
        #expect(fineTuning.step == nil)
        #expect(fineTuning.canStart)
    }
}
