import Foundation
import Synchronization
import TestSupport
import Testing

@testable import MetalCandle

/// What happened, in order.
private final class Record: Sendable {
    private let entries = Mutex<[Int]>([])

    var all: [Int] { entries.withLock(\.self) }

    func add(_ entry: Int) {
        entries.withLock { $0.append(entry) }
    }
}

/// How many run at the same time, and ran at most.
private final class Running: Sendable {
    private let counts = Mutex((now: 0, most: 0))

    var most: Int { counts.withLock(\.most) }

    func enter() {
        counts.withLock { counts in
            counts.now += 1
            counts.most = max(counts.most, counts.now)
        }
    }

    func leave() {
        counts.withLock { $0.now -= 1 }
    }
}

/// A signal that a task waits for, which may come before.
private struct Signal: Sendable {
    private let stream: AsyncStream<Void>
    private let continuation: AsyncStream<Void>.Continuation

    init() {
        (stream, continuation) = AsyncStream.makeStream()
    }

    func send() {
        continuation.finish()
    }

    func wait() async {
        for await _ in stream {}
    }
}

struct WaiterTests {
    @Test func aResultComesOnce() async throws {
        let waiter = Waiter<Int>()
        #expect(!waiter.resume(with: .success(1)), "nobody waits yet")
        let value = try await waiter.wait {
            #expect(waiter.resume(with: .success(2)))
            #expect(!waiter.resume(with: .success(3)))
            waiter.cancel()
        }
        #expect(value == 2)
        #expect(!waiter.resume(with: .success(4)))
    }

    @Test func anErrorIsThrown() async {
        let waiter = Waiter<Int>()
        let error = await thrown {
            try await waiter.wait { waiter.resume(with: .failure(MetalCandleError.busy("x"))) }
        }
        #expect(error as? MetalCandleError == .busy("x"))
    }

    @Test func whatIsCancelledBeforeDoesNotStart() async {
        let waiter = Waiter<Int>()
        waiter.cancel()
        waiter.cancel()
        let error = await thrown { try await waiter.wait { Issue.record("it started") } }
        #expect(error is CancellationError)
    }

    @Test func cancellingEndsTheWaiting() async {
        let waiter = Waiter<Int>()
        let error = await thrown { try await waiter.wait { waiter.cancel() } }
        #expect(error is CancellationError)
        #expect(!waiter.resume(with: .success(1)))
    }

    @Test func oneOfManyGivesTheResult() async throws {
        for _ in 0..<50 {
            let waiter = Waiter<Int>()
            let winners = Atomic(0)
            let value = try? await waiter.wait {
                DispatchQueue.concurrentPerform(iterations: 4) { index in
                    if index == 3 {
                        waiter.cancel()
                    } else if waiter.resume(with: .success(index)) {
                        winners.add(1, ordering: .relaxed)
                    }
                }
            }
            #expect(winners.load(ordering: .relaxed) == (value == nil ? 0 : 1))
        }
    }

    /// A cancellation that comes as the waiting begins is met by one of the two.
    @Test(.timeLimit(.minutes(1))) func aCancellationAtTheStartIsNotLost() async {
        for _ in 0..<2000 {
            let waiter = Waiter<Int>()
            let task = Task { try await waiter.wait {} }
            waiter.cancel()
            let result = await task.result
            #expect(throws: CancellationError.self) { try result.get() }
        }
    }
}

struct TurnsTests {
    @Test func jobsRunOneAtATimeInTheirOrder() {
        let turns = Turns()
        let record = Record()
        for job in 0..<3 {
            turns.take { record.add(job) }
        }
        #expect(record.all == [0])
        turns.pass()
        #expect(record.all == [0, 1])
        turns.pass()
        turns.pass()
        #expect(record.all == [0, 1, 2])
        turns.take { record.add(3) }
        #expect(record.all == [0, 1, 2, 3])
    }

    @Test func aJobMayTakeAnotherTurnAndPassAtOnce() {
        let turns = Turns()
        let record = Record()
        turns.take {
            turns.take {
                record.add(2)
                turns.pass()
            }
            record.add(1)
            turns.pass()
            record.add(3)
        }
        #expect(record.all == [1, 3, 2], "the first one returns before the next one starts")
    }

