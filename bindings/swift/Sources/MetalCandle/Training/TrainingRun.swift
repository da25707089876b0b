internal import CMetalCandle
internal import Synchronization

/// One training on a thread of the library, from its turn to its completion.
///
/// The library holds a reference meanwhile, and the run one to the trainer, so that both may be let go of.
final class TrainingRun: Sendable {
    typealias Events = AsyncThrowingStream<TrainingEvent, any Error>

    private enum Phase {
        case waiting, running, cancelled, ended
    }

    private let trainer: Handle
    private let turns: Turns
    private let onEvent: @Sendable (TrainingEvent) -> Void
    private let onEnd: @Sendable (Result<TrainingSummary, any Error>) -> Void
    private let phase = Mutex(Phase.waiting)

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
        events.onTermination = { termination in
            if case .cancelled = termination {
                run.cancel()
            }
        }
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
        let userData = Unmanaged.passRetained(self)
        do {
            // Within the lock, so that a cancellation either prevents the start or meets what runs.
            try phase.withLock { phase in
                guard phase == .waiting else {
                    throw CancellationError()
                }
                try check {
                    mcandle_trainer_train_async(
                        trainer.pointer,
                        { event, run in (borrowed(run) as TrainingRun).tell(event) },
                        { summary, error, run in (owned(run) as TrainingRun).complete(summary, error) },
                        userData.toOpaque(), $0)
                }
                phase = .running
            }
        } catch {
            userData.release()
            end(with: .failure(error))
        }
    }

    private func tell(_ event: OpaquePointer) -> Bool {
        if let event = TrainingEvent(event) {
            onEvent(event)
        }
        return phase.withLock { $0 != .cancelled }
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
        phase.withLock { $0 = .ended }
        onEnd(result)
        turns.pass()
    }

    /// Ends the training within a step, and tells whether it had not begun, and will not.
    @discardableResult
    private func cancel() -> Bool {
        phase.withLock { phase in
            let isWaiting = phase == .waiting
            if phase == .running {
                mcandle_trainer_cancel(trainer.pointer)
            }
            if phase != .ended {
                phase = .cancelled
            }
            return isWaiting
        }
    }
}
