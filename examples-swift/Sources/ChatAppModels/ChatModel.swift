public import MetalCandle
public import Observation

/// A conversation: what was said, what is being typed, and the answer that comes.
@MainActor @Observable
public final class ChatModel {
    /// A message, as a list shows it.
    public struct Message: Identifiable, Hashable, Sendable {
        /// Its place in the conversation.
        public let id: Int
        /// Whether the person said it; else the model did.
        public let isFromPerson: Bool
        /// What was said, until now.
        public fileprivate(set) var text: String
    }

    /// What was said.
    public private(set) var messages: [Message] = []
    /// What the person types.
    public var draft = ""
    /// Whether an answer is coming.
    public private(set) var isAnswering = false
    /// How fast the last whole answer came, in tokens a second.
    public private(set) var tokensPerSecond: Double?
    /// Why the last message was not answered.
    public var error: String?
    /// Whether answers are given with an adapter.
    public private(set) var hasAdapter = false
    /// The answer that comes or came last.
    public private(set) var answering: Task<Void, Never>?

    private let session: ChatSession

    /// Starts a conversation.
    ///
    /// - Throws: `MetalCandleError`.
    public init(_ model: Model, options: GenerateOptions = GenerateOptions(maxTokens: 1024)) throws {
        session = try ChatSession(model, options: options)
    }

    /// Whether there is something to send, and nothing being answered.
    public var canSend: Bool { !isAnswering && draft.contains { !$0.isWhitespace } }

    /// Sends what was typed, and shows the answer as it comes.
    public func send() {
        guard canSend else {
            return
        }
        let prompt = draft
        draft = ""
        error = nil
        isAnswering = true
        messages.append(Message(id: messages.count, isFromPerson: true, text: prompt))
        messages.append(Message(id: messages.count, isFromPerson: false, text: ""))
        answering = Task {
            await answer(prompt)
            isAnswering = false
        }
    }

    private func answer(_ prompt: String) async {
        let place = messages.count - 1
        var isWhole = false
        do {
            for try await chunk in session.streamResponse(to: prompt) {
                messages[place].text += chunk.text
                if case .end(let generation) = chunk {
                    tokensPerSecond = generation.tokensPerSecond
                    isWhole = true
                }
            }
            // Stopped before there was anything to keep.
            if !isWhole && messages[place].text.isEmpty {
                takeBack(prompt)
            }
        } catch {
            takeBack(prompt)
            self.error = error.localizedDescription
        }
    }

    /// Takes the last message off the list, as the session did, so that it can be sent again.
    private func takeBack(_ prompt: String) {
        messages.removeLast(2)
        if draft.isEmpty {
            draft = prompt
        }
    }

    /// Stops the answer. What was said until then stays.
    public func stop() {
        answering?.cancel()
    }

    /// Forgets the conversation.
    public func clear() async {
        stop()
        await answering?.value
        await session.clear()
        messages = []
        error = nil
    }

    /// Answers with an adapter from the next message on; `nil` for the model as it is.
    public func use(_ adapter: Adapter?) async {
        do {
            try await session.generator.setAdapter(adapter)
            hasAdapter = adapter != nil
        } catch {
            self.error = error.localizedDescription
        }
    }
}
