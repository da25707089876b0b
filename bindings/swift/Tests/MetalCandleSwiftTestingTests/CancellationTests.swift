import Foundation
import MetalCandle
import TestSupport
import Testing

/// Each generation here would go on for hours: a test that ends shows that its cancellation works.
@Suite(.timeLimit(.minutes(1))) struct CancellationTests {
    private let generator: Generator

    init() async throws {
        generator = try Generator(try await Model.load(from: tinyCoder, options: exact))
    }

    /// What is called next waits until the generation has ended, and works.
    private func expectNextWorks() async throws {
        let next = try await generator.generation(of: "fn add(", options: GenerateOptions(maxTokens: 3))
        #expect(next.tokens.count == 3)
        #expect(next.finishReason == .length)
    }

    @Test func leavingTheLoopEndsTheGeneration() async throws {
        for try await _ in generator.generate("fn main() {", options: endless) {
            break
        }
        try await expectNextWorks()
    }

    @Test func aStreamThatIsNotTakenEndsAtOnce() async throws {
        // Each token of the prompt is a step, so that what was read shows when it stopped.
        var options = endless
        options.prefillChunk = 1
        let prompt = Array(repeating: UInt32(5), count: 1900)
        _ = generator.generate(.ids(prompt), options: options)
        #expect(try await generator.context.count < 1900)
        try await expectNextWorks()
    }

    @Test func cancellingTheTaskEndsTheGenerationWithoutAnError() async throws {
        let (first, told) = AsyncStream<Void>.makeStream()
        let task = Task { [generator] in
            for try await chunk in generator.generate("fn main() {", options: endless) {
                told.finish()
                if case .end = chunk {
                    Issue.record("it came to its end")
                }
            }
        }
        for await _ in first {}
        task.cancel()
        try await task.value
        try await expectNextWorks()
    }

    @Test func cancellingTheTaskOfAWholeGenerationThrows() async throws {
        let task = Task { [generator] in try await generator.generation(of: "fn main() {", options: endless) }
        task.cancel()
        let result = await task.result
        #expect(throws: CancellationError.self) { try result.get() }
        try await expectNextWorks()
    }

    @Test func aTaskThatIsCancelledBeforeReadsNothing() async throws {
        let task = Task { [generator] in
            withUnsafeCurrentTask { $0?.cancel() }
            return try await generator.generation(of: "fn main() {", options: endless)
        }
        let result = await task.result
        #expect(throws: CancellationError.self) { try result.get() }
        #expect(try await generator.context == [])
    }

    @Test func aTaskIsCancelledWhileItsPromptIsRead() async throws {
        var options = endless
        options.prefillChunk = 1
        let prompt = Array(repeating: UInt32(5), count: 1900)
        let task = Task { [generator] in
            try await generator.generate(.ids(prompt), options: options).end()
        }
        task.cancel()
        #expect(try await task.value == nil)
        #expect(try await generator.context.count < 1900)
        try await expectNextWorks()
    }

    @Test func cancelEndsWhatRunsAndItsStreamGoesToItsEnd() async throws {
        var end: Generation?
        var text = ""
        for try await chunk in generator.generate("fn main() {", options: endless) {
            text += chunk.text
            generator.cancel()
            if case .end(let generation) = chunk {
                end = generation
            }
        }
        let generation = try #require(end)
        #expect(generation.finishReason == .cancelled)
        #expect(generation.text == text)
        // The prompt and all tokens but the last were read, and nothing after.
        #expect(try await generator.context.count <= generation.promptTokens + generation.tokens.count)
        try await expectNextWorks()
    }

    @Test func cancelWithoutAGenerationIsForgotten() async throws {
        generator.cancel()
        try await expectNextWorks()
    }

    @Test func whatWaitsForItsTurnCanBeCancelled() async throws {
        let running = generator.generate("fn main() {", options: endless)
        let waiting = Task { [generator] in try await generator.generation(of: "x", options: endless) }
        waiting.cancel()
        let result = await waiting.result
        #expect(throws: CancellationError.self) { try result.get() }
        let alsoWaiting = Task { [generator] in try await generator.context }
        alsoWaiting.cancel()
        let context = await alsoWaiting.result
        #expect(throws: CancellationError.self) { try context.get() }
        for _ in 0..<100 {
            _ = generator.generate("y", options: endless)
        }
        generator.cancel()
        #expect(try await running.end()?.finishReason == .cancelled)
        try await expectNextWorks()
    }

    /// What runs goes on where what waits is let go of.
    @Test func lettingGoOfWhatWaitsDoesNotEndWhatRuns() async throws {
        let options = GenerateOptions(maxTokens: 20)
        let alone = try await generator.generation(of: "fn main() {", options: options)
        let running = generator.generate("fn main() {", options: options)
        _ = generator.generate("y", options: endless)
        #expect(try await running.end()?.tokens == alone.tokens)
    }

    /// More generations than Swift has threads run, while a plain task, which needs one, ends them.
    @Test func generationsLeaveTheCooperativePoolFree() async throws {
        let model = generator.model
        let count = ProcessInfo.processInfo.activeProcessorCount + 2
        let generators = try (0..<count).map { _ in try Generator(model) }
        let tasks = generators.map { generator in
            Task { try await generator.generate("fn main() {", options: endless).end()?.finishReason }
        }
        await Task { [generator] in _ = try? await generator.embed([5, 6]) }.value
        for (generator, task) in zip(generators, tasks) {
            // A cancellation before the start is for nothing: so it is asked for until it is heard.
            let ending = Task {
                while !Task.isCancelled {
                    generator.cancel()
                    await Task.yield()
                }
            }
            #expect(try await task.value == .cancelled)
            ending.cancel()
        }
    }
}
