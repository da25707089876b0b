internal import CMetalCandle

/// What a model goes on from.
public enum Prompt: Hashable, Sendable {
    /// A text, whose end is continued.
    case text(String)
    /// Token ids.
    case ids([UInt32])
    /// A conversation, whose last message is answered, by the chat template of the model.
    case chat([ChatMessage], ChatOptions = ChatOptions())
    /// The code before and after a place, between which the model fills in.
    case middle(prefix: String, suffix: String, context: FIMContext? = nil)
}

extension Prompt: ExpressibleByStringInterpolation {
    /// A text.
    public init(stringLiteral value: String) {
        self = .text(value)
    }
}

extension Prompt {
    /// Starts a generation on a thread of the library.
    func start(
        _ generator: OpaquePointer, _ options: OpaquePointer, _ callback: mcandle_chunk_callback,
        _ completion: mcandle_generation_completion, _ userData: UnsafeMutableRawPointer
    ) throws {
        switch self {
        case .text(let prompt):
            try withText(prompt) { text, length in
                try check {
                    mcandle_generator_generate_async(
                        generator, text, length, options, callback, completion, userData, $0)
                }
            }
        case .ids(let ids):
            try check {
                mcandle_generator_generate_from_ids_async(
                    generator, ids, ids.count, options, callback, completion, userData, $0)
            }
        case .chat(let messages, let chatOptions):
            try withText(messages.json.text) { messages, messagesLength in
                try withText(chatOptions.json.text) { chatOptions, chatOptionsLength in
                    try check {
                        mcandle_generator_chat_async(
                            generator, messages, messagesLength, chatOptions, chatOptionsLength, options, callback,
                            completion, userData, $0)
                    }
                }
            }
        case .middle(let prefix, let suffix, let context):
            let context = try context?.handle()
            try withText(prefix) { prefix, prefixLength in
                try withText(suffix) { suffix, suffixLength in
                    try check {
                        mcandle_generator_complete_async(
                            generator, prefix, prefixLength, suffix, suffixLength, context?.pointer, options, callback,
                            completion, userData, $0)
                    }
                }
            }
        }
    }
}

extension Model {
    /// Whether the model comes with a chat template.
    public var hasChatTemplate: Bool { mcandle_model_has_chat_template(handle.pointer) }

    /// Writes a conversation as the text that the model expects, as transformers' `apply_chat_template` does.
    ///
    /// - Throws: ``MetalCandleError/notFound(_:)`` or ``MetalCandleError/invalidFormat(_:)`` where the model has no
    ///   template, ``MetalCandleError/invalidArgument(_:)`` where the template refuses the messages.
    public func applyChatTemplate(
        _ messages: [ChatMessage], options: ChatOptions = ChatOptions()
    ) async throws -> String {
        try await BlockingWork.run { try self.chatText(messages, options) }
    }

    private func chatText(_ messages: [ChatMessage], _ options: ChatOptions) throws -> String {
        try withText(messages.json.text) { messages, messagesLength in
            try withText(options.json.text) { options, optionsLength in
                try string {
                    mcandle_model_apply_chat_template(
                        handle.pointer, messages, messagesLength, options, optionsLength, $0, $1)
                }
            }
        }
    }

    /// The token ids of any prompt, as a generator makes them. Those that end what is filled in are added to the
    /// options.
    func ids(of prompt: Prompt, _ options: inout GenerateOptions) throws -> [UInt32] {
        switch prompt {
        case .text(let text):
            return try tokenizer.encode(text, addSpecialTokens: true)
        case .ids(let ids):
            return ids
        case .chat(let messages, let chatOptions):
            // The template has written all special tokens that the prompt needs.
            return try tokenizer.encode(chatText(messages, chatOptions))
        case .middle(let prefix, let suffix, let context):
            options.stopTokenIDs += try fimStopTokens
            return try fimPrompt(prefix: prefix, suffix: suffix, context: context)
        }
    }

    /// The token ids of a prompt to fill in code between a prefix and a suffix.
    ///
    /// - Throws: ``MetalCandleError/tokenizer(_:)`` where the vocabulary has no tokens for it.
    public func fimPrompt(prefix: String, suffix: String, context: FIMContext? = nil) throws -> [UInt32] {
        let context = try context?.handle()
        return try withText(prefix) { prefix, prefixLength in
            try withText(suffix) { suffix, suffixLength in
                try tokens {
                    mcandle_model_fim_prompt(
                        handle.pointer, prefix, prefixLength, suffix, suffixLength, context?.pointer, $0, $1)
                }
            }
        }
    }

    /// The token ids that end what is filled in between a prefix and a suffix.
    ///
    /// - Throws: ``MetalCandleError/tokenizer(_:)`` where the vocabulary has no tokens for it.
    public var fimStopTokens: [UInt32] {
        get throws { try tokens { mcandle_model_fim_stop_tokens(handle.pointer, $0, $1) } }
    }
}
