internal import CMetalCandle
public import Foundation

/// Generates text with a model, and the adapters that are active on it or that were set.
///
/// It keeps what it has read: where a prompt starts as the last prompt and its answer did, that start is not
/// computed again. It does one thing at a time: what is called meanwhile waits for its turn. Make one for each
/// conversation: they share the weights of the model.
public final class Generator: Sendable {
    /// The model that generates.
    public let model: Model
    let handle: Handle
    let turns = Turns()
    let thrown = ThrownError()

    private init(_ handle: Handle, model: Model) {
        self.handle = handle
        self.model = model
    }

    /// Makes a generator that has read nothing.
    public convenience init(_ model: Model, cacheType: CacheType = .full) throws {
        self.init(
            try Handle(free: mcandle_generator_free) {
                mcandle_generator_new_with_cache_type(model.handle.pointer, cacheType.constant, $0, $1)
            }, model: model)
    }

    /// Generates on a thread of the library, and hands over each token as it comes.
    ///
    /// The generation starts with this call, or when what was called before is done. It ends before its next token
    /// where the stream is let go of, as when a loop is left, and where the task that iterates it is cancelled; the
    /// stream then ends without an error. Else the last chunk is ``Chunk/end(_:)``.
    ///
    /// - Parameters:
    ///   - prompt: A text, token ids, a conversation, or code around a place.
    ///   - options: How it is continued and when it ends.
    /// - Returns: A stream, which throws ``MetalCandleError``.
    public func generate(
        _ prompt: Prompt, options: GenerateOptions = GenerateOptions()
    ) -> AsyncThrowingStream<Chunk, any Error> {
        GenerationRun.start(prompt, options, on: handle, turns, thrown)
    }

    /// Generates as ``generate(_:options:)-swift.method`` does, and gives the whole when it is finished.
    ///
    /// - Throws: ``MetalCandleError``; `CancellationError` where the task is cancelled.
    public func generation(
        of prompt: Prompt, options: GenerateOptions = GenerateOptions()
    ) async throws -> Generation {
        try Task.checkCancellation()
        for try await case .end(let generation) in generate(prompt, options: options) {
            return generation
        }
        // A stream whose task is cancelled ends early, and without an error.
        try Task.checkCancellation()
        throw MetalCandleError.internal("a generation without an end")
    }

    /// Fills in code between a prefix and a suffix, and hands over each token as it comes.
    ///
    /// - Throws: The stream throws ``MetalCandleError/tokenizer(_:)`` where the vocabulary has no tokens for it.
    public func complete(
        prefix: String, suffix: String, context: FIMContext? = nil, options: GenerateOptions = GenerateOptions()
    ) -> AsyncThrowingStream<Chunk, any Error> {
        generate(.middle(prefix: prefix, suffix: suffix, context: context), options: options)
    }

    /// Generates JSON that conforms to a schema, and decodes it.
    ///
    /// ```swift
    /// struct Person: Decodable { var name: String; var age: Int }
    /// let schema: JSON = [
    ///     "type": "object",
    ///     "properties": ["name": ["type": "string"], "age": ["type": "integer"]],
    ///     "required": ["name", "age"],
    /// ]
    /// let person = try await generator.generate(Person.self, from: "Ada Lovelace at 28, as JSON: ", schema: schema)
    /// ```
    ///
    /// - Parameters:
    ///   - type: What is decoded.
    ///   - prompt: What the model goes on from.
    ///   - schema: A JSON schema, which takes the place of a grammar in the options.
    ///   - options: How it is generated.
    /// - Throws: ``MetalCandleError``, such as ``MetalCandleError/invalidArgument(_:)`` for a schema that cannot be
    ///   met; ``IncompleteOutput`` where the generation ended before the JSON did; `DecodingError` where the schema
    ///   allows what the type does not.
    public func generate<Output: Decodable>(
        _ type: Output.Type = Output.self, from prompt: Prompt, schema: JSON,
        options: GenerateOptions = GenerateOptions()
    ) async throws -> Output {
        var options = options
        options.grammar = .jsonSchema(schema)
        let generation = try await generation(of: prompt, options: options)
        return try generation.decode(type)
    }

