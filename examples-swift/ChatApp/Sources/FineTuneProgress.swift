#if canImport(SwiftUI)
    import ChatAppModels
    import SwiftUI

    /// How a run goes, or how it ended.
    struct FineTuneProgress: View {
        let phase: FineTuneModel.Phase
        let step: FineTuneModel.Step?

        var body: some View {
            switch phase {
            case .idle:
                Text("Not started")
                    .foregroundStyle(.secondary)
            case .preparing:
                ProgressView("Reading the rows")
            case .training:
                steps
            case .stopping:
                ProgressView("Writing a checkpoint")
            case .ended(let summary):
                Text(end(of: summary))
            case .failed(let reason):
                ErrorText(reason)
            }
        }

        @ViewBuilder private var steps: some View {
            if let step {
                ProgressView(value: Double(step.step), total: Double(max(step.step, step.totalSteps))) {
                    Text("Step \(step.step) of \(step.totalSteps)")
                } currentValueLabel: {
                    Text(details(of: step))
                }
            } else {
                ProgressView("The first step")
            }
        }

        private func details(of step: FineTuneModel.Step) -> String {
            let loss = step.loss.formatted(.number.precision(.fractionLength(3)))
            let speed = step.tokensPerSecond.formatted(.number.precision(.fractionLength(0)))
            let memory = Int64(clamping: step.memory).formatted(.byteCount(style: .memory))
            return "Loss \(loss) · \(speed) tokens/s · \(memory) · \(time(step.secondsRemaining)) left"
        }

        private func end(of summary: FineTuneModel.Summary) -> String {
            switch summary.stopReason {
            case .finished: "Finished after \(summary.steps) steps, in \(time(summary.seconds))"
            case .cancelled: "Stopped after \(summary.steps) steps"
            case .earlyStopping: "Ended after \(summary.steps) steps: the validation loss no longer falls"
            }
        }

        private func time(_ seconds: Double) -> String {
            // Before there is a speed to reckon with there may be no number.
            guard seconds < 1e9 else {
                return "?"
            }
            return Duration.seconds(seconds).formatted(.units(allowed: [.hours, .minutes, .seconds], width: .narrow))
        }
    }
#endif
