internal import CMetalCandle
internal import Synchronization

/// One training on a thread of the library, from its turn to its completion.
///
/// The library holds a reference meanwhile, and the run one to the trainer, so that both may be let go of.
final class TrainingRun: Sendable {
    typealias Events = AsyncThrowingStream<TrainingEvent, any Error>

    private enum Phase {
        case waiting, running, ended
    }

    private let trainer: Handle
    private let turns: Turns
    private let onEvent: @Sendable (TrainingEvent) -> Void
    private let onEnd: @Sendable (Result<TrainingSummary, any Error>) -> Void
    private let phase = Mutex(Phase.waiting)
    private let isCancelled = Flag()

    private init(
        _ trainer: Handle, _ turns: Turns, onEvent: @escaping @Sendable (TrainingEvent) -> Void,
        onEnd: @escaping @Sendable (Result<TrainingSummary, any Error>) -> Void
    ) {
        self.trainer = trainer
        self.turns = turns
        self.onEvent = onEvent
        self.onEnd = onEnd
    }

    /// Starts a training when it is its turn. What fails, also at the start, is thrown by the stream.
    ///
    /// The stream holds the events that were not taken yet, which are a few for each step. Where it is let go of, or
    /// its task is cancelled, the training ends within a step.
    static func events(of trainer: Handle, _ turns: Turns) -> Events {
        let (stream, events) = Events.makeStream()
        let run = TrainingRun(trainer, turns) { event in
            events.yield(event)
        } onEnd: { result in
            switch result {
            case .success: events.finish()
            case .failure(let error): events.finish(throwing: error)
            }
        }
        events.onCancel { run.cancel() }
        turns.take { run.begin() }
        return stream
    }

    /// Trains when it is its turn, and waits for the end, also where the task is cancelled, which ends the training
    /// within a step. A training that has not begun then does not begin.
    static func summary(
        of trainer: Handle, _ turns: Turns, onEvent: @escaping @Sendable (TrainingEvent) -> Void
    ) async throws -> TrainingSummary {
        let waiter = Waiter<TrainingSummary>()
        let run = TrainingRun(trainer, turns, onEvent: onEvent) { waiter.resume(with: $0) }
        return try await withTaskCancellationHandler {
            try await waiter.wait {
                turns.take { run.begin() }
            }
        } onCancel: {
            if run.cancel() {
                waiter.cancel()
            }
        }
    }

    private func begin() {
        let isCancelled = phase.withLock { phase in
            if !self.isCancelled.isRaised {
                phase = .running
            }
            return phase == .waiting
        }
        if isCancelled {
            return end(with: .failure(CancellationError()))
        }
        let userData = Unmanaged.passRetained(self)
        do {
            try check {
                mcandle_trainer_train_async(
                    trainer.pointer,
                    { event, run in (borrowed(run) as TrainingRun).tell(event) },
                    { summary, error, run in (owned(run) as TrainingRun).complete(summary, error) },
                    userData.toOpaque(), $0)
            }
        } catch {
            userData.release()
            return end(with: .failure(error))
        }
        // A cancellation that came before the library knew of the run met nothing.
        if self.isCancelled.isRaised {
            cancel()
        }
    }

    private func tell(_ event: OpaquePointer) -> Bool {
        if let event = TrainingEvent(event) {
            onEvent(event)
        }
        return !isCancelled.isRaised
    }

    private func complete(_ summary: OpaquePointer?, _ error: OpaquePointer?) {
        let error = error.map(MetalCandleError.init(taking:))
        end(
            with: Result {
                guard let summary else {
                    throw error ?? .internal("neither a summary nor an error")
                }
                defer { mcandle_train_summary_free(summary) }
                return try TrainingSummary(summary)
            })
    }

    private func end(with result: Result<TrainingSummary, any Error>) {
        // Before anybody hears of it, who may let go of the stream then.
        phase.withLock { $0 = .ended }
        if case .success(let summary) = result {
            onEvent(.end(summary))
        }
        onEnd(result)
        turns.pass()
    }

    /// Ends the training within a step, and tells whether it had not begun, and will not.
    @discardableResult
    private func cancel() -> Bool {
        isCancelled.raise()
        // Within the lock, as long as the turn is this run's: another one is not meant.
        return phase.withLock { phase in
            if phase == .running {
                mcandle_trainer_cancel(trainer.pointer)
            }
            return phase == .waiting
        }
    }
}
