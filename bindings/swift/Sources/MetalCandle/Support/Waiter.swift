internal import Synchronization

/// A task that waits for a result from outside of Swift's concurrency, which comes once, even where several parties
/// may give it.
final class Waiter<Value: Sendable>: Sendable {
    private enum State {
        case new
        case waiting(CheckedContinuation<Value, any Error>)
        case cancelled
        case done
    }

    private let state = Mutex(State.new)

    /// Calls `start`, and waits until ``resume(with:)`` or ``cancel()`` is called.
    func wait(_ start: @Sendable () -> Void) async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            let isCancelled = state.withLock { state in
                if case .cancelled = state {
                    return true
                }
                state = .waiting(continuation)
                return false
            }
            if isCancelled {
                continuation.resume(throwing: CancellationError())
            } else {
                start()
            }
        }
    }

    /// Gives the result, and tells whether anything waited for it.
    @discardableResult
    func resume(with result: sending Result<Value, any Error>) -> Bool {
        let continuation: CheckedContinuation<Value, any Error>? = state.withLock { state in
            guard case .waiting(let continuation) = state else {
                return nil
            }
            state = .done
            return continuation
        }
        continuation?.resume(with: result)
        return continuation != nil
    }

    /// Ends the waiting, also one that has not begun, with `CancellationError`.
    func cancel() {
        if !resume(with: .failure(CancellationError())) {
            state.withLock { state in
                if case .new = state {
                    state = .cancelled
                }
            }
        }
    }
}
