internal import Foundation

/// The hand-off of work that blocks to threads of its own.
///
/// Swift's cooperative pool has one thread for each processor, and expects that none of them waits or
/// computes for long. So what takes long runs elsewhere: generating, loading and training on threads of the
/// library, and all else here, the steps of a batch too. At most ``width`` calls run at the same time; others
/// wait for their turn without a thread.
enum BlockingWork {
    /// How many calls run at the same time.
    static let width = 4

    private static let queue: OperationQueue = {
        let queue = OperationQueue()
        queue.name = "metal-candle"
        queue.maxConcurrentOperationCount = width
        return queue
    }()

    /// Runs `work` on another thread and waits for it without blocking this one.
    ///
    /// Where the task is cancelled, what has not begun does not begin, and is not waited for; `cancel` is called,
    /// to end what has.
    static func run<Result: Sendable>(
        onCancel cancel: @escaping @Sendable () -> Void = {},
        _ work: @escaping @Sendable () throws -> Result
    ) async throws -> Result {
        let waiter = Waiter<Result>()
        return try await withTaskCancellationHandler {
            try await waiter.wait {
                queue.addOperation {
                    // Without a claim the task was cancelled, and went on.
                    if let continuation = waiter.claim() {
                        waiter.give(Swift.Result(catching: work), to: continuation)
                    }
                }
            }
        } onCancel: {
            waiter.cancel()
            cancel()
        }
    }
}
