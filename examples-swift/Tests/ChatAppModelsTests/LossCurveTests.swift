import ChatAppModels
import Testing

@Test func aCurveKeepsFewPointsAndTheirMean() throws {
    var curve = LossCurve(limit: 8)
    for step in 1...7 {
        curve.add(step: step, loss: Double(step))
    }
    #expect(curve.points.map(\.step) == Array(1...7))
    curve.add(step: 8, loss: 8)
    #expect(curve.points == [(2, 1.5), (4, 3.5), (6, 5.5), (8, 7.5)].map { LossPoint(step: $0.0, loss: $0.1) })
    curve.add(step: 9, loss: 9)
    #expect(curve.points.count == 4)
    curve.add(step: 10, loss: 11)
    #expect(curve.points.last == LossPoint(step: 10, loss: 10))
    for step in 11...10_000 {
        curve.add(step: step, loss: 1)
    }
    #expect(curve.points.count < 8)
    #expect(curve.points.last?.loss == 1)
}
