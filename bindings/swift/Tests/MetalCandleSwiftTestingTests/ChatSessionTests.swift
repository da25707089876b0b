import Foundation
import MetalCandle
import TestSupport
import Testing

@Suite(.timeLimit(.minutes(1))) struct ChatSessionTests {
    private let model: Model
    private let options = GenerateOptions(maxTokens: 8)

    init() async throws {
        model = try await Model.load(from: tinyCoder, options: exact)
    }

    @Test func theConversationIsRemembered() async throws {
        let session = try ChatSession(model, instructions: "Be short.", options: options)
        let first = try await session.respond(to: "Reverse a string.")
        let second = try await session.respond(to: "And in Swift?")
        let messages = await session.messages
        #expect(
            messages == [
                .system("Be short."), .user("Reverse a string."), .assistant(first), .user("And in Swift?"),
                .assistant(second),
            ])
        // The same conversation, read at once, is answered the same.
        let again = try await Generator(model).generation(of: .chat(Array(messages.dropLast())), options: options)
        #expect(again.text == second)
    }

    @Test func onlyWhatIsNewIsRead() async throws {
        let session = try ChatSession(model, options: options)
        _ = try await session.respond(to: "Reverse a string.")
        let end = try #require(try await session.streamResponse(to: "And in Swift?").end())
        #expect(end.cachedTokens > end.promptTokens / 3)
    }

    @Test func chunksMakeUpTheAnswer() async throws {
        let session = try ChatSession(model, options: options)
        var text = ""
        for try await chunk in session.streamResponse(to: "Reverse a string.") {
            text += chunk.text
            if case .end(let generation) = chunk {
                #expect(generation.text == text)
                #expect(await session.messages.last == .assistant(text), "whoever sees the end finds the answer")
            }
        }
        let alone = try await ChatSession(model, options: options).respond(to: "Reverse a string.")
        #expect(text == alone)
    }

    @Test func aHistoryGoesOn() async throws {
        let history: [ChatMessage] = [.user("Hi"), .assistant("Hello"), .user("Hi"), .assistant("Hello again")]
        let session = try ChatSession(model, instructions: "Be short.", history: history, options: options)
        _ = try await session.respond(to: ChatMessage("critic", "Why?"))
        let messages = await session.messages
        #expect(messages.dropLast() == [.system("Be short.")] + history + [ChatMessage("critic", "Why?")])
        #expect(messages.last?.role == .assistant)
    }

    @Test func messagesAreAnsweredInTheirOrder() async throws {
        let session = try ChatSession(model, options: GenerateOptions(maxTokens: 3))
        let questions = (0..<6).map { "Question \($0)" }
        let streams = questions.map { session.streamResponse(to: $0) }
        for stream in streams {
            #expect(try await stream.end() != nil)
        }
        let asked = await session.messages.filter { $0.role == .user }.map(\.content)
        #expect(asked == questions)
    }

    @Test func aFailureLeavesTheConversationAsBefore() async throws {
        let session = try ChatSession(model, history: [.user("Hi"), .assistant("Hello")], options: options)
        await session.setOptions(GenerateOptions(maxTokens: 0))
        let error = await thrown { try await session.respond(to: "x") }
        #expect((error as? MetalCandleError)?.statusName == "MCANDLE_INVALID_ARGUMENT")
        await session.setOptions(options)
        let tooLong = String(repeating: "word ", count: 4000)
        #expect(
            (await thrown { try await session.respond(to: tooLong) } as? MetalCandleError)?.statusName
                == "MCANDLE_CONTEXT_FULL")
        #expect(await session.messages == [.user("Hi"), .assistant("Hello")])
        _ = try await session.respond(to: "x")
        #expect(await session.messages.count == 4)
    }

    @Test func aCancelledAnswerIsKeptInPart() async throws {
        let session = try ChatSession(model, options: endless)
        let (first, told) = AsyncStream<String>.makeStream()
        let task = Task {
            for try await chunk in session.streamResponse(to: "Hi") where !chunk.text.isEmpty {
                told.yield(chunk.text)
                told.finish()
            }
        }
        var start = ""
        for await text in first {
            start = text
        }
        task.cancel()
        try await task.value
        await session.setOptions(options)
        _ = try await session.respond(to: "Go on")
        let messages = await session.messages
        #expect(messages.map(\.role) == [.user, .assistant, .user, .assistant])
        #expect(messages[1].content.hasPrefix(start))
        #expect(messages[2] == .user("Go on"))
    }

    @Test func anAnswerThatIsStoppedComesToItsEnd() async throws {
        let session = try ChatSession(model, options: endless)
        var text = ""
        var end: Generation?
        for try await chunk in session.streamResponse(to: "Hi") {
            text += chunk.text
            if case .end(let generation) = chunk {
                end = generation
            } else {
                session.cancel()
            }
        }
        #expect(end?.finishReason == .cancelled)
        #expect(await session.messages == [.user("Hi"), .assistant(text)])
    }

    @Test func optionsChangeBetweenAnswers() async throws {
        let session = try ChatSession(model, options: GenerateOptions(maxTokens: 2))
        #expect(try await session.streamResponse(to: "Hi").end()?.tokens.count == 2)
        await session.setOptions(GenerateOptions(maxTokens: 3))
        #expect(try await session.streamResponse(to: "Hi").end()?.tokens.count == 3)
        // Without the start of an answer the prompt is another one.
        let open = ChatOptions(addGenerationPrompt: false)
        await session.setChatOptions(open)
        let prompt = try await model.applyChatTemplate(session.messages + [.user("Hi")], options: open)
        let ids = try model.tokenizer.encode(prompt)
        #expect(try await session.streamResponse(to: "Hi").end()?.promptTokens == ids.count)
    }

    /// Whenever the cancellation comes, the answer has ended when it is thrown, and what follows stays.
    @Test func aResponseThatIsCancelledHasEndedWhenItThrows() async throws {
        let session = try ChatSession(model, options: endless)
        let task = Task { try await session.respond(to: "Hi") }
        task.cancel()
        let result = await task.result
        #expect(throws: CancellationError.self) { try result.get() }
        let messages = await session.messages
        #expect(messages.isEmpty || messages.map(\.role) == [.user, .assistant])
        #expect(messages.last?.content != "")
        await session.setOptions(options)
        _ = try await session.respond(to: "Go on")
        #expect(await session.messages.count == messages.count + 2)
    }

    @Test func aTaskThatIsCancelledBeforeSaysNothing() async throws {
        let session = try ChatSession(model, options: endless)
        let task = Task {
            withUnsafeCurrentTask { $0?.cancel() }
            return try await session.respond(to: "Hi")
        }
        let result = await task.result
        #expect(throws: CancellationError.self) { try result.get() }
        #expect(await session.messages == [])
    }

    @Test func clearingKeepsTheInstructions() async throws {
        let session = try ChatSession(model, instructions: "Be short.", options: options)
        _ = try await session.respond(to: "Hi")
        await session.clear()
        #expect(await session.messages == [.system("Be short.")])
    }

    /// What was let go of does not come back after the conversation was cleared.
    @Test func clearingComesAfterWhatWasAsked() async throws {
        let session = try ChatSession(model, instructions: "Be short.", options: endless)
        for try await chunk in session.streamResponse(to: "Hi") where !chunk.text.isEmpty {
            break
        }
        await session.clear()
        #expect(await session.messages == [.system("Be short.")])
        await session.setOptions(options)
        let stream = session.streamResponse(to: "Hi")
        await session.clear()
        #expect(await session.messages == [.system("Be short.")])
        #expect(try await stream.end() != nil)
        #expect(await session.messages == [.system("Be short.")])
    }

    private struct Answer: Codable, Sendable {
        var yes: Bool
    }

    private let schema: JSON = [
        "type": "object", "properties": ["yes": ["type": "boolean"]], "required": ["yes"],
        "additionalProperties": false,
    ]

    @Test func anAnswerIsDecoded() async throws {
        let session = try ChatSession(model, options: GenerateOptions(maxTokens: 30))
        let answer = try await session.respond(to: "Is it?", as: Answer.self, schema: schema)
        let text = try #require(await session.messages.last).content
        #expect(try JSONDecoder().decode(Answer.self, from: Data(text.utf8)).yes == answer.yes)
    }

    @Test func anAnswerThatDoesNotFitIsNotPartOfTheConversation() async throws {
        let session = try ChatSession(model, options: GenerateOptions(maxTokens: 2))
        let incomplete = await thrown { try await session.respond(to: "Is it?", as: Answer.self, schema: schema) }
        #expect(incomplete is IncompleteOutput)
        await session.setOptions(GenerateOptions(maxTokens: 30))
        let other = await thrown { try await session.respond(to: "Is it?", as: [Int].self, schema: schema) }
        #expect(other is DecodingError)
        #expect(await session.messages == [])
    }

    @Test func toolsAndRolesReachTheTemplate() async throws {
        let template = try String(
            contentsOf: repository.appending(path: "tests/fixtures/chat/qwen2.5.jinja"), encoding: .utf8)
        try await withTemporaryFolder { folder in
            let copy = folder.appending(path: "model")
            try FileManager.default.copyItem(at: tinyCoder, to: copy)
            let configuration: JSON = ["chat_template": JSON(template)]
            try Data(configuration.text.utf8).write(to: copy.appending(path: "tokenizer_config.json"))
            let model = try await Model.load(from: copy, options: exact)
            let tool: JSON = [
                "type": "function",
                "function": [
                    "name": "weather", "parameters": ["type": "object", "properties": ["z": [:], "a": [:]]],
                ],
            ]
            let call = ToolCall(name: "weather", arguments: ["z": "Rome", "a": 1])
            let messages: [ChatMessage] = [
                .user("How is it?"), ChatMessage(.assistant, "", toolCalls: [call]), .tool("sunny"),
            ]
            let text = try await model.applyChatTemplate(messages, options: ChatOptions(tools: [tool]))
            #expect(text.contains(#""name": "weather""#))
            #expect(text.contains(#"{"z": {}, "a": {}}"#), "in the order of the tool")
            #expect(text.contains(#"{"z": "Rome", "a": 1}"#))
            #expect(text.contains("<tool_response>\nsunny\n</tool_response>"))
            #expect(text.hasSuffix("<|im_start|>assistant\n"))
            let without = try await model.applyChatTemplate([.user("How is it?")])
            #expect(!without.contains("weather"))
        }
    }

    @Test func aRoleIsItsName() throws {
        #expect("\(ChatMessage.Role.tool), \(ChatMessage("critic", "Why?").role)" == "tool, critic")
        #expect(try JSON(encoding: ChatMessage.Role.user).text == #""user""#)
    }

    @Test func argumentsReachTheTemplate() async throws {
        let open = ChatOptions(addGenerationPrompt: false, continueFinalMessage: true)
        let text = try await model.applyChatTemplate([.user("Hi"), .assistant("Hello, ")], options: open)
        #expect(text.hasSuffix("Hello, ") || text.hasSuffix("Hello,"))
        let error = await thrown {
            try await model.applyChatTemplate([.user("Hi")], options: ChatOptions(continueFinalMessage: true))
        }
        #expect(error == nil || error is MetalCandleError)
    }

    @Test func aModelWithoutATemplateSaysSo() async throws {
        let session = try ChatSession(try await Model.load(from: smallQwen, options: exact))
        let error = await thrown { try await session.respond(to: "Hi") }
        #expect(error is MetalCandleError)
        #expect(await session.messages == [])
    }

    @Test func twoSessionsAtOnceAnswerAsEachAlone() async throws {
        let questions = ["Reverse a string.", "fn main() {"]
        var alone: [String] = []
        for question in questions {
            alone.append(try await ChatSession(model, options: options).respond(to: question))
        }
        let sessions = try questions.map { _ in try ChatSession(model, options: options) }
        async let first = sessions[0].respond(to: questions[0])
        async let second = sessions[1].respond(to: questions[1])
        #expect(try await [first, second] == alone)
    }
}
