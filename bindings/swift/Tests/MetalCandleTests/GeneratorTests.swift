import MetalCandle
import TestSupport
import XCTest

final class GeneratorTests: XCTestCase {
    private func generator() async throws -> Generator {
        try Generator(try await Model.load(from: tinyCoder, options: exact))
    }

    func testChunksMakeUpTheGeneration() async throws {
        let generator = try await generator()
        var tokens: [Chunk.Token] = []
        var ends: [Generation] = []
        for try await chunk in generator.generate("fn main() {", options: GenerateOptions(maxTokens: 12)) {
            XCTAssertTrue(ends.isEmpty, "the end comes last")
            switch chunk {
            case .token(let token):
                XCTAssertEqual(token.text, chunk.text)
                tokens.append(token)
            case .end(let generation):
                XCTAssertEqual(chunk.text, "")
                ends.append(generation)
            }
        }
        let generation = try XCTUnwrap(ends.first)
        XCTAssertEqual(ends.count, 1)
        XCTAssertEqual(tokens.map(\.text).joined(), generation.text)
        // One more may bring text that was held back.
        XCTAssertEqual(Array(tokens.map(\.id).prefix(12)), generation.tokens)
        XCTAssertEqual(Array(tokens.map(\.index).prefix(12)), Array(0..<12))
        XCTAssertEqual(Array(tokens.map(\.logprob).prefix(12)), generation.logprobs)
        XCTAssertEqual(generation.finishReason, .length)
        XCTAssertNil(generation.stopString)
        XCTAssertGreaterThan(generation.promptTokens, 2)
        XCTAssertEqual(generation.cachedTokens, 0)
        XCTAssertGreaterThan(generation.timeToFirstToken, 0)
        XCTAssertGreaterThan(generation.tokensPerSecond, 0)
    }

    func testGreedyTokensAreThoseOfTheReference() async throws {
        let generator = try await generator()
        for prompt in try Reference.read().prompts {
            var options = GenerateOptions(maxTokens: prompt.greedyIDs.count)
            options.topLogprobs = 5
            var first: [Chunk.Token.TopLogprob] = []
            var generation: Generation?
            for try await chunk in generator.generate(.ids(prompt.inputIDs), options: options) {
                switch chunk {
                case .token(let token):
                    if token.index == prompt.greedyIDs.count - 1, token.topLogprobs.isEmpty {
                        continue  // It brings text that was held back.
                    }
                    XCTAssertEqual(token.topLogprobs.first?.id, token.id)
                    XCTAssertEqual(token.topLogprobs.map(\.logprob), token.topLogprobs.map(\.logprob).sorted(by: >))
                    if token.index == 0 {
                        first = token.topLogprobs
                    }
                case .end(let end): generation = end
                }
            }
            let ofIDs = try XCTUnwrap(generation)
            XCTAssertEqual(ofIDs.tokens, prompt.greedyIDs)
            XCTAssertEqual(first.map(\.id), Array(prompt.lastLogits.ids.prefix(5)))
            XCTAssertEqual(ofIDs.logprobs.count, prompt.greedyLogprobs.count)
            for (found, expected) in zip(ofIDs.logprobs, prompt.greedyLogprobs) {
                XCTAssertEqual(found, expected, accuracy: 1e-3)
            }
            let ofText = try await generator.generation(of: .text(prompt.text), options: options)
            XCTAssertEqual(ofText.tokens, prompt.greedyIDs)
            XCTAssertEqual(ofText.text, ofIDs.text)
        }
    }

    func testAConversationIsItsTemplatesText() async throws {
        let generator = try await generator()
        let messages: [ChatMessage] = [.system("Be short."), .user("Reverse \"é\" in Rust.\n")]
        let text = try await generator.model.applyChatTemplate(messages)
        XCTAssertTrue(text.hasSuffix("<|im_start|>assistant\n"))
        let options = GenerateOptions(maxTokens: 8)
        let ofText = try await generator.generation(of: .text(text), options: options)
        let ofChat = try await generator.generation(of: .chat(messages), options: options)
        XCTAssertEqual(ofChat.tokens, ofText.tokens)
        XCTAssertEqual(ofChat.promptTokens, ofText.promptTokens)
        XCTAssertGreaterThan(ofChat.cachedTokens, ofChat.promptTokens - 2, "it was read before")
        let open = ChatOptions(addGenerationPrompt: false)
        let other = try await generator.generation(of: .chat(messages, open), options: options)
        XCTAssertLessThan(other.promptTokens, ofChat.promptTokens)
    }

