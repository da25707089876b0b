internal import Synchronization

/// A conversation with a model, which remembers what was said.
///
/// Messages are answered one after another, in the order in which they came. Only what is new in the conversation
/// is computed. Any number of sessions can share a model.
///
/// ```swift
/// let session = try ChatSession(model, instructions: "Answer with code only.")
/// for try await chunk in session.streamResponse(to: "Reverse a string in Rust.") {
///     print(chunk.text, terminator: "")
/// }
/// print(try await session.respond(to: "And in Swift?"))
/// ```
public actor ChatSession {
    /// What generates the answers, for what a session does not offer, such as adapters of its own.
    public nonisolated let generator: Generator
    /// What was said, from what the model was told before the conversation on.
    public private(set) var messages: [ChatMessage]
    /// How answers are generated; ``setOptions(_:)`` changes it.
    public private(set) var options: GenerateOptions
    /// How the conversation becomes a prompt; ``setChatOptions(_:)`` changes it.
    public private(set) var chatOptions: ChatOptions

    private let turns = Turns()

    /// Starts a conversation, or goes on with one.
    ///
    /// - Parameters:
    ///   - model: The model that answers; it needs a chat template.
    ///   - instructions: What the model is told before the conversation.
    ///   - history: What was said already.
    ///   - options: How answers are generated.
    ///   - chatOptions: How the conversation becomes a prompt, with the tools that the model may call.
    ///   - cacheType: How keys and values are kept.
    public init(
        _ model: Model, instructions: String? = nil, history: [ChatMessage] = [],
        options: GenerateOptions = GenerateOptions(), chatOptions: ChatOptions = ChatOptions(),
        cacheType: CacheType = .full
    ) throws {
        generator = try Generator(model, cacheType: cacheType)
        messages = (instructions.map { [.system($0)] } ?? []) + history
        self.options = options
        self.chatOptions = chatOptions
    }

    /// Answers a message.
    ///
    /// - Throws: ``MetalCandleError``, after which the conversation is as before the message; `CancellationError`
    ///   where the task is cancelled, after which the message and what was answered until then, if anything, are
    ///   part of the conversation.
    public func respond(to prompt: String) async throws -> String {
        try await respond(to: .user(prompt))
    }

    /// Answers a message of any role, such as the result of a tool.
    public func respond(to message: ChatMessage) async throws -> String {
        try await generation(for: message, grammar: nil) { _ in }.text
    }

    /// Answers a message with JSON that conforms to a schema, and decodes it.
    ///
    /// - Throws: As ``Generator/generate(_:from:schema:options:)``, after which the conversation is as before the
    ///   message, but for a cancellation, which is as for a text.
    public func respond<Output: Decodable & Sendable>(
        to prompt: String, as type: Output.Type = Output.self, schema: JSON
    ) async throws -> Output {
        let generation = try await generation(for: .user(prompt), grammar: .jsonSchema(schema)) { generation in
            _ = try generation.decode(type)
        }
        return try generation.decode(type)
    }

    private nonisolated func generation(
        for message: ChatMessage, grammar: Grammar?, check: @escaping @Sendable (Generation) throws -> Void
    ) async throws -> Generation {
        try Task.checkCancellation()
        let (stream, answering) = answer(message, grammar: grammar, check: check)
        for try await case .end(let generation) in stream {
            return generation
        }
        // The stream of a cancelled task ends at once, and the answer with its next token.
        await answering.end()
        try Task.checkCancellation()
        throw MetalCandleError.internal("an answer without an end")
    }

    /// Answers a message, and hands over each token as it comes.
    ///
    /// Where the stream is let go of, or its task is cancelled, the answer ends before its next token; what was
    /// answered until then, if anything, is part of the conversation. Where it fails, the conversation is as before.
    public nonisolated func streamResponse(to prompt: String) -> AsyncThrowingStream<Chunk, any Error> {
        streamResponse(to: .user(prompt))
    }

    /// Answers a message of any role, such as the result of a tool, and hands over each token as it comes.
    ///
    /// It ends as the answer to a text does.
    public nonisolated func streamResponse(to message: ChatMessage) -> AsyncThrowingStream<Chunk, any Error> {
        answer(message, grammar: nil) { _ in }.stream
    }

    /// Starts an answer when it is its turn. Where `check` throws, the answer fails.
    private nonisolated func answer(
        _ message: ChatMessage, grammar: Grammar?, check: @escaping @Sendable (Generation) throws -> Void
    ) -> (stream: AsyncThrowingStream<Chunk, any Error>, answering: Answering) {
        let (stream, chunks) = AsyncThrowingStream<Chunk, any Error>.makeStream()
        let answering = Answering()
        chunks.onCancel { answering.cancel() }
        turns.take { [turns] in
            answering.start {
                do {
                    try await self.answer(message, grammar: grammar, check: check, chunks)
                    chunks.finish()
                } catch {
                    chunks.finish(throwing: error)
                }
                turns.pass()
            }
        }
        return (stream, answering)
    }

    private func answer(
        _ message: ChatMessage, grammar: Grammar?, check: (Generation) throws -> Void,
        _ chunks: AsyncThrowingStream<Chunk, any Error>.Continuation
    ) async throws {
        try Task.checkCancellation()
        var options = options
        options.grammar = grammar ?? options.grammar
        let conversation = messages + [message]
        var text = ""
        for try await chunk in generator.generate(.chat(conversation, chatOptions), options: options) {
            text += chunk.text
            // Whoever sees the end finds the answer in the conversation.
            if case .end(let generation) = chunk {
                try check(generation)
                messages = conversation + [.assistant(generation.text)]
                chunks.yield(chunk)
                return
            }
            chunks.yield(chunk)
        }
        if !text.isEmpty {
            messages = conversation + [.assistant(text)]
        }
    }

    /// Generates with other options the answers that have not begun.
    public func setOptions(_ options: GenerateOptions) {
        self.options = options
    }

    /// Makes prompts with other options, such as other tools, for the answers that have not begun.
    public func setChatOptions(_ options: ChatOptions) {
        chatOptions = options
    }

    /// Stops the answer that is being generated before its next token. Its stream goes on to its end, whose reason is
    /// ``FinishReason/cancelled``, and what was answered until then is part of the conversation.
    public nonisolated func cancel() {
        generator.cancel()
    }

    /// Forgets what was said, but for what the model was told before the conversation, when the messages that came
    /// before this call are answered.
    public func clear() async {
        await withCheckedContinuation { continuation in
            turns.take { continuation.resume() }
        }
        messages = Array(messages.prefix { $0.role == .system })
        turns.pass()
    }
}

/// The task of an answer, which may be cancelled before it starts.
private final class Answering: Sendable {
    private let state = Mutex<(isCancelled: Bool, task: Task<Void, Never>?)>((false, nil))

    func start(_ work: @escaping @Sendable () async -> Void) {
        state.withLock { state in
            let task = Task(operation: work)
            if state.isCancelled {
                task.cancel()
            }
            state.task = task
        }
    }

    func cancel() {
        state.withLock { state in
            state.isCancelled = true
            state.task?.cancel()
        }
    }

    /// Waits until the answer has ended, where it has started.
    func end() async {
        await state.withLock(\.task)?.value
    }
}
