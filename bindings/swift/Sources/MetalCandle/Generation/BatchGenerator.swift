internal import CMetalCandle
internal import Synchronization

/// Generates many texts at the same time, each with options of its own, for little more than the time of the longest.
///
/// Each text gets the tokens that it gets alone, but for rounding. Finished texts leave and waiting ones join, also
/// those that are added while others are generated. Nothing is drafted. Where all texts are there at the start,
/// ``Model/generate(prompts:options:maxBatchSize:)`` is simpler.
///
/// ```swift
/// let batch = try BatchGenerator(model)
/// for prompt in prompts {
///     try await batch.push(.text(prompt))
/// }
/// for try await case .end(let result) in batch.run() {
///     print(result.sequence, try result.generation.text)
/// }
/// ```
public final class BatchGenerator: Sendable {
    /// The model that generates.
    public let model: Model
    let handle: Handle
    /// Each step takes one, and what changes the batch goes in between.
    let turns = Turns()
    /// Each run takes one.
    let runs = Turns()
    /// What the processors of unfinished texts threw, by the number of the text.
    private let thrown = Mutex<[Int: ThrownError]>([:])

    /// Makes a batch without texts.
    ///
    /// - Parameters:
    ///   - model: The model.
    ///   - maxBatchSize: The most texts to work on at once, at least 1; more wait. Memory grows with it.
    public init(_ model: Model, maxBatchSize: Int = 8) throws {
        let maxBatchSize = try size(maxBatchSize, "max_batch_size")
        self.model = model
        handle = try Handle(free: mcandle_batch_free) {
            mcandle_batch_new(model.handle.pointer, maxBatchSize, $0, $1)
        }
    }

    /// Adds a text to be continued, also while others are generated.
    ///
    /// A run that is under way takes it up; else the next run does.
    ///
    /// - Parameters:
    ///   - prompt: A text, token ids, a conversation, or code around a place.
    ///   - options: How it is continued and when it ends.
    ///   - logitsProcessor: Changes the logits of this text alone. What it throws is the result of the text.
    /// - Returns: The number of the text, which counts from 0.
    /// - Throws: ``MetalCandleError``, as ``Generator/generate(_:options:)-swift.method`` does for a prompt that it
    ///   refuses.
    @discardableResult
    public func push(
        _ prompt: Prompt, options: GenerateOptions = GenerateOptions(), logitsProcessor: LogitsProcessor? = nil
    ) async throws -> Int {
        try await turns.run {
            var options = options
            let ids = try self.model.ids(of: prompt, &options)
            let handle = try options.handle()
            var sequence = 0
            if let logitsProcessor {
                let thrown = ThrownError()
                let processing = LogitsProcessing(logitsProcessor, thrown)
                try check {
                    mcandle_batch_push_ids_with(
                        self.handle.pointer, ids, ids.count, handle.pointer, processLogits, processing.handedOver(),
                        releaseLogitsProcessing, &sequence, $0)
                }
                self.thrown.withLock { $0[sequence] = thrown }
            } else {
                try check {
                    mcandle_batch_push_ids(self.handle.pointer, ids, ids.count, handle.pointer, &sequence, $0)
                }
            }
            return sequence
        }
    }

    /// Generates until all texts are finished, and hands over each token as it comes, and each text as it ends.
    ///
    /// A text that fails stops no other. Where the stream is let go of, or its task is cancelled, all texts that are
    /// there end before their next tokens, and are gone. A second run begins when the first has ended.
    public func run() -> AsyncThrowingStream<BatchChunk, any Error> {
        BatchRun.start(on: self)
    }

    /// Generates until all texts are finished, and gives what became of them in the order in which they were added.
    ///
    /// - Throws: ``MetalCandleError``; `CancellationError` where the task is cancelled.
    public func results() async throws -> [BatchResult] {
        var results: [BatchResult] = []
        for try await case .end(let result) in run() {
            results.append(result)
        }
        // A stream whose task is cancelled ends early, and without an error.
        try Task.checkCancellation()
        return results.sorted { $0.sequence < $1.sequence }
    }

