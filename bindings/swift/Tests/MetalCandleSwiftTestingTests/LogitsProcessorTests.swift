import MetalCandle
import Synchronization
import TestSupport
import Testing

private struct Refusal: Error, Hashable {
    var reason: String
}

/// Counts the processors that were let go of.
private final class Counter: Sendable {
    private let released = Atomic(0)

    var value: Int { released.load(ordering: .relaxed) }

    func count() {
        released.add(1, ordering: .relaxed)
    }

    /// Waits for a count. The thread that made a call may hold its function for a moment longer than the call lasts.
    func reaches(_ count: Int) async {
        for _ in 0..<1000 where value < count {
            try? await Task.sleep(for: .milliseconds(5))
        }
        #expect(value == count)
    }
}

/// What a processor holds.
private final class Witness: Sendable {
    let counter: Counter

    init(_ counter: Counter) {
        self.counter = counter
    }

    deinit {
        counter.count()
    }
}

/// Functions that change logits: what they see and change, what becomes of their errors, and when they are let go of.
struct LogitsProcessorTests {
    private let options = GenerateOptions(maxTokens: 8)

    @Test func aTokenIsForbidden() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let generator = try Generator(model)
        let before = try await generator.generation(of: "fn main() {", options: options)
        let banned = try #require(before.tokens.first)
        let seen = Mutex<[[UInt32]]>([])
        let vocabulary = model.vocabularySize
        try await generator.setLogitsProcessor { tokens, logits in
            seen.withLock { $0.append(tokens) }
            #expect(logits.count == vocabulary)
            #expect(logits[banned] > -.infinity)
            logits[banned] = -.infinity
        }
        let after = try await generator.generation(of: "fn main() {", options: options)
        #expect(!after.tokens.isEmpty)
        #expect(!after.tokens.contains(banned))
        let prompt = try model.tokenizer.encode("fn main() {", addSpecialTokens: true)
        #expect(seen.withLock { $0 } == after.tokens.indices.map { prompt + after.tokens[..<$0] })
        // A fork has none, and without one all is as before.
        let fork = try await generator.fork().generation(of: "fn main() {", options: options)
        #expect(fork.tokens == before.tokens)
        try await generator.setLogitsProcessor(nil)
        let again = try await generator.generation(of: "fn main() {", options: options)
        #expect(again.tokens == before.tokens)
    }

    @Test func allLogitsAtOnce() async throws {
        let generator = try Generator(try await Model.load(from: tinyCoder, options: exact))
        try await generator.setLogitsProcessor { _, logits in
            #expect(logits[.max] == -.infinity)
            logits[.max] = 1
            #expect(logits[.max] == -.infinity)
            logits.withUnsafeMutableBufferPointer { logits in
                for id in logits.indices where id != 7 {
                    logits[id] = -.infinity
                }
            }
        }
        let generation = try await generator.generation(of: "fn main() {", options: options)
        #expect(generation.tokens == Array(repeating: 7, count: 8))
    }

    @Test func whatItThrowsComesOutOfTheGeneration() async throws {
        let generator = try Generator(try await Model.load(from: tinyCoder, options: exact))
        try await generator.setLogitsProcessor { tokens, _ in
            if tokens.count > 8 {
                throw Refusal(reason: "\(tokens.count) tokens")
            }
        }
        for _ in 0..<2 {
            do {
                _ = try await generator.generation(of: .ids([446, 635, 265, 3181, 265, 3208]), options: options)
                Issue.record("it did not throw")
            } catch let refusal as Refusal {
                #expect(refusal == Refusal(reason: "9 tokens"))
            }
        }
        // Nothing of it is left.
        try await generator.setLogitsProcessor(nil)
        #expect(try await generator.generation(of: "fn main() {", options: options).tokens.count == 8)
    }

    @Test func inABatchItIsForOneText() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let alone = try await Generator(model).generation(of: "fn main() {", options: options)
        let banned = try #require(alone.tokens.first)
        let batch = try BatchGenerator(model)
        try await batch.push("fn main() {", options: options) { _, logits in logits[banned] = -.infinity }
        try await batch.push("fn main() {", options: options) { _, _ in throw Refusal(reason: "no") }
        try await batch.push("fn main() {", options: options)
        let results = try await batch.results()
        #expect(results.count == 3)
        #expect(try !results[0].generation.tokens.contains(banned))
        #expect(try results[2].generation.tokens == alone.tokens)
        do {
            _ = try results[1].generation
            Issue.record("it did not throw")
        } catch let refusal as Refusal {
            #expect(refusal == Refusal(reason: "no"))
        }
    }

    @Test func itIsLetGoOfOnce() async throws {
        let released = Counter()
        func processor() -> LogitsProcessor {
            let witness = Witness(released)
            return { _, logits in logits[0] = witness.counter.value > 100 ? 1 : 0 }
        }
        let model = try await Model.load(from: tinyCoder, options: exact)
        do {
            let generator = try Generator(model)
            try await generator.setLogitsProcessor(processor())
            #expect(released.value == 0)
            try await generator.setLogitsProcessor(processor())
            await released.reaches(1)
            try await generator.setLogitsProcessor(nil)
            await released.reaches(2)
            try await generator.setLogitsProcessor(processor())
        }
        await released.reaches(3)
        do {
            let batch = try BatchGenerator(model)
            try await batch.push("fn main() {", options: options, logitsProcessor: processor())
            _ = try await batch.results()
            await released.reaches(4)
            // At once, where the text is refused.
            await #expect(throws: MetalCandleError.self) {
                try await batch.push(.ids([4_000_000]), options: options, logitsProcessor: processor())
            }
            await released.reaches(5)
            try await batch.push("fn main() {", options: options, logitsProcessor: processor())
        }
        await released.reaches(6)
    }
}
