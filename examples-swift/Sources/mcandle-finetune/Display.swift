import Foundation
import MetalCandle
import Synchronization
import Terminal

/// Shows a run: in a terminal its steps in one line that changes, elsewhere each in a line of its own.
final class Display: Sendable {
    private let isTerminal = outputIsTerminal
    private let stepIsShown = Mutex(false)

    /// Shows what happened.
    func show(_ event: TrainingEvent) {
        switch event {
        case .start(let start):
            line(
                "\(start.method): \(millions(start.trainableParameters)) of \(millions(start.parameters)) M weights, "
                    + "\(start.rows) rows, \(start.tokens) tokens, \(start.truncated) rows cut, "
                    + "\(start.totalSteps) steps")
        case .step(let step):
            progress(
                "step \(step.step)/\(step.totalSteps)  loss \(decimal(step.loss, 4))  epoch \(decimal(step.epoch, 2))  "
                    + "\(decimal(step.tokensPerSecond, 0)) tokens/s  \(step.memory / 1_000_000) MB  "
                    + "\(time(step.secondsRemaining)) left")
        case .evaluation(let evaluation):
            line(
                "after step \(evaluation.step): validation loss \(decimal(evaluation.loss, 4))  perplexity "
                    + "\(decimal(evaluation.perplexity, 2))\(evaluation.isBest ? "  (best)" : "")")
        case .checkpoint(let checkpoint):
            line("checkpoint: \(checkpoint.url.path(percentEncoded: false))")
        case .end:
            line(nil)
        }
    }

    /// Shows how a run ended.
    func show(_ summary: TrainingSummary, output: String) {
        switch summary.stopReason {
        case .cancelled:
            line("stopped after step \(summary.steps); the same command with --resume goes on")
            return
        case .earlyStopping:
            line("the validation loss no longer falls: ended after step \(summary.steps)")
        case .finished:
            line("\(summary.steps) steps, \(summary.tokens) tokens, \(time(summary.seconds))")
        }
        if let best = summary.bestCheckpoint, let loss = summary.bestLoss {
            line("best checkpoint, with validation loss \(decimal(loss, 4)): \(best.path(percentEncoded: false))")
        }
        line("adapter: \(output)")
    }

    /// Writes a line, below that of the step; `nil` only ends the latter.
    func line(_ text: String?) {
        stepIsShown.withLock { isShown in
            write((isShown ? "\n" : "") + (text.map { $0 + "\n" } ?? ""))
            isShown = false
        }
    }

    private func progress(_ text: String) {
        guard isTerminal else {
            return write(text + "\n")
        }
        stepIsShown.withLock { isShown in
            // To the start of the line, and what is longer of the last step goes.
            write("\r\(text)\u{1B}[K")
            isShown = true
        }
    }

    private func millions(_ count: UInt64) -> String { decimal(Double(count) / 1e6, 2) }

    private func decimal(_ value: Double, _ digits: Int) -> String { String(format: "%.\(digits)f", value) }

    private func time(_ seconds: Double) -> String {
        guard seconds < 1e9 else {
            return "?"
        }
        let seconds = Int(seconds.rounded(.up))
        return seconds < 60 ? "\(seconds) s" : "\(seconds / 60) min \(seconds % 60) s"
    }
}
