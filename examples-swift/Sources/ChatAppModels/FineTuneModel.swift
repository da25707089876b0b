public import Foundation
public import MetalCandle
public import Observation

/// The fine-tuning of a model: its form, its progress, and the adapter that comes of it.
@MainActor @Observable
public final class FineTuneModel {
    /// A step that was done.
    public typealias Step = TrainingEvent.Step
    /// How a run ended.
    public typealias Summary = TrainingSummary

    /// What the fine-tuning does.
    public enum Phase: Equatable, Sendable {
        /// Nothing was started yet.
        case idle
        /// Rows are read.
        case preparing
        /// Steps are done.
        case training
        /// A checkpoint is written, because the person stopped it.
        case stopping
        /// It ended, by itself or because it was stopped.
        case ended(Summary)
        /// It could not go on; why.
        case failed(String)
    }

    /// What the person sets for the next run.
    public var settings = FineTuneSettings()
    /// The folder with `train.jsonl`, and perhaps `valid.jsonl`, for the next run.
    public var data: URL?
    /// What the fine-tuning does.
    public private(set) var phase = Phase.idle
    /// The losses of the steps.
    public private(set) var trainingLoss = LossCurve()
    /// The losses on rows that are not trained on.
    public private(set) var validationLoss = LossCurve()
    /// The step that was done last.
    public private(set) var step: Step?
    /// The adapter as it was when the last run ended or was stopped.
    public private(set) var adapter: Adapter?
    /// The checkpoint from which a run that was stopped, here or when the app last ran, goes on.
    public private(set) var checkpoint: Checkpoint?
    /// The run that is going on or was last.
    public private(set) var running: Task<Void, Never>?

    private let model: Model
    private let runs: URL
    private var trainer: Trainer?

    /// Fine-tunes nothing yet.
    ///
    /// - Parameters:
    ///   - model: The model.
    ///   - runs: The folder in which each run gets a folder; it need not be there yet.
    public init(_ model: Model, runs: URL) {
        self.model = model
        self.runs = runs
    }

    /// Whether a run is going on.
    public var isRunning: Bool {
        switch phase {
        case .preparing, .training, .stopping: true
        case .idle, .ended, .failed: false
        }
    }

    /// Whether a run can be started.
    public var canStart: Bool { !isRunning && data != nil }

    /// Whether a run that was stopped can go on.
    public var canResume: Bool { !isRunning && checkpoint != nil }

    /// Takes the folder that a person chose, or tells why there was nothing to choose.
    public func choose(_ choice: Result<URL, any Error>) {
        switch choice {
        case .success(let url): data = url
        case .failure(let error): phase = .failed(error.localizedDescription)
        }
    }

    /// Looks for a run that was stopped when the app last ran.
    public func findCheckpoint() async {
        guard !isRunning else {
            return
        }
        do {
            // A run that could not begin left a folder without a checkpoint, and is passed over.
            for folder in try FineTuneRun.folders(in: runs) {
                if let latest = try await Checkpoint.latest(in: folder) {
                    let settings = try FineTuneRun(in: folder).settings
                    checkpoint = latest.step < settings.steps ? latest : nil
                    return
                }
            }
        } catch {
            phase = .failed(error.localizedDescription)
        }
    }

    /// Starts a run with what the person set.
    public func start() {
        guard canStart, let data else {
            return
        }
        trainingLoss = LossCurve()
        validationLoss = LossCurve()
        let settings = settings
        begin {
            let access = FileAccess(data)
            let run = FineTuneRun(settings: settings, data: FileReference(data))
            return (access, settings.options(output: try run.create(in: self.runs)), nil)
        }
    }

    /// Goes on with the run that was stopped.
    public func resume() {
        guard canResume, let checkpoint else {
            return
        }
        begin {
            let folder = checkpoint.url.deletingLastPathComponent()
            let run = try FineTuneRun(in: folder)
            return (FileAccess(try run.data.resolve()), run.settings.options(output: folder), checkpoint)
        }
    }

    /// Stops the run, which leaves a checkpoint to go on from.
    public func stop() {
        guard isRunning else {
            return
        }
        phase = .stopping
        if let trainer {
            // Its stream goes on to the end, where the checkpoint is written.
            trainer.cancel()
        } else {
            running?.cancel()
        }
    }

    private func begin(_ describe: @escaping @MainActor () throws -> (FileAccess, TrainOptions, Checkpoint?)) {
        phase = .preparing
        step = nil
        running = Task {
            do {
                let (access, options, checkpoint) = try describe()
                try await train(access, options, from: checkpoint)
            } catch is CancellationError {
                phase = .idle
            } catch {
                phase = .failed(error.localizedDescription)
            }
            trainer = nil
        }
    }

    private func train(_ access: FileAccess, _ options: TrainOptions, from checkpoint: Checkpoint?) async throws {
        let rows = try await Dataset.loadSplits(from: access.url, for: model)
        let trainer: Trainer
        if let checkpoint {
            trainer = try await Trainer(
                resumingFrom: checkpoint.url, model: model, train: rows.train, validation: rows.validation,
                options: options)
        } else {
            trainer = try await Trainer(
                model: model, train: rows.train, validation: rows.validation, options: options)
        }
        try Task.checkCancellation()
        self.trainer = trainer
        phase = .training
        for try await event in trainer.train() {
            show(event)
            if case .end(let summary) = event {
                adapter = try await trainer.adapter()
                self.checkpoint = try await left(by: summary, in: options.outputDirectory)
                phase = .ended(summary)
            }
        }
    }

    private func show(_ event: TrainingEvent) {
        switch event {
        case .start, .checkpoint, .end:
            break
        case .step(let step):
            self.step = step
            trainingLoss.add(step: step.step, loss: step.loss)
        case .evaluation(let evaluation):
            validationLoss.add(step: evaluation.step, loss: evaluation.loss)
        }
    }

    /// The checkpoint to go on from, where a run was stopped.
    private func left(by summary: Summary, in output: URL?) async throws -> Checkpoint? {
        guard summary.stopReason == .cancelled, let output else {
            return nil
        }
        return try await Checkpoint.latest(in: output)
    }
}
