import TestSupport
import XCTest

@testable import MetalCandle

/// Nothing that the library made outlives what holds it, however a call ends.
final class LeakTests: XCTestCase {
    /// Watches objects without holding them.
    private final class Watch {
        private struct Weak {
            weak var object: AnyObject?
        }

        private var watched: [Weak] = []

        func watch(_ object: AnyObject) {
            watched.append(Weak(object: object))
        }

        /// How many were watched, and how many of these are still there when those that are about to go had time to.
        func counts() async -> (all: Int, alive: Int) {
            // Another thread may hold the last reference for a moment after it gave its result.
            let deadline = ContinuousClock.now + .seconds(20)
            while ContinuousClock.now < deadline, watched.contains(where: { $0.object != nil }) {
                await Task.yield()
            }
            return (watched.count, watched.filter { $0.object != nil }.count)
        }
    }

    private let times = 100

    func testLoadingLeaksNothing() async throws {
        let watch = Watch()
        for _ in 0..<10 {
            let progress = Progress(totalUnitCount: 1)
            let model = try await Model.load(from: smallQwen, options: exact, progress: progress)
            watch.watch(model)
            watch.watch(model.handle)
            watch.watch(progress)
        }
        for _ in 0..<times {
            let progress = Progress(totalUnitCount: 1)
            watch.watch(progress)
            progress.cancel()
            let cancelled = await thrown { try await Model.load(from: smallQwen, progress: progress) }
            XCTAssertNotNil(cancelled)
            let missing = await thrown {
                try await Model.load(from: URL(filePath: "/nowhere"), progress: progress)
            }
            XCTAssertNotNil(missing)
            let refused = await thrown {
                try await Model.load(from: URL(filePath: "/nowhere"), options: ModelOptions(memoryBudget: 0))
            }
            XCTAssertNotNil(refused)
        }
        let counts = await watch.counts()
        XCTAssertEqual(counts.all, 30 + times)
        XCTAssertEqual(counts.alive, 0)
    }

    /// Makes generators of a model of no meaning, whose tokens take no time, and watches what they are made of.
    private func watchGenerators(
        _ count: Int, _ use: @Sendable (Generator) async throws -> Void
    ) async throws {
        let watch = Watch()
        try await {
            let model = try await Model.load(from: smallQwen, options: exact)
            watch.watch(model)
            for _ in 0..<count {
                let generator = try Generator(model)
                watch.watch(generator)
                watch.watch(generator.handle)
                watch.watch(generator.turns)
                try await use(generator)
            }
        }()
        let counts = await watch.counts()
        XCTAssertEqual(counts.all, 1 + 3 * count)
        XCTAssertEqual(counts.alive, 0)
    }

    private let prompt = Prompt.ids([5, 17, 42])

    func testStreamsThatFinishLeakNothing() async throws {
        try await watchGenerators(times) { [prompt] generator in
            let end = try await generator.generate(prompt, options: GenerateOptions(maxTokens: 3)).end()
            XCTAssertEqual(end?.tokens.isEmpty, false)
        }
    }

    func testStreamsThatAreLetGoOfLeakNothing() async throws {
        try await watchGenerators(times) { [prompt] generator in
            for try await _ in generator.generate(prompt, options: endless) {
                break
            }
            _ = generator.generate(prompt, options: endless)
            _ = generator.generate(prompt, options: endless)
        }
    }

    func testStreamsThatFailLeakNothing() async throws {
        try await watchGenerators(times) { [prompt] generator in
            for options in [GenerateOptions(maxTokens: 0), GenerateOptions(maxTokens: -1)] {
                let error = await thrown { try await generator.generate(prompt, options: options).end() }
                XCTAssertNotNil(error)
            }
            let text = await thrown { try await generator.generation(of: "no tokenizer") }
            XCTAssertNotNil(text)
        }
    }

    func testTasksThatAreCancelledLeakNothing() async throws {
        try await watchGenerators(times) { [prompt] generator in
            let running = Task { try await generator.generation(of: prompt, options: endless) }
            let waiting = Task { try await generator.context }
            running.cancel()
            waiting.cancel()
            _ = await (running.result, waiting.result)
        }
    }

    func testSessionsLeakNothing() async throws {
        let watch = Watch()
        try await {
            let model = try await Model.load(from: tinyCoder, options: exact)
            watch.watch(model)
            for index in 0..<times {
                let session = try ChatSession(model, options: GenerateOptions(maxTokens: index % 4 == 0 ? 0 : 2))
                watch.watch(session)
                watch.watch(session.generator.handle)
                switch index % 4 {
                case 0:
                    let error = await thrown { try await session.respond(to: "x") }
                    XCTAssertNotNil(error)
                case 1:
                    _ = try await session.respond(to: "x")
                case 2:
                    for try await _ in session.streamResponse(to: "x") {
                        break
                    }
                default:
                    _ = session.streamResponse(to: "x")
                    await session.clear()
                }
            }
        }()
        let counts = await watch.counts()
        XCTAssertEqual(counts.all, 1 + 2 * times)
        XCTAssertEqual(counts.alive, 0)
    }
}
