import Foundation
import MetalCandle
import TestSupport
import XCTest

final class TrainingTests: XCTestCase {
    func testLossFallsOnQuestionsAndSQL() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: sqlRows(1), for: model)
        let options = TrainOptions(steps: 8, batchSize: 1, learningRate: 5e-3)
        let trainer = try await Trainer(model: model, train: rows, options: options)
        XCTAssertEqual(trainer.totalSteps, 8)
        var losses: [Double] = []
        for try await case .step(let step) in trainer.train() {
            losses.append(step.loss)
        }
        XCTAssertEqual(losses.count, 8)
        let first = try XCTUnwrap(losses.first)
        XCTAssertLessThan(try XCTUnwrap(losses.last), first / 2)
    }

    func testEventsComeInOrderAndAreTheLinesOfMetrics() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        try await withTemporaryFolder { folder in
            var options = shortOptions(steps: 3, outputDirectory: folder)
            options.evalEvery = 2
            options.saveEvery = 1
            options.schedule = .linear
            let trainer = try await Trainer(model: model, train: rows, validation: rows, options: options)
            var events: [TrainingEvent] = []
            for try await event in trainer.train() {
                events.append(event)
            }
            XCTAssertEqual(
                events.map(kind),
                [
                    "start 0", "evaluation 0", "step 1", "checkpoint 1", "step 2", "evaluation 2", "checkpoint 2",
                    "step 3", "evaluation 3", "checkpoint 3", "end 3",
                ])
            let lines = try String(contentsOf: folder.appending(path: "metrics.jsonl"), encoding: .utf8)
                .split(separator: "\n").map { try JSON(text: String($0)) }
            XCTAssertEqual(try lines.map { try $0.decode(TrainingEvent.self) }, events)
            XCTAssertEqual(try events.map { try JSON(encoding: $0).decode(TrainingEvent.self) }, events)
            try check(events, rows)
            for name in ["adapter_model.safetensors", "loss.svg"] {
                XCTAssertTrue(FileManager.default.fileExists(atPath: folder.appending(path: name).path))
            }
        }
    }

    private func kind(_ event: TrainingEvent) -> String {
        switch event {
        case .start(let start): "start \(start.firstStep)"
        case .step(let step): "step \(step.step)"
        case .evaluation(let evaluation): "evaluation \(evaluation.step)"
        case .checkpoint(let checkpoint): "checkpoint \(checkpoint.step)"
        case .end(let summary): "end \(summary.steps)"
        }
    }

    private func check(_ events: [TrainingEvent], _ rows: Dataset) throws {
        guard
            case .start(let start) = events.first, case .evaluation(let evaluation) = events[8],
            case .step(let step) = events[7], case .checkpoint(let checkpoint) = events[9],
            case .end(let summary) = events.last
        else {
            return XCTFail("not in this order")
        }
        XCTAssertEqual(start.rows, rows.count)
        XCTAssertEqual(start.tokens, rows.tokenCount)
        XCTAssertEqual(start.targetTokens, rows.targetTokenCount)
        XCTAssertEqual([start.totalSteps, start.firstStep, start.truncated, start.skipped], [3, 0, 0, 0])
        XCTAssertEqual(start.batchesPerEpoch, 8)
        XCTAssertEqual([start.method, start.objective], ["lora", "sft"])
        XCTAssertNil(start.packEfficiency)
        XCTAssertGreaterThan(start.trainableParameters, 0)
        XCTAssertGreaterThan(start.parameters, start.trainableParameters)

        XCTAssertEqual(step.totalSteps, 3)
        XCTAssertEqual(step.epoch, 3.0 / 8)
        XCTAssertEqual(step.learningRate, 1e-3 / 3, accuracy: 1e-12)
        XCTAssertGreaterThan(step.gradNorm, 0)
        XCTAssertGreaterThan(step.tokens, step.targetTokens)
        XCTAssertGreaterThan(step.tokensSoFar, step.tokens)
        XCTAssertGreaterThan(step.tokensPerSecond, 0)
        XCTAssertGreaterThan(step.secondsElapsed, 0)
        XCTAssertEqual(step.secondsRemaining, 0)
        XCTAssertGreaterThan(step.peakMemory, 1 << 20)
        XCTAssertNil(step.preference)

        XCTAssertEqual(evaluation.perplexity, exp(evaluation.loss), accuracy: 1e-9)
        XCTAssertTrue(evaluation.isBest)
        XCTAssertTrue(checkpoint.isBest)
        XCTAssertEqual(summary.loss, step.loss)
        XCTAssertEqual(summary.validationLoss, evaluation.loss)
        XCTAssertEqual(summary.bestLoss, evaluation.loss)
        XCTAssertEqual(summary.bestStep, 3)
        XCTAssertEqual(summary.bestCheckpoint, checkpoint.url)
        XCTAssertEqual(summary.stopReason, .finished)
        XCTAssertEqual(summary.tokens, step.tokensSoFar)
        XCTAssertGreaterThanOrEqual(summary.seconds, step.secondsElapsed)
    }

    func testTheAdapterChangesWhatIsGenerated() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        var options = shortOptions(steps: 3)
        options.learningRate = 1e-2
        let trainer = try await Trainer(model: model, train: rows, validation: rows, options: options)
        let untrained = try await trainer.adapter()
        let summary = try await trainer.trainToEnd()
        XCTAssertEqual(summary.steps, 3)
        let adapter = try await trainer.adapter()
        XCTAssertEqual(adapter.rank, 2)

        let ids = try model.tokenizer.encode("let x = ")
        let generator = try Generator(model)
        let before = try await generator.nextLogits(ids)
        try await generator.setAdapter(untrained)
        let unchanged = try await generator.nextLogits(ids)
        XCTAssertEqual(unchanged, before)
        try await generator.setAdapter(adapter)
        let after = try await generator.nextLogits(ids)
        XCTAssertNotEqual(after, before)
        let merged = try await Generator(try await trainer.model()).nextLogits(ids)
        XCTAssertEqual(merged.count, after.count)
        for (merged, beside) in zip(merged, after) {
            XCTAssertEqual(merged, beside, accuracy: 1e-3)
        }

        // Who goes on with the adapter starts from its loss, at step 0.
        let loss = try await trainer.evaluate()
        let next = try await Trainer(model: model, train: rows, validation: rows, options: options, adapter: adapter)
        let start = try await next.evaluate()
        XCTAssertEqual(start, loss)
        let anew = try await Trainer(model: model, train: rows, validation: rows, options: options).evaluate()
        XCTAssertGreaterThan(anew, loss)
    }

    func testARunOutlivesItsTrainer() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        let events = try await Trainer(model: model, train: rows, options: shortOptions(steps: 2)).train()
        var last: TrainingEvent?
        for try await event in events {
            last = event
        }
        guard case .end(let summary) = last else {
            return XCTFail("it has no end")
        }
        XCTAssertEqual(summary.steps, 2)
        XCTAssertEqual(summary.stopReason, .finished)
    }

    func testWhatIsCalledMeanwhileWaits() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        let trainer = try await Trainer(
            model: model, train: rows, validation: rows, options: shortOptions(steps: 2))
        let events = trainer.train()
        async let loss = trainer.evaluate()
        async let again = trainer.trainToEnd()
        var steps = 0
        for try await case .step in events {
            steps += 1
        }
        XCTAssertEqual(steps, 2)
        let (evaluated, summary) = try await (loss, again)
        XCTAssertGreaterThan(evaluated, 0)
        // All steps were done before.
        XCTAssertEqual(summary.steps, 2)
        XCTAssertNil(summary.loss)
    }

    func testAnErrorOfTheRunEndsTheStream() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        try await withTemporaryFolder { folder in
            let options = shortOptions(steps: 1, outputDirectory: folder.appending(path: "file/in/the/way"))
            try Data().write(to: folder.appending(path: "file"))
            let trainer = try await Trainer(model: model, train: rows, options: options)
            do {
                for try await event in trainer.train() {
                    XCTFail("\(event)")
                }
                XCTFail("it has no error")
            } catch MetalCandleError.io(let message) {
                XCTAssertTrue(message.contains("file/in/the/way"), message)
            }
            do {
                try await trainer.trainToEnd()
                XCTFail("it has no error")
            } catch MetalCandleError.io {
            }
            do {
                _ = try await trainer.evaluate()
                XCTFail("there are no rows to evaluate")
            } catch MetalCandleError.invalidArgument(let message) {
                XCTAssertTrue(message.contains("validation"), message)
            }
        }
    }

    func testALossThatIsNoNumberIsAnErrorWithTheLastCheckpoint() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        try await withTemporaryFolder { folder in
            var options = shortOptions(steps: 20, outputDirectory: folder)
            options.learningRate = 1e30
            options.saveEvery = 1
            let trainer = try await Trainer(model: model, train: rows, options: options)
            var saved: URL?
            do {
                for try await event in trainer.train() {
                    if case .checkpoint(let checkpoint) = event {
                        saved = checkpoint.url
                    }
                }
                XCTFail("it has no error")
            } catch MetalCandleError.nonFinite(let message) {
                XCTAssertTrue(message.contains(try XCTUnwrap(saved).lastPathComponent), message)
            }
        }
    }
}
