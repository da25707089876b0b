import ChatAppModels
import MetalCandle
import Testing

@MainActor
private func chat(maxTokens: Int) async throws -> ChatModel {
    let model = try await Model.load(from: Fixtures.tinyCoder, options: Fixtures.exact)
    return try ChatModel(model, options: GenerateOptions(maxTokens: maxTokens))
}

@MainActor
@Test func aMessageIsAnsweredAsItComes() async throws {
    let chat = try await chat(maxTokens: 24)
    chat.draft = "Reverse a string in Rust."
    #expect(chat.canSend)
    chat.send()
    #expect(chat.isAnswering)
    #expect(chat.draft.isEmpty)
    #expect(!chat.canSend)
    try await wait { chat.messages.last?.text.isEmpty == false }
    await chat.answering?.value
    #expect(!chat.isAnswering)
    #expect(chat.messages.map(\.isFromPerson) == [true, false])
    #expect(chat.messages.first?.text == "Reverse a string in Rust.")
    #expect((chat.tokensPerSecond ?? 0) > 0)
    #expect(chat.error == nil)

    // What is generated from the same conversation is what was shown.
    let generator = try Generator(try await Model.load(from: Fixtures.tinyCoder, options: Fixtures.exact))
    let expected = try await generator.generation(
        of: .chat([.user("Reverse a string in Rust.")]), options: GenerateOptions(maxTokens: 24))
    #expect(chat.messages.last?.text == expected.text)
}

@MainActor
@Test func anAnswerCanBeStopped() async throws {
    let chat = try await chat(maxTokens: 1500)
    chat.draft = "Write a long program."
    chat.send()
    try await wait { (chat.messages.last?.text.count ?? 0) > 10 }
    chat.stop()
    await chat.answering?.value
    #expect(!chat.isAnswering)
    let shown = try #require(chat.messages.last?.text)
    #expect(shown.count > 10)

    // The conversation goes on after it.
    chat.draft = "Go on."
    #expect(chat.canSend)
    chat.send()
    try await wait { chat.messages.count == 4 && chat.messages.last?.text.isEmpty == false }
    await chat.clear()
    #expect(chat.messages.isEmpty)
    #expect(!chat.isAnswering)
}

@MainActor
@Test func aMessageThatIsStoppedBeforeItsAnswerIsGivenBack() async throws {
    let chat = try await chat(maxTokens: 1500)
    chat.draft = "Write a long program."
    chat.send()
    chat.stop()
    await chat.answering?.value
    #expect(!chat.isAnswering)
    #expect(chat.messages.isEmpty)
    #expect(chat.draft == "Write a long program.")
    #expect(chat.error == nil)
}

@MainActor
@Test func aMessageThatCannotBeAnsweredIsGivenBack() async throws {
    let chat = try await chat(maxTokens: 4)
    let long = String(repeating: "let x = 1; ", count: 2000)
    chat.draft = long
    chat.send()
    await chat.answering?.value
    #expect(chat.error?.isEmpty == false)
    #expect(chat.messages.isEmpty)
    #expect(chat.draft == long)
    #expect(chat.canSend)

    chat.draft = "short"
    chat.send()
    #expect(chat.error == nil)
    await chat.answering?.value
    #expect(chat.messages.count == 2)
}

@MainActor
@Test func nothingIsSentOfBlanks() async throws {
    let chat = try await chat(maxTokens: 4)
    chat.draft = " \n"
    chat.send()
    #expect(chat.messages.isEmpty)
    #expect(chat.answering == nil)
}