    /// Ends one text before its next token; the run that is under way, or the next, gives it with
    /// ``FinishReason/cancelled``.
    ///
    /// - Returns: Whether it was there, unfinished.
    @discardableResult
    public func cancelSequence(_ sequence: Int) async throws -> Bool {
        guard sequence >= 0 else {
            return false
        }
        return try await turns.run { [handle] in
            var isFound = false
            try check { mcandle_batch_cancel_sequence(handle.pointer, sequence, &isFound, $0) }
            return isFound
        }
    }

    /// Ends all texts before their next tokens. The run that is under way, or the next, gives them with
    /// ``FinishReason/cancelled``, with those that are added before it has given them all.
    public func cancel() {
        mcandle_batch_cancel(handle.pointer)
    }

    /// Generates the texts that are added from now on with an adapter, in the place of those that are active on the
    /// model; `nil` for these.
    public func setAdapter(_ adapter: Adapter?) async throws {
        try await turns.run { [handle] in
            try check { mcandle_batch_set_adapter(handle.pointer, adapter?.handle.pointer, $0) }
        }
    }

    /// The number of texts that are not finished.
    public var count: Int {
        get async throws {
            try await turns.run { try self.unfinished() }
        }
    }

    /// The number of texts that are not finished, in a turn of the caller.
    func unfinished() throws -> Int {
        var count = 0
        try check { mcandle_batch_length(handle.pointer, &count, $0) }
        return count
    }

    /// What the processor of a text threw, once the text is finished.
    func takeThrown(_ sequence: Int) -> (any Error)? {
        thrown.withLock { $0.removeValue(forKey: sequence) }?.take()
    }
}

/// What comes from a batch: the tokens of all its texts, and the end of each.
public enum BatchChunk: Sendable {
    /// A token of a text.
    case token(sequence: Int, Chunk.Token)
    /// The end of a text, once for each.
    case end(BatchResult)

    /// The number of the text that it belongs to.
    public var sequence: Int {
        switch self {
        case .token(let sequence, _): sequence
        case .end(let result): result.sequence
        }
    }
}

/// What became of one text of a batch.
public struct BatchResult: Sendable {
    /// The number that the text got when it was added.
    public var sequence: Int
    /// The generation, or why it failed: ``MetalCandleError``, or what a logits processor threw.
    public var result: Result<Generation, any Error>

    /// The generation.
    ///
    /// - Throws: Why it failed.
    public var generation: Generation {
        get throws { try result.get() }
    }
}

extension Model {
    /// Generates many texts at the same time, and gives what became of each, in the order of the prompts.
    ///
    /// - Parameters:
    ///   - prompts: What is continued.
    ///   - options: How, each of them.
    ///   - maxBatchSize: The most texts to work on at once, at least 1; more wait. Memory grows with it.
    /// - Throws: ``MetalCandleError`` where all fails; `CancellationError` where the task is cancelled.
    public func generate(
        prompts: [Prompt], options: GenerateOptions = GenerateOptions(), maxBatchSize: Int = 8
    ) async throws -> [Result<Generation, MetalCandleError>] {
        let batch = try BatchGenerator(self, maxBatchSize: maxBatchSize)
        var outcomes = prompts.map { _ in Result<Generation, MetalCandleError>.failure(.internal("no result")) }
        var places: [Int: Int] = [:]
        for (place, prompt) in prompts.enumerated() {
            do {
                places[try await batch.push(prompt, options: options)] = place
            } catch let error as MetalCandleError {
                outcomes[place] = .failure(error)
            }
        }
        for result in try await batch.results() {
            if let place = places[result.sequence] {
                outcomes[place] = result.result.mapError { $0 as? MetalCandleError ?? .internal("\($0)") }
            }
        }
        return outcomes
    }
}
