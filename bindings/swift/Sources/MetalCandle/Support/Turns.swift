internal import Synchronization

/// Lets one call at a time use an object, in the order in which they came, without a thread that waits.
///
/// The library answers a second call with busy. Here it waits instead, because a stream that was let go of takes
/// until its next token to end, and what comes after must not fail for that.
final class Turns: Sendable {
    private struct State {
        var isTaken = false
        var isStarting = false
        var waiting: [@Sendable () -> Void] = []
    }

    private let state = Mutex(State())

    /// Calls `job` when it is its turn, which lasts until ``pass()``.
    func take(_ job: @escaping @Sendable () -> Void) {
        state.withLock { $0.waiting.append(job) }
        start()
    }

    /// Ends the turn.
    func pass() {
        state.withLock { $0.isTaken = false }
        start()
    }

    /// Starts what waits, while the turn is free.
    ///
    /// A job may pass before it returns, as those do that were cancelled while they waited. So this is a loop, and
    /// only one at a time: calls within calls would take as much stack as there are jobs.
    private func start() {
        while let job = next() {
            job()
            state.withLock { $0.isStarting = false }
        }
    }

    private func next() -> (@Sendable () -> Void)? {
        state.withLock { state in
            if state.isTaken || state.isStarting || state.waiting.isEmpty {
                return nil
            }
            state.isTaken = true
            state.isStarting = true
            return state.waiting.removeFirst()
        }
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
