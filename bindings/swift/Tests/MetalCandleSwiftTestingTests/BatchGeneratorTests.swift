import MetalCandle
import TestSupport
import Testing

/// Batches of the library: each text is what it is alone, ends on its own, and fails on its own.
struct BatchGeneratorTests {
    private static let prompts: [Prompt] = [
        "fn main() {", "def add(a, b):", .ids([446, 635, 265, 3181]),
        .middle(prefix: "fn add(a: u32, b: u32) -> u32 {\n    ", suffix: "\n}\n"), .chat([.user("Reverse a string.")]),
    ]
    private let options = GenerateOptions(maxTokens: 10)

    @Test func eachTextIsWhatItIsAlone() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let together = try await model.generate(prompts: Self.prompts, options: options, maxBatchSize: 3)
        #expect(together.count == Self.prompts.count)
        for (prompt, result) in zip(Self.prompts, together) {
            let alone = try await Generator(model).generation(of: prompt, options: options)
            let generation = try result.get()
            #expect(generation.tokens == alone.tokens)
            #expect(generation.text == alone.text)
            #expect(generation.finishReason == alone.finishReason)
        }
    }

    @Test func aTextThatFailsStopsNoOther() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let prompts: [Prompt] = ["fn main() {", .ids([4_000_000]), "def add(a, b):"]
        let results = try await model.generate(prompts: prompts, options: options)
        #expect(results.count == 3)
        #expect(try results[0].get().tokens.count == 10)
        #expect(try results[2].get().tokens.count == 10)
        if case .failure(.invalidArgument(let message)) = results[1] {
            #expect(message.contains("4000000"))
        } else {
            Issue.record("\(results[1])")
        }
    }

    @Test func chunksMakeUpTheTexts() async throws {
        let batch = try BatchGenerator(try await Model.load(from: tinyCoder, options: exact), maxBatchSize: 2)
        let lengths = [12, 2, 5]
        for (number, length) in lengths.enumerated() {
            let sequence = try await batch.push("fn main() {", options: GenerateOptions(maxTokens: length))
            #expect(sequence == number)
        }
        #expect(try await batch.count == 3)
        var texts = ["", "", ""]
        var ends: [Int] = []
        for try await chunk in batch.run() {
            switch chunk {
            case .token(let sequence, let token):
                #expect(!ends.contains(sequence))
                texts[sequence] += token.text
            case .end(let result):
                ends.append(result.sequence)
                let generation = try result.generation
                #expect(generation.text == texts[result.sequence])
                #expect(generation.tokens.count == lengths[result.sequence])
            }
        }
        // Each is handed over when it ends, and the third joined when the second left.
        #expect(ends == [1, 2, 0])
        #expect(try await batch.count == 0)
    }

    @Test func aTextJoinsWhileOthersAreGenerated() async throws {
        let batch = try BatchGenerator(try await Model.load(from: tinyCoder, options: exact))
        try await batch.push("fn main() {", options: GenerateOptions(maxTokens: 200))
        var joined: Int?
        var ends: [Int] = []
        for try await chunk in batch.run() {
            if joined == nil {
                joined = try await batch.push("def add(a, b):", options: GenerateOptions(maxTokens: 2))
            }
            if case .end(let result) = chunk {
                ends.append(result.sequence)
                if result.sequence == joined {
                    #expect(try result.generation.tokens.count == 2)
                    #expect(try await batch.cancelSequence(0))
                } else {
                    #expect(try result.generation.finishReason == .cancelled)
                }
            }
        }
        #expect(ends == [1, 0])
        #expect(try await !batch.cancelSequence(0))
        #expect(try await !batch.cancelSequence(-1))
    }

    @Test func cancelEndsAllTexts() async throws {
        let batch = try BatchGenerator(try await Model.load(from: tinyCoder, options: exact), maxBatchSize: 1)
        for _ in 0..<2 {
            try await batch.push("fn main() {", options: GenerateOptions(maxTokens: 250))
        }
        var reasons: [FinishReason] = []
        for try await chunk in batch.run() {
            switch chunk {
            case .token: batch.cancel()
            case .end(let result): reasons.append(try result.generation.finishReason)
            }
        }
        #expect(reasons == [.cancelled, .cancelled])
    }

    @Test func aRunThatWasLetGoEndsItsTextsAndNoOthers() async throws {
        let batch = try BatchGenerator(try await Model.load(from: tinyCoder, options: exact), maxBatchSize: 1)
        for _ in 0..<2 {
            try await batch.push("fn main() {", options: GenerateOptions(maxTokens: 250))
        }
        for try await _ in batch.run() {
            break
        }
        let sequence = try await batch.push("def add(a, b):", options: options)
        let results = try await batch.results()
        #expect(results.map(\.sequence) == [sequence])
        let generation = try #require(try results.first?.generation)
        #expect(generation.tokens.count == 10)
        #expect(generation.finishReason == .length)
    }

    @Test func aCancelledTaskThrows() async throws {
        let batch = try BatchGenerator(try await Model.load(from: tinyCoder, options: exact))
        try await batch.push("fn main() {", options: GenerateOptions(maxTokens: 250))
        let task = Task { try await batch.results() }
        task.cancel()
        do {
            _ = try await task.value
            Issue.record("it was not cancelled")
        } catch is CancellationError {
            #expect(try await batch.results().isEmpty)
        }
    }

    @Test func anAdapterChangesTheTextsThatAreAddedAfterIt() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let batch = try BatchGenerator(model)
        try await batch.push("fn main() {", options: options)
        try await batch.setAdapter(
            Adapter.load(from: repository.appending(path: "tests/fixtures/lora/nonzero_b"), for: model))
        try await batch.push("fn main() {", options: options)
        try await batch.setAdapter(nil)
        try await batch.push("fn main() {", options: options)
        let tokens = try await batch.results().map { try $0.generation.tokens }
        #expect(tokens.count == 3)
        #expect(tokens[0] != tokens[1])
        #expect(tokens[0] == tokens[2])
    }

    @Test func aBatchWithoutTextsIsDoneAtOnce() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        #expect(try await BatchGenerator(model).results().isEmpty)
        #expect(try await model.generate(prompts: []).isEmpty)
        for size in [0, -1] {
            do {
                _ = try BatchGenerator(model, maxBatchSize: size)
                Issue.record("it was made")
            } catch MetalCandleError.invalidArgument(let message) {
                #expect(message.contains("max_batch_size"))
            }
        }
    }
}
