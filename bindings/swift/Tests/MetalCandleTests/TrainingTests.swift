import Foundation
import MetalCandle
import TestSupport
import XCTest

final class TrainingTests: XCTestCase {
    func testLossFallsOnQuestionsAndSQL() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let rows = try await Dataset(rows: sqlRows(2), for: model)
        let options = TrainOptions(steps: 8, batchSize: 2, learningRate: 5e-3)
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
}