    func testAMiddleIsFilledInAsByTheReference() async throws {
        let generator = try await generator()
        let reference = try XCTUnwrap(try Reference.read().prompts.first { $0.text.hasPrefix("<|fim_prefix|>") })
        let parts = reference.text.components(separatedBy: "<|fim_suffix|>")
        let prefix = String(try XCTUnwrap(parts.first).dropFirst("<|fim_prefix|>".count))
        let suffix = try XCTUnwrap(parts.last).replacingOccurrences(of: "<|fim_middle|>", with: "")
        let ids = try generator.model.fimPrompt(prefix: prefix, suffix: suffix)
        XCTAssertEqual(ids, reference.inputIDs)
        let options = GenerateOptions(maxTokens: 6)
        let stream = generator.complete(prefix: prefix, suffix: suffix, options: options)
        let end = try await stream.end()
        XCTAssertEqual(end?.tokens, Array(reference.greedyIDs.prefix(6)))
        XCTAssertFalse(try generator.model.fimStopTokens.isEmpty)
        let context = FIMContext(repoName: "stacks", path: "a.rs", files: [.init(path: "b.rs", text: "struct A;")])
        XCTAssertGreaterThan(
            try generator.model.fimPrompt(prefix: prefix, suffix: suffix, context: context).count, ids.count)
        let nul = FIMContext(repoName: "a\u{0}b")
        let error = await thrown {
            try await generator.complete(prefix: "", suffix: "", context: nul, options: options).end()
        }
        XCTAssertEqual((error as? MetalCandleError)?.statusName, "MCANDLE_INVALID_ARGUMENT")
    }

    func testAStopStringEndsTheText() async throws {
        let generator = try await generator()
        let prompt = try Reference.read().prompts[1]
        let whole = try await generator.generation(of: .ids(prompt.inputIDs), options: GenerateOptions(maxTokens: 32))
        let stop = "-> Point"
        let before = try XCTUnwrap(whole.text.range(of: stop)).lowerBound
        let options = GenerateOptions(maxTokens: 32, stop: ["never", stop])
        var text = ""
        var end: Generation?
        for try await chunk in generator.generate(.ids(prompt.inputIDs), options: options) {
            text += chunk.text
            if case .end(let generation) = chunk {
                end = generation
            }
        }
        XCTAssertEqual(end?.text, String(whole.text[..<before]))
        XCTAssertEqual(text, end?.text)
        XCTAssertEqual(end?.finishReason, .stopString)
        XCTAssertEqual(end?.stopString, stop)
    }

    func testStopTokensAndLimitsEndTheText() async throws {
        let generator = try await generator()
        let prompt = try Reference.read().prompts[0]
        var options = GenerateOptions(maxTokens: 32)
        options.stopTokenIDs = [prompt.greedyIDs[5]]
        var end = try await generator.generation(of: .ids(prompt.inputIDs), options: options)
        XCTAssertEqual(end.finishReason, .stop)
        XCTAssertEqual(end.tokens, Array(prompt.greedyIDs.prefix(5)))
        options = GenerateOptions(maxTokens: 32)
        options.maxKVSize = prompt.inputIDs.count + 4
        end = try await generator.generation(of: .ids(prompt.inputIDs), options: options)
        XCTAssertEqual(end.finishReason, .contextFull)
        options = GenerateOptions(maxTokens: 32)
        options.maxTime = 1e-9
        end = try await generator.generation(of: .ids(prompt.inputIDs), options: options)
        XCTAssertEqual(end.finishReason, .timeLimit)
        XCTAssertEqual(try JSONDecoder().decode(Generation.self, from: JSONEncoder().encode(end)), end)
    }

    func testTheSameSeedChoosesTheSameTokens() async throws {
        let generator = try await generator()
        var texts: Set<String> = []
        for seed: UInt64 in 1...4 {
            let options = GenerateOptions(maxTokens: 10, sampling: SamplingOptions(temperature: 0.8, seed: seed))
            let first = try await generator.generation(of: "fn main() {", options: options)
            let second = try await generator.generation(of: "fn main() {", options: options)
            XCTAssertEqual(first.tokens, second.tokens)
            texts.insert(first.text)
        }
        XCTAssertGreaterThan(texts.count, 1)
    }

