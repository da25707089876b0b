internal import Synchronization

/// Lets one call at a time use an object, in the order in which they came, without a thread that waits.
///
/// The library answers a second call with busy. Here it waits instead, because a stream that was let go of takes
/// until its next token to end, and what comes after must not fail for that.
final class Turns: Sendable {
    private struct State {
        var isTaken = false
        var waiting: [@Sendable () -> Void] = []
    }

    private let state = Mutex(State())

    /// Calls `job` when it is its turn, which lasts until ``pass()``.
    func take(_ job: @escaping @Sendable () -> Void) {
        let isFree = state.withLock { state in
            if state.isTaken {
                state.waiting.append(job)
                return false
            }
            state.isTaken = true
            return true
        }
        if isFree {
            job()
        }
    }

    /// Ends the turn.
    func pass() {
        let next = state.withLock { state in
            state.isTaken = !state.waiting.isEmpty
            return state.isTaken ? state.waiting.removeFirst() : nil
        }
        next?()
    }

    /// Runs what blocks in a turn of its own. A task that is cancelled does not wait for its turn.
    func run<Result: Sendable>(
        onCancel cancel: @escaping @Sendable () -> Void = {}, _ work: @escaping @Sendable () throws -> Result
    ) async throws -> Result {
        let waiter = Waiter<Void>()
        try await withTaskCancellationHandler {
            try await waiter.wait {
                self.take {
                    if !waiter.resume(with: .success(())) {
                        self.pass()
                    }
                }
            }
        } onCancel: {
            waiter.cancel()
        }
        defer { pass() }
        return try await BlockingWork.run(onCancel: cancel, work)
    }
}
