import Foundation
import MetalCandle
import TestSupport
import Testing

/// The events of a run of short rows.
private func events(
    _ rows: [JSON], steps: Int = 1, _ change: (inout TrainOptions) -> Void
) async throws -> (trainer: Trainer, start: TrainingEvent.Start, steps: [TrainingEvent.Step]) {
    let model = try await Model.load(from: tinyCoder, options: exact)
    var options = shortOptions(steps: steps)
    change(&options)
    let trainer = try await Trainer(
        model: model, train: try await Dataset(rows: rows, for: model), options: options)
    var start: TrainingEvent.Start?
    var done: [TrainingEvent.Step] = []
    for try await event in trainer.train() {
        switch event {
        case .start(let event): start = event
        case .step(let event): done.append(event)
        default: break
        }
    }
    return (trainer, try #require(start), done)
}

@Test func directPreferenceOptimisationStartsWithoutAPreference() async throws {
    let (_, start, steps) = try await events(shortPairs, steps: 2) {
        $0.preference = .dpo()
        $0.batchSize = 4
        $0.learningRate = 1e-2
    }
    #expect(start.objective == "dpo")
    #expect(steps.count == 2)
    // The first step compares the model with itself.
    #expect(abs(steps[0].loss - log(2)) < 1e-6)
    let first = try #require(steps[0].preference)
    #expect(abs(first.margin) < 1e-6)
    let second = try #require(steps[1].preference)
    #expect(second.margin > 0)
    #expect(second.margin == second.rewardChosen - second.rewardRejected)
    #expect((0...1).contains(second.accuracy))
    #expect(steps[1].loss < steps[0].loss)
}

@Test func oddsRatioPreferenceOptimisation() async throws {
    let (_, start, steps) = try await events(shortPairs) { $0.preference = .orpo(lambda: 0.2) }
    #expect(start.objective == "orpo")
    #expect(steps.count == 1)
    #expect(steps[0].preference != nil)
    #expect(try await events(shortRows) { _ in }.steps[0].preference == nil)
}

@Test func allWeightsOfALayerAreTrained() async throws {
    let (trainer, start, steps) = try await events(shortRows) {
        $0.method = .full(layers: .last(1))
        $0.learningRate = 1e-2
    }
    #expect(start.method == "full")
    #expect(start.trainableParameters < start.parameters)
    #expect(steps.count == 1)
    let before = try await Model.load(from: tinyCoder, options: exact)
    let after = try await trainer.model()
    #expect(after.parameterCount == before.parameterCount)
    let ids = try before.tokenizer.encode("let x = ")
    let logits = try await Generator(before).nextLogits(ids)
    #expect(try await Generator(after).nextLogits(ids) != logits)
    do {
        _ = try await trainer.adapter()
        Issue.record("there is an adapter")
    } catch MetalCandleError.invalidArgument(let message) {
        #expect(message.contains("adapter"))
    }
}

@Test func rowsArePacked() async throws {
    let (_, start, steps) = try await events(shortRows) {
        $0.batching = .packed
        $0.packLength = 64
        $0.batchSize = 8
        $0.optimizer = .muon()
        $0.schedule = .cosine
    }
    let efficiency = try #require(start.packEfficiency)
    #expect(efficiency > 0.5 && efficiency <= 1)
    #expect(start.batchesPerEpoch == 1)
    #expect(steps.map(\.tokens) == [start.tokens])
}

@Test func whatCannotBeTrainedIsAnError() async throws {
    do {
        _ = try await events(shortRows) { $0.method = .lora(LoRAOptions(targets: .pattern("no_such_proj"))) }
        Issue.record("a pattern that matches nothing was taken")
    } catch MetalCandleError.invalidArgument(let message) {
        #expect(message.contains("no_such_proj"))
    }
    await #expect(throws: MetalCandleError.self) { try await events(shortPairs) { _ in } }
    await #expect(throws: MetalCandleError.self) { try await events(shortRows) { $0.preference = .dpo() } }
}
