import Foundation
import MetalCandle
import TestSupport
import XCTest

final class TrainingCancellationTests: XCTestCase {
    /// So many that a run that is not cancelled would be noticed.
    private let many = 500

    /// Cancels a run after two steps in a way, and sees that it left a checkpoint from which a run goes on to the
    /// same adapter as one that was not interrupted.
    private func check(cancelling: @Sendable (Trainer) async throws -> Void) async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        try await withTemporaryFolder { folder in
            let output = folder.appending(path: "cancelled")
            let trainer = try await Trainer(
                model: model, train: rows, options: shortOptions(steps: many, outputDirectory: output))
            try await cancelling(trainer)
            // It waits for the end of the run.
            _ = try await trainer.adapter()
            let latest = try await Checkpoint.latest(in: output)
            let checkpoint = try XCTUnwrap(latest)
            XCTAssertGreaterThanOrEqual(checkpoint.step, 2)
            XCTAssertLessThan(checkpoint.step, many)

            let total = checkpoint.step + 2
            let resumed = try await Trainer(
                resumingFrom: checkpoint.url, model: model, train: rows,
                options: shortOptions(steps: total, outputDirectory: output))
            let summary = try await resumed.trainToEnd()
            XCTAssertEqual(summary.steps, total)
            let whole = folder.appending(path: "whole")
            try await Trainer(
                model: model, train: rows, options: shortOptions(steps: total, outputDirectory: whole)
            ).trainToEnd()
            let name = "adapter_model.safetensors"
            let expected = try Data(contentsOf: whole.appending(path: name))
            XCTAssertGreaterThan(expected.count, 1000)
            XCTAssertEqual(try Data(contentsOf: output.appending(path: name)), expected)
        }
    }

    func testLeavingTheLoop() async throws {
        try await check { trainer in
            for try await case .step(let step) in trainer.train() where step.step == 2 {
                break
            }
        }
    }

    func testCancellingTheTaskThatIterates() async throws {
        try await check { trainer in
            let task = Task {
                var last: TrainingEvent?
                for try await event in trainer.train() {
                    last = event
                    if case .step(let step) = event, step.step == 2 {
                        withUnsafeCurrentTask { $0?.cancel() }
                    }
                }
                return last
            }
            // Events that came before the cancellation are still taken, and none after.
            if case .end = try await task.value {
                XCTFail("a cancelled task saw the end")
            }
        }
    }

    func testCancellingTheTaskThatWaits() async throws {
        try await check { trainer in
            let (steps, step) = AsyncStream<Int>.makeStream()
            let task = Task {
                try await trainer.trainToEnd { event in
                    if case .step(let event) = event {
                        step.yield(event.step)
                    }
                }
            }
            for await step in steps where step == 2 {
                break
            }
            task.cancel()
            let summary = try await task.value
            XCTAssertEqual(summary.stopReason, .cancelled)
            XCTAssertGreaterThanOrEqual(summary.steps, 2)
        }
    }

    func testCancellingTheTrainer() async throws {
        try await check { trainer in
            var checkpoint: TrainingEvent.Checkpoint?
            var summary: TrainingSummary?
            for try await event in trainer.train() {
                switch event {
                case .step(let step) where step.step == 2: trainer.cancel()
                case .checkpoint(let event): checkpoint = event
                case .end(let event): summary = event
                default: break
                }
            }
            XCTAssertEqual(summary?.stopReason, .cancelled)
            XCTAssertEqual(summary?.steps, checkpoint?.step)
            XCTAssertNotNil(checkpoint)
        }
    }

    func testATrainerGoesOnAfterACancellation() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        let trainer = try await Trainer(model: model, train: rows, options: shortOptions(steps: 24))
        // A stream that nobody holds.
        _ = trainer.train()
        for try await case .start(let start) in trainer.train() {
            XCTAssertLessThan(start.firstStep, 24)
            break
        }
        let summary = try await trainer.trainToEnd()
        XCTAssertEqual(summary.steps, 24)
        XCTAssertEqual(summary.stopReason, .finished)
    }

    func testATaskThatIsCancelledBeforeItsTurnDoesNotWait() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        let trainer = try await Trainer(model: model, train: rows, options: shortOptions(steps: many))
        var events = trainer.train().makeAsyncIterator()
        _ = try await events.next()
        let waiting = Task { try await trainer.trainToEnd() }
        let cancelled = Task {
            withUnsafeCurrentTask { $0?.cancel() }
            return try await trainer.trainToEnd()
        }
        waiting.cancel()
        for task in [waiting, cancelled] {
            do {
                let summary = try await task.value
                XCTFail("\(summary)")
            } catch is CancellationError {
            }
        }
        trainer.cancel()
        var last: TrainingEvent?
        while let event = try await events.next() {
            last = event
        }
        guard case .end(let summary) = last else {
            return XCTFail("it has no end")
        }
        XCTAssertEqual(summary.stopReason, .cancelled)
    }

    func testAnEvaluationIsCancelled() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        let long = try await Dataset.load(from: sqlFolder.appending(path: "train.jsonl"), for: model)
        var options = shortOptions(steps: 1)
        options.evalBatches = 0
        let trainer = try await Trainer(model: model, train: rows, validation: long, options: options)
        let task = Task { try await trainer.evaluate() }
        try await Task.sleep(for: .milliseconds(100))
        task.cancel()
        do {
            let loss = try await task.value
            XCTFail("\(loss)")
        } catch is CancellationError {
        }
    }
}