    /// Stops the generation that runs before its next token. Its stream goes on to its end, whose reason is
    /// ``FinishReason/cancelled``.
    public func cancel() {
        mcandle_generator_cancel(handle.pointer)
    }

    /// Makes a generator that has read the same, with the same adapter and draft model, and goes its own way.
    public func fork() async throws -> Generator {
        let fork = try await turns.run { [handle] in
            try Handle(free: mcandle_generator_free) { mcandle_generator_fork(handle.pointer, $0, $1) }
        }
        return Generator(fork, model: model)
    }

    /// Generates with an adapter, in the place of those that are active on the model; `nil` for these.
    ///
    /// What was read before is forgotten.
    ///
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where the adapter is for another model.
    public func setAdapter(_ adapter: Adapter?) async throws {
        try await turns.run { [handle] in
            try check { mcandle_generator_set_adapter(handle.pointer, adapter?.handle.pointer, $0) }
        }
    }

    /// Lets a smaller model draft tokens, which change the speed and not the text; `nil` for none.
    ///
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where it has other tokens.
    public func setDraftModel(_ draft: Model?) async throws {
        try await turns.run { [handle] in
            try check { mcandle_generator_set_draft_model(handle.pointer, draft?.handle.pointer, $0) }
        }
    }

    /// The token ids that were read and not forgotten: the last prompt, and its answer but for the last token.
    public var context: [UInt32] {
        get async throws {
            try await turns.run { [handle] in
                try tokens { mcandle_generator_context(handle.pointer, $0, $1) }
            }
        }
    }

    /// Forgets tokens at the end of what was read, down to a number; 0 forgets all, and more than there are changes
    /// nothing.
    public func truncate(to length: Int) async throws {
        let length = try size(length, "length")
        try await turns.run { [handle] in
            try check { mcandle_generator_truncate(handle.pointer, length, $0) }
        }
    }

    /// Saves what was read, so that ``loadSession(from:)`` goes on from it at another time.
    public func saveSession(to url: URL) async throws {
        try await turns.run { [handle] in
            try withPath(url) { path in
                try check { mcandle_generator_save_session(handle.pointer, path, $0) }
            }
        }
    }

    /// Goes on from what ``saveSession(to:)`` saved.
    ///
    /// Keys and values then are kept as they were saved. Where it fails, the generator is as before.
    ///
    /// - Throws: ``MetalCandleError/incompatible(_:)`` where it was saved with another model or adapter,
    ///   ``MetalCandleError/invalidFormat(_:)`` where it is no session, ``MetalCandleError/notFound(_:)``.
    public func loadSession(from url: URL) async throws {
        try await turns.run { [handle] in
            try withPath(url) { path in
                try check { mcandle_generator_load_session(handle.pointer, path, $0) }
            }
        }
    }
}

extension Generation {
    /// Decodes text that was held to a schema.
    func decode<Output: Decodable>(_ type: Output.Type) throws -> Output {
        guard finishReason == .stop else {
            throw IncompleteOutput(generation: self)
        }
        return try JSONDecoder().decode(type, from: Data(text.utf8))
    }
}

/// The generation ended before its JSON was complete, by a limit of tokens, context or time.
public struct IncompleteOutput: LocalizedError, Sendable {
    /// What was generated.
    public let generation: Generation

    /// What was wrong, and what would help.
    public var errorDescription: String? {
        "the output ended with \(generation.tokens.count) tokens before its JSON was complete "
            + "(\(generation.finishReason.rawValue)): allow more tokens or time"
    }
}

/// How keys and values are kept.
public enum CacheType: String, Codable, CaseIterable, Sendable {
    /// In the number format of the model.
    case full
    /// In eight bits: about half the memory of 16 bits, a quarter of that of 32. Tokens take somewhat longer, and a
    /// few may differ.
    case int8

    var constant: mcandle_cache_type {
        switch self {
        case .full: .full
        case .int8: .int8
        }
    }
}
