internal import CMetalCandle
public import Foundation

/// Fine-tunes a model: an adapter beside it, or a copy of its weights. The model itself does not change.
///
/// It does one thing at a time: what is called meanwhile waits for its turn.
///
/// ```swift
/// let rows = try await Dataset.loadSplits(from: URL(filePath: "assets/sql"), for: model)
/// let trainer = try await Trainer(
///     model: model, train: rows.train, validation: rows.validation, options: TrainOptions(steps: 100))
/// for try await event in trainer.train() {
///     if case .step(let step) = event {
///         print(step.step, step.loss)
///     }
/// }
/// try await trainer.adapter().save(to: URL(filePath: "adapter"))
/// ```
public final class Trainer: Sendable {
    private let handle: Handle
    private let turns = Turns()

    private init(_ handle: Handle) {
        self.handle = handle
    }

    /// Makes a trainer from the start: with a new adapter, with one that is there, or from the weights of the model.
    ///
    /// - Parameters:
    ///   - model: The model, which the trainer keeps.
    ///   - train: The rows to train on, which the trainer keeps.
    ///   - validation: The rows to evaluate on, which the trainer keeps; `nil` for no evaluation.
    ///   - options: How the model is fine-tuned.
    ///   - adapter: An adapter to go on with, which does not change, with a new optimizer and from step 0; its
    ///     settings take the place of ``TrainOptions/method``.
    /// - Throws: ``MetalCandleError``, such as ``MetalCandleError/invalidArgument(_:)`` for an option out of its
    ///   range or an adapter for a model of another shape, and ``MetalCandleError/contextFull(_:)`` where a row is
    ///   too long for the model.
    public convenience init(
        model: Model, train: Dataset, validation: Dataset? = nil, options: TrainOptions = TrainOptions(),
        adapter: Adapter? = nil
    ) async throws {
        self.init(
            try await BlockingWork.run {
                let options = try options.handle()
                return try Handle(free: mcandle_trainer_free) {
                    if let adapter {
                        mcandle_trainer_from_adapter(
                            model.handle.pointer, train.handle.pointer, validation?.handle.pointer, options.pointer,
                            adapter.handle.pointer, $0, $1)
                    } else {
                        mcandle_trainer_new(
                            model.handle.pointer, train.handle.pointer, validation?.handle.pointer, options.pointer,
                            $0, $1)
                    }
                }
            })
    }

    /// Makes a trainer that goes on where a checkpoint was written.
    ///
    /// On the CPU its losses are, bit for bit, those of the run that was not interrupted.
    ///
    /// - Parameters:
    ///   - checkpoint: The directory of the checkpoint, such as ``Checkpoint/latest(in:)`` finds.
    ///   - model: The model of the earlier run.
    ///   - train: The rows of the earlier run.
    ///   - validation: The rows to evaluate on; `nil` for no evaluation.
    ///   - options: The options of the earlier run; what does not change the losses may differ.
    /// - Throws: As ``init(model:train:validation:options:adapter:)``, and ``MetalCandleError/notFound(_:)``,
    ///   ``MetalCandleError/invalidFormat(_:)``, or ``MetalCandleError/incompatible(_:)`` where the checkpoint was
    ///   made with other settings or rows.
    public convenience init(
        resumingFrom checkpoint: URL, model: Model, train: Dataset, validation: Dataset? = nil,
        options: TrainOptions = TrainOptions()
    ) async throws {
        self.init(
            try await BlockingWork.run {
                let options = try options.handle()
                return try withPath(checkpoint) { path in
                    try Handle(free: mcandle_trainer_free) {
                        mcandle_trainer_resume(
                            model.handle.pointer, train.handle.pointer, validation?.handle.pointer, options.pointer,
                            path, $0, $1)
                    }
                }
            })
    }