    func testChunksAreWholeCharacters() async throws {
        let generator = try await generator()
        let text = "😀é日本🚀"
        var chunks: [String] = []
        let options = GenerateOptions(maxTokens: 64, grammar: .regex(text))
        for try await case .token(let token) in generator.generate("x = ", options: options) {
            chunks.append(token.text)
        }
        XCTAssertEqual(chunks.joined(), text)
        XCTAssertFalse(chunks.joined().contains("\u{FFFD}"))
        XCTAssertTrue(chunks.contains(""), "some tokens are parts of characters")
    }

    func testABannedTokenIsNotGenerated() async throws {
        let generator = try await generator()
        let prompt = try Reference.read().prompts[0]
        var options = GenerateOptions(maxTokens: 4)
        options.sampling.logitBias = [prompt.greedyIDs[0]: -.infinity]
        let generation = try await generator.generation(of: .ids(prompt.inputIDs), options: options)
        XCTAssertEqual(generation.tokens.first, prompt.lastLogits.ids[1])
    }

    func testDraftsChangeNoToken() async throws {
        let generator = try await generator()
        let prompt = try Reference.read().prompts[1]
        var options = GenerateOptions(maxTokens: 24)
        options.promptLookupNumTokens = 2
        let lookedUp = try await generator.generation(of: .ids(prompt.inputIDs), options: options)
        XCTAssertEqual(lookedUp.tokens, Array(prompt.greedyIDs.prefix(24)))
        XCTAssertGreaterThan(lookedUp.draftedTokens, 0)
        options.promptLookupNumTokens = 0
        try await generator.setDraftModel(generator.model)
        let drafted = try await generator.generation(of: .ids(prompt.inputIDs), options: options)
        XCTAssertEqual(drafted.tokens, lookedUp.tokens)
        XCTAssertGreaterThan(drafted.acceptedTokens, 10)
        try await generator.setDraftModel(nil)
    }

    func testWhatFailsIsThrownByTheStreamAndNamesTheOption() async throws {
        let generator = try await generator()
        var cases: [(GenerateOptions, String)] = [
            (GenerateOptions(maxTokens: 0), "max_tokens"),
            (GenerateOptions(maxTokens: -1), "max_tokens"),
            (GenerateOptions(sampling: SamplingOptions(temperature: -1)), "temperature"),
            (GenerateOptions(sampling: SamplingOptions(temperature: .nan)), "temperature"),
            (GenerateOptions(sampling: SamplingOptions(temperature: 1, topP: 2)), "top_p"),
            (GenerateOptions(stop: [""]), "stop"),
            (GenerateOptions(grammar: .regex("(")), "regex"),
            (GenerateOptions(grammar: .jsonSchema(["type": "nothing"])), "type"),
        ]
        var options = GenerateOptions()
        options.topLogprobs = 101
        cases.append((options, "top_logprobs"))
        options = GenerateOptions()
        options.sampling.logitBias = [1_000_000: 1]
        cases.append((options, "logit_bias"))
        for (options, name) in cases {
            let error = await thrown { try await generator.generate("x", options: options).end() }
            guard case MetalCandleError.invalidArgument(let message)? = error else {
                XCTFail("\(name): \(String(describing: error))")
                continue
            }
            XCTAssertTrue(message.contains(name), message)
        }
        let outside = await thrown { try await generator.generation(of: .ids([5, 1_000_000])) }
        XCTAssertEqual((outside as? MetalCandleError)?.statusName, "MCANDLE_INVALID_ARGUMENT")
        let tooLong = await thrown {
            try await generator.generation(of: .ids(Array(repeating: 5, count: 3000)))
        }
        XCTAssertEqual((tooLong as? MetalCandleError)?.statusName, "MCANDLE_CONTEXT_FULL")
        let next = try await generator.generation(of: "x", options: GenerateOptions(maxTokens: 2))
        XCTAssertEqual(next.tokens.count, 2, "a failure does not keep its turn")
    }
}
