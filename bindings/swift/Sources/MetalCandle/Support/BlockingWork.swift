internal import Dispatch
internal import Foundation
internal import Synchronization

/// The hand-off of work that blocks to threads of its own.
///
/// Swift's cooperative pool has one thread for each processor, and expects that none of them waits or
/// computes for long. So what takes long runs elsewhere: generating, loading and training on threads of the
/// library, and all else here. At most ``width`` calls run at the same time; others wait for their turn
/// without a thread.
enum BlockingWork {
    /// How many calls run at the same time.
    static let width = 4

    private static let threads = WorkerThreads(width: width)

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
                threads.add {
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

/// Threads that do one job after the other, made with the first jobs.
///
/// Queues of Dispatch would share the threads of all queues of a process: where those are busy, or wait, jobs begin
/// late, and on Linux those beyond the number of processors later still.
private final class WorkerThreads: Sendable {
    private struct State {
        var jobs: [@Sendable () -> Void] = []
        var threads = 0
    }

    private let width: Int
    private let state = Mutex(State())
    /// Counts the jobs that no thread has taken.
    private let count = DispatchSemaphore(value: 0)

    init(width: Int) {
        self.width = width
    }

    func add(_ job: @escaping @Sendable () -> Void) {
        let isThreadMissing = state.withLock { state in
            state.jobs.append(job)
            guard state.threads < width else {
                return false
            }
            state.threads += 1
            return true
        }
        count.signal()
        if isThreadMissing {
            startThread()
        }
    }

    private func startThread() {
        let thread = Thread { [self] in
            while true {
                count.wait()
                let job = state.withLock { $0.jobs.removeFirst() }
                job()
            }
        }
        thread.name = "metal-candle"
        // As much as a main thread has; Foundation's threads have half a megabyte on Apple's systems.
        thread.stackSize = 8 << 20
        #if canImport(Darwin)
            thread.qualityOfService = .userInitiated
        #endif
        thread.start()
    }
}
