/// A loss at a step.
public struct LossPoint: Identifiable, Hashable, Sendable {
    /// The steps done.
    public let step: Int
    /// The loss, or the mean of several steps' losses.
    public let loss: Double

    /// What tells the points of a curve apart.
    public var id: Int { step }

    /// Makes a point.
    public init(step: Int, loss: Double) {
        self.step = step
        self.loss = loss
    }
}

/// The losses of a run, few enough to be drawn at each step, however long it is.
///
/// Where there are too many, each two neighbours become one, and from then on twice as many steps make one.
public struct LossCurve: Hashable, Sendable {
    /// The points, by their steps.
    public private(set) var points: [LossPoint] = []

    private let limit: Int
    private var stepsPerPoint = 1
    private var pending: [LossPoint] = []

    /// Makes a curve without points.
    ///
    /// - Parameter limit: There are always fewer points than this.
    public init(limit: Int = 400) {
        self.limit = max(2, limit + limit % 2)
    }

    /// Adds the loss of the next step.
    public mutating func add(step: Int, loss: Double) {
        pending.append(LossPoint(step: step, loss: loss))
        if pending.count == stepsPerPoint {
            points.append(Self.mean(pending))
            pending = []
        }
        if points.count == limit {
            points = stride(from: 0, to: limit, by: 2).map { Self.mean(Array(points[$0..<$0 + 2])) }
            stepsPerPoint *= 2
        }
    }

    private static func mean(_ points: [LossPoint]) -> LossPoint {
        LossPoint(
            step: points.last?.step ?? 0, loss: points.reduce(0) { $0 + $1.loss } / Double(points.count))
    }
}
