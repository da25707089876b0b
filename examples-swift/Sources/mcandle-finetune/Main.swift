import Foundation
import MetalCandle
import Synchronization
import Terminal

@main
struct Main {
    static func main() async {
        let settings = Settings.parser.parseOrExit(defaults: Settings())
        do {
            try await finetune(settings)
        } catch {
            note("mcandle-finetune: \(error.localizedDescription)")
            exit(1)
        }
    }

    private static func finetune(_ settings: Settings) async throws {
        let display = Display()
        let model = try await Model.load(from: URL(filePath: settings.model), options: settings.load)
        let rows = try await Dataset.loadSplits(from: URL(filePath: settings.data), for: model, options: settings.rows)
        let trainer = try await trainer(settings, model, rows, display)
        let summary = try await train(trainer, display)
        display.show(summary, output: settings.output)
        if let prompt = settings.prompt, summary.stopReason != .cancelled {
            display.line("\(prompt)\(try await sample(prompt, model, trainer.adapter()))")
        }
    }

    private static func trainer(
        _ settings: Settings, _ model: Model, _ rows: Dataset.Splits, _ display: Display
    ) async throws -> Trainer {
        let options = settings.trainOptions
        if settings.resume, let checkpoint = try await Checkpoint.latest(in: URL(filePath: settings.output)) {
            display.line("resuming from \(checkpoint.url.path(percentEncoded: false))")
            return try await Trainer(
                resumingFrom: checkpoint.url, model: model, train: rows.train, validation: rows.validation,
                options: options)
        }
        return try await Trainer(model: model, train: rows.train, validation: rows.validation, options: options)
    }

    /// Trains to the end, or to a Ctrl-C.
    private static func train(_ trainer: Trainer, _ display: Display) async throws -> TrainingSummary {
        let wasInterrupted = Atomic(false)
        let interrupts = Interrupts {
            if wasInterrupted.exchange(true, ordering: .relaxed) {
                _exit(1)
            }
            trainer.cancel()
        }
        defer { withExtendedLifetime(interrupts) {} }
        return try await trainer.trainToEnd { display.show($0) }
    }

    private static func sample(_ prompt: String, _ model: Model, _ adapter: Adapter) async throws -> String {
        let generator = try Generator(model)
        try await generator.setAdapter(adapter)
        return try await generator.generation(of: .text(prompt), options: GenerateOptions(maxTokens: 64)).text
    }
}
