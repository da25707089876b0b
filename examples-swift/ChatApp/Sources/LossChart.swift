#if canImport(SwiftUI)
    import ChatAppModels
    import Charts
    import SwiftUI

    /// The losses of a run: of the rows that it trains on, and of those that it does not.
    struct LossChart: View {
        let training: [LossPoint]
        let validation: [LossPoint]

        var body: some View {
            Chart {
                curve(training, "Training")
                curve(validation, "Validation")
            }
            .chartXAxisLabel("Step")
            .chartYAxisLabel("Loss")
            .frame(height: 200)
        }

        private func curve(_ points: [LossPoint], _ name: String) -> some ChartContent {
            ForEach(points) { point in
                LineMark(x: .value("Step", point.step), y: .value("Loss", point.loss))
                    .foregroundStyle(by: .value("Rows", name))
            }
        }
    }
#endif
