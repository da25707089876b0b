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
    /// Orders the result before what is done with it. A continuation does so, too, but where it is resumed before
    /// its task sleeps, ThreadSanitizer does not see it.
    private let published = Atomic(false)

    /// Calls `start`, and waits until ``resume(with:)`` or ``cancel()`` is called.
    func wait(_ start: @Sendable () -> Void) async throws -> Value {
        defer { _ = published.load(ordering: .acquiring) }
        return try await withCheckedThrowingContinuation { continuation in
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

    /// Takes over the duty to give the result, by ``give(_:to:)``, where a task waits for it and nobody else took it
    /// over.
    func claim() -> CheckedContinuation<Value, any Error>? {
        state.withLock { state in
            guard case .waiting(let continuation) = state else {
                return nil
            }
            state = .done
            return continuation
        }
    }

    /// Gives the result, and tells whether anything waited for it.
    @discardableResult
    func resume(with result: sending Result<Value, any Error>) -> Bool {
        guard let continuation = claim() else {
            return false
        }
        give(result, to: continuation)
        return true
    }

    /// Gives the result to what ``claim()`` took over.
    func give(_ result: sending Result<Value, any Error>, to continuation: CheckedContinuation<Value, any Error>) {
        published.store(true, ordering: .releasing)
        continuation.resume(with: result)
    }

    /// Ends the waiting, also one that has not begun, with `CancellationError`.
    func cancel() {
        // In one step, or a waiting that begins meanwhile would not hear of it.
        let continuation: CheckedContinuation<Value, any Error>? = state.withLock { state in
            switch state {
            case .new:
                state = .cancelled
                return nil
            case .waiting(let continuation):
                state = .done
                return continuation
            case .cancelled, .done:
                return nil
            }
        }
        continuation?.resume(throwing: CancellationError())
    }
}