    /// Trains on a thread of the library until all steps are done, and tells what happens.
    ///
    /// The training starts with this call, or when what was called before is done. It ends within a step where the
    /// stream is let go of, as when a loop is left, and where the task that iterates it is cancelled: where there
    /// is an output directory it leaves a checkpoint of its last whole step, unless it did none, and in any case
    /// another call goes on. What is called next with the trainer waits for that.
    ///
    /// - Returns: A stream whose last event is ``TrainingEvent/end(_:)``. It throws ``MetalCandleError``, such as
    ///   ``MetalCandleError/nonFinite(_:)`` with the rows and the last checkpoint in the message, and
    ///   ``MetalCandleError/invalidArgument(_:)`` where the output directory has the checkpoints of another run.
    public func train() -> AsyncThrowingStream<TrainingEvent, any Error> {
        TrainingRun.events(of: handle, turns)
    }

    /// Trains as ``train()`` does, and gives how it ended.
    ///
    /// Where the task is cancelled, the training ends within a step, and this waits for its checkpoint: the reason
    /// of the summary is ``TrainingSummary/StopReason/cancelled`` then.
    ///
    /// - Parameter onEvent: Is told what happens, on the thread that trains, which goes on when it returns.
    /// - Throws: As the stream of ``train()``; `CancellationError` where the task is cancelled before it begins.
    @discardableResult
    public func trainToEnd(
        onEvent: @escaping @Sendable (TrainingEvent) -> Void = { _ in }
    ) async throws -> TrainingSummary {
        try await TrainingRun.summary(of: handle, turns, onEvent: onEvent)
    }

    /// Stops the training or evaluation that runs, within a step.
    ///
    /// The stream of a training goes on to its end, whose reason is ``TrainingSummary/StopReason/cancelled``.
    public func cancel() {
        mcandle_trainer_cancel(handle.pointer)
    }

    /// Evaluates the validation rows with what is trained so far, as the events of evaluations do.
    ///
    /// - Returns: The mean negative log-likelihood of a target token, or the mean loss of a pair where preferences
    ///   are learned.
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where there are no validation rows,
    ///   ``MetalCandleError/nonFinite(_:)``, ``MetalCandleError/cancelled(_:)`` where ``cancel()`` was called;
    ///   `CancellationError` where the task is cancelled.
    public func evaluate() async throws -> Double {
        do {
            return try await turns.run(onCancel: { [handle] in mcandle_trainer_cancel(handle.pointer) }) { [handle] in
                var loss = 0.0
                try check { mcandle_trainer_evaluate(handle.pointer, &loss, $0) }
                guard let loss = loss.unlessNaN else {
                    throw MetalCandleError.invalidArgument("the trainer has no validation rows")
                }
                return loss
            }
        } catch MetalCandleError.cancelled where Task.isCancelled {
            throw CancellationError()
        }
    }

    /// The number of steps of the whole run: those of the options, or those that the epochs take.
    public var totalSteps: Int { mcandle_trainer_total_steps(handle.pointer) }

    /// Gives a copy of the adapter as trained so far, which further training does not change.
    ///
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where the weights of the model are trained.
    public func adapter() async throws -> Adapter {
        try await turns.run { [handle] in
            Adapter(try Handle(free: mcandle_adapter_free) { mcandle_trainer_adapter(handle.pointer, $0, $1) })
        }
    }

    /// Gives a model as trained so far: with the adapter merged into its weights, or with its new weights.
    ///
    /// Further training does not change it.
    public func model() async throws -> Model {
        try await turns.run { [handle] in
            Model(try Handle(free: mcandle_model_free) { mcandle_trainer_model(handle.pointer, $0, $1) })
        }
    }

    /// Writes a checkpoint, from which
    /// ``init(resumingFrom:model:train:validation:options:)`` goes on.
    ///
    /// - Parameter url: The directory, which appears whole or not at all.
    public func saveCheckpoint(to url: URL) async throws {
        try await turns.run { [handle] in
            try withPath(url) { path in
                try check { mcandle_trainer_save_checkpoint(handle.pointer, path, $0) }
            }
        }
    }
}