    /// Each within the one before would need more stack than a thread has.
    @Test func manyJobsThatPassAtOnceNeedNoStack() async {
        let turns = Turns()
        let count = Mutex(0)
        turns.take {}
        for _ in 0..<20_000 {
            turns.take {
                count.withLock { $0 += 1 }
                turns.pass()
            }
        }
        let done = Signal()
        Thread.detachNewThread {
            turns.pass()
            done.send()
        }
        await done.wait()
        #expect(count.withLock(\.self) == 20_000)
    }

    @Test func noTwoRunAtTheSameTimeAndNoneIsForgotten() async throws {
        let turns = Turns()
        let running = Running()
        let sum = try await withThrowingTaskGroup(of: Int.self) { group in
            for index in 0..<200 {
                group.addTask {
                    try await turns.run {
                        running.enter()
                        defer { running.leave() }
                        return index
                    }
                }
            }
            return try await group.reduce(0, +)
        }
        #expect(sum == 19_900)
        #expect(running.most == 1)
    }

    @Test func aCancelledTaskDoesNotWaitForItsTurnNorKeepIt() async throws {
        let turns = Turns()
        turns.take {}
        let cancelled = Task { try await turns.run { Issue.record("it ran") } }
        cancelled.cancel()
        let result = await cancelled.result
        #expect(throws: CancellationError.self) { try result.get() }
        let next = Task { try await turns.run { 7 } }
        turns.pass()
        #expect(try await next.value == 7)
    }

    @Test func aFailureEndsTheTurn() async throws {
        let turns = Turns()
        let error = await thrown { try await turns.run { throw MetalCandleError.busy("x") } }
        #expect(error as? MetalCandleError == .busy("x"))
        #expect(try await turns.run { 7 } == 7)
    }
}

/// One after another, as they share the threads whose number they are about.
@Suite(.serialized, .timeLimit(.minutes(1))) struct BlockingWorkTests {
    @Test func resultsAndErrorsComeBack() async throws {
        #expect(try await BlockingWork.run { 7 } == 7)
        let error = await thrown { try await BlockingWork.run { throw MetalCandleError.busy("x") } }
        #expect(error as? MetalCandleError == .busy("x"))
    }

    @Test func aTaskThatIsCancelledBeforeRunsNothing() async {
        let task = Task {
            withUnsafeCurrentTask { $0?.cancel() }
            _ = try await BlockingWork.run { Issue.record("it ran") }
        }
        let result = await task.result
        #expect(throws: CancellationError.self) { try result.get() }
    }

    @Test func aCancellationIsPassedOnToWhatRuns() async throws {
        let (begun, ended) = (Signal(), DispatchSemaphore(value: 0))
        let task = Task {
            try await BlockingWork.run(onCancel: { ended.signal() }) {
                begun.send()
                ended.wait()
            }
        }
        await begun.wait()
        task.cancel()
        // What has begun ends as it ends: here with success, as soon as it hears of the cancellation.
        try await task.value
    }

    /// As many as there are threads block until a plain task, which needs one of Swift's, ends them.
    @Test func whatBlocksLeavesTheCooperativePoolFree() async throws {
        let gate = DispatchSemaphore(value: 0)
        let count = ProcessInfo.processInfo.activeProcessorCount * 2 + BlockingWork.width
        let running = Running()
        let (beginnings, begun) = AsyncStream<Void>.makeStream()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<count {
                group.addTask {
                    try await BlockingWork.run {
                        running.enter()
                        begun.yield()
                        gate.wait()
                        running.leave()
                    }
                }
            }
            var first = beginnings.makeAsyncIterator()
            for _ in 0..<BlockingWork.width {
                await first.next()
            }
            let plain = (0..<count).map { index in Task { index } }
            for task in plain {
                _ = await task.value
            }
            for _ in 0..<count {
                gate.signal()
            }
            try await group.waitForAll()
        }
        #expect(running.most == BlockingWork.width)
    }

    @Test func aCancelledTaskDoesNotWaitForAThread() async throws {
        let gate = DispatchSemaphore(value: 0)
        let blocking = (0..<BlockingWork.width).map { _ in
            let begun = Signal()
            let task = Task {
                try await BlockingWork.run {
                    begun.send()
                    gate.wait()
                }
            }
            return (begun, task)
        }
        for (begun, _) in blocking {
            await begun.wait()
        }
        let waiting = Task { try await BlockingWork.run { Issue.record("it ran") } }
        waiting.cancel()
        let result = await waiting.result
        #expect(throws: CancellationError.self) { try result.get() }
        // All of them first: a signal wakes any of those that wait.
        for _ in blocking {
            gate.signal()
        }
        for (_, task) in blocking {
            _ = await task.result
        }
    }
}
