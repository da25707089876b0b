import Foundation
import MetalCandle
import TestSupport
import XCTest

final class TrainingCheckpointTests: XCTestCase {
    func testCheckpointsAreListedAndTheBestIsFound() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        try await withTemporaryFolder { folder in
            let nowhere = try await Checkpoint.list(in: folder.appending(path: "nowhere"))
            XCTAssertEqual(nowhere, [])
            let (none, noBest) = try await (Checkpoint.latest(in: folder), Checkpoint.best(in: folder))
            XCTAssertNil(none)
            XCTAssertNil(noBest)

            var options = shortOptions(steps: 4, outputDirectory: folder)
            options.evalEvery = 2
            options.saveEvery = 1
            options.keepCheckpoints = 2
            let trainer = try await Trainer(model: model, train: rows, validation: rows, options: options)
            var saved: [TrainingEvent.Checkpoint] = []
            var evaluations: [TrainingEvent.Evaluation] = []
            let summary = try await { () async throws -> TrainingSummary? in
                for try await event in trainer.train() {
                    switch event {
                    case .checkpoint(let event): saved.append(event)
                    case .evaluation(let event): evaluations.append(event)
                    case .end(let summary): return summary
                    default: break
                    }
                }
                return nil
            }()
            let list = try await Checkpoint.list(in: folder)
            XCTAssertEqual(saved.map(\.step), [1, 2, 3, 4])
            XCTAssertEqual(list.map(\.step), [3, 4])
            XCTAssertEqual(list.map(\.url), saved.suffix(2).map(\.url))
            let latest = try await Checkpoint.latest(in: folder)
            XCTAssertEqual(latest, list.last)
            let found = try await Checkpoint.best(in: folder)
            let best = try XCTUnwrap(found)
            XCTAssertEqual(best.loss, evaluations.map(\.loss).min())
            XCTAssertEqual(best.loss, summary?.bestLoss)
            XCTAssertEqual(best.step, summary?.bestStep)
            XCTAssertEqual(best.url, summary?.bestCheckpoint)

            try Data("{}".utf8).write(to: folder.appending(path: "best.json"))
            do {
                _ = try await Checkpoint.best(in: folder)
                XCTFail("best.json is damaged")
            } catch MetalCandleError.invalidFormat(let message) {
                XCTAssertTrue(message.contains("best.json"), message)
            }
        }
    }

    func testWhatIsNotTheCheckpointOfARunIsAnError() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        let others = try await Dataset(rows: Array(shortRows.dropFirst()), for: model)
        try await withTemporaryFolder { folder in
            let checkpoint = folder.appending(path: "checkpoint")
            let options = shortOptions(steps: 2)
            try await Trainer(model: model, train: rows, options: options).saveCheckpoint(to: checkpoint)

            func resume(_ url: URL, _ rows: Dataset, _ options: TrainOptions) async throws -> String {
                do {
                    _ = try await Trainer(resumingFrom: url, model: model, train: rows, options: options)
                    return "resumed"
                } catch let error as MetalCandleError {
                    return error.statusName
                }
            }
            let same = try await resume(checkpoint, rows, options)
            XCTAssertEqual(same, "resumed")
            var changed = options
            changed.learningRate = 0.5
            let otherSettings = try await resume(checkpoint, rows, changed)
            XCTAssertEqual(otherSettings, "MCANDLE_INCOMPATIBLE")
            let otherRows = try await resume(checkpoint, others, options)
            XCTAssertEqual(otherRows, "MCANDLE_INCOMPATIBLE")
            let missing = try await resume(folder.appending(path: "nowhere"), rows, options)
            XCTAssertEqual(missing, "MCANDLE_NOT_FOUND")
            let web = try await resume(try XCTUnwrap(URL(string: "https://example.org")), rows, options)
            XCTAssertEqual(web, "MCANDLE_INVALID_ARGUMENT")
        }
    }

    func testAnOutputDirectoryIsThatOfOneRun() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        try await withTemporaryFolder { folder in
            var options = shortOptions(steps: 2, outputDirectory: folder)
            options.saveEvery = 1
            try await Trainer(model: model, train: rows, options: options).trainToEnd()
            let trainer = try await Trainer(model: model, train: rows, options: options)
            do {
                try await trainer.trainToEnd()
                XCTFail("the directory has the checkpoints of another run")
            } catch MetalCandleError.invalidArgument(let message) {
                XCTAssertTrue(message.contains(folder.lastPathComponent), message)
            }
        }
    }

    func testARunEndsWhereTheLossNoLongerFalls() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        var options = shortOptions(steps: 20)
        options.evalEvery = 1
        options.evalBatches = 1
        options.earlyStoppingPatience = 2
        options.earlyStoppingMinDelta = 100
        let trainer = try await Trainer(model: model, train: rows, validation: rows, options: options)
        let summary = try await trainer.trainToEnd()
        XCTAssertEqual(summary.stopReason, .earlyStopping)
        XCTAssertEqual(summary.steps, 2)
        XCTAssertEqual(summary.bestStep, 0)
        XCTAssertNil(summary.bestCheckpoint)
        XCTAssertEqual(try JSON(encoding: summary).decode(TrainingSummary.self), summary)
    }

    func testEpochsBecomeSteps() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: shortRows, for: model)
        var options = shortOptions(steps: 1)
        options.epochs = 1.5
        options.batchSize = 2
        let trainer = try await Trainer(model: model, train: rows, options: options)
        XCTAssertEqual(trainer.totalSteps, 6)
    }
}
