import CMetalCandle
import Foundation
import TestSupport
import Testing

@testable import MetalCandle

/// What C has as the options of a generation, as JSON.
private func json(of options: Handle) throws -> JSON {
    try JSON(text: string { mcandle_generate_options_to_json(options.pointer, $0, $1) })
}

private func defaultsOfC() throws -> JSON {
    try json(of: Handle(mcandle_generate_options_new(), free: mcandle_generate_options_free))
}

/// Options none of which has its default.
private var unusual: GenerateOptions {
    var options = GenerateOptions(maxTokens: 7, stop: ["\n", "é"], grammar: .regex("[a-z]+"))
    options.minTokens = 2
    options.stopTokenIDs = [3, 4]
    options.ignoreEOS = true
    options.maxTime = 2.5
    options.topLogprobs = 3
    options.skipSpecialTokens = false
    options.prefillChunk = 16
    options.maxKVSize = 100
    options.maxKVBytes = 1 << 40
    options.contextShift = true
    options.keep = 5
    options.promptLookupNumTokens = 2
    options.numDraftTokens = 4
    options.sampling = SamplingOptions(temperature: 0.7, topP: 0.9, topK: 40, minP: 0.05, seed: .max)
    options.sampling.typicalP = 0.8
    options.sampling.xtcProbability = 0.25
    options.sampling.xtcThreshold = 0.2
    options.sampling.repetitionPenalty = 1.1
    options.sampling.presencePenalty = -0.5
    options.sampling.frequencyPenalty = 0.5
    options.sampling.penaltyLastN = 64
    options.sampling.dryMultiplier = 0.75
    options.sampling.dryBase = 1.5
    options.sampling.dryAllowedLength = 3
    options.sampling.dryPenaltyLastN = 32
    options.sampling.drySequenceBreakers = ["\n", "."]
    options.sampling.logitBias = [5: -.infinity, 6: 1.5]
    return options
}

/// The values of the fields of a structure, by name.
private func fields(_ value: Any) -> [String: String] {
    var fields: [String: String] = [:]
    for case (let name?, let value) in Mirror(reflecting: value).children {
        fields[name] = "\(value)"
    }
    return fields
}

@Test func theDefaultsAreThoseOfCInBothDirections() throws {
    let defaults = try defaultsOfC()
    #expect(try defaults.decode(GenerateOptions.self) == GenerateOptions())
    // C's JSON has all keys; what is null there is left out by Swift.
    var ofC = try defaults.decode([String: JSON].self)
    let ofSwift = try JSON(encoding: GenerateOptions()).decode([String: JSON].self)
    #expect(ofC.count == 17)
    ofC = ofC.filter { $0.value.text != "null" }
    #expect(Set(ofC.keys) == Set(ofSwift.keys))
    let sampling = try #require(ofC["sampling"]).decode([String: JSON].self)
    #expect(sampling.count == 18)
    #expect(try Set(#require(ofSwift["sampling"]).decode([String: JSON].self).keys) == Set(sampling.keys))
    // By way of C, so that 1 and 1.0 are the same.
    #expect(try json(of: GenerateOptions().handle()) == defaults)
}

@Test func everyKeyOfCIsReadByItsNameInSwift() throws {
    // All options that are not their defaults have all keys of C, and C gives back the same.
    let options = unusual
    for (standard, other) in [
        (fields(GenerateOptions()), fields(options)), (fields(SamplingOptions()), fields(options.sampling)),
    ] {
        #expect(!standard.isEmpty)
        for (name, value) in standard {
            #expect(other[name] != value, "\(name) has its default")
        }
    }
    let written = try json(of: options.handle())
    #expect(try written.decode(GenerateOptions.self) == options)
    #expect(try Set(written.decode([String: JSON].self).keys) == Set(defaultsOfC().decode([String: JSON].self).keys))
    #expect(!(try written.decode([String: JSON].self).values.contains { $0.text == "null" }))
}

@Test func optionsSurviveCoders() throws {
    let data = try JSONEncoder().encode(unusual)
    #expect(try JSONDecoder().decode(GenerateOptions.self, from: data) == unusual)
    #expect(try JSONDecoder().decode(GenerateOptions.self, from: Data("{}".utf8)) == GenerateOptions())
    #expect(try JSONDecoder().decode(SamplingOptions.self, from: Data("{}".utf8)) == SamplingOptions())
    let list = try PropertyListEncoder().encode(unusual)
    #expect(try PropertyListDecoder().decode(GenerateOptions.self, from: list) == unusual)
}

@Test(arguments: [Grammar.jsonSchema(["type": "integer"]), .regex("a|b"), .lark("start: \"a\"")])
func grammarsSurviveCodersAndC(grammar: Grammar) throws {
    #expect(try JSONDecoder().decode(Grammar.self, from: JSONEncoder().encode(grammar)) == grammar)
    let written = try json(of: GenerateOptions(grammar: grammar).handle())
    #expect(try written.decode(GenerateOptions.self).grammar == grammar)
}

@Test func theOrderOfASchemasKeysReachesC() throws {
    let schema: JSON = ["type": "object", "properties": ["z": ["type": "null"], "a": ["type": "null"]]]
    let written = try json(of: GenerateOptions(grammar: .jsonSchema(schema)).handle())
    #expect(written.text.contains(schema.text))
}

@Test func aBanIsFalseInJSON() async throws {
    var options = SamplingOptions()
    options.logitBias = [3: -.infinity]
    let json = try JSON(encoding: options)
    #expect(json.text.contains(#""logit_bias":{"3":false}"#))
    #expect(try json.decode(SamplingOptions.self) == options)
    let error = await thrown { try JSON(text: #"{"logit_bias": {"x": 1}}"#).decode(SamplingOptions.self) }
    #expect(error is DecodingError)
}

@Test func aNumberThatJSONLacksIsNamed() async throws {
    var options = GenerateOptions()
    options.sampling.topP = .nan
    #expect(await message(of: options).contains("sampling.top_p is nan"))
    options = GenerateOptions()
    options.sampling.logitBias = [7: .infinity]
    #expect(await message(of: options).contains("sampling.logit_bias.7 is inf"))
    options = GenerateOptions()
    options.maxTime = .infinity
    #expect(await message(of: options).contains("max_time is inf"))
}

@Test func aCountBelowZeroIsNamed() async throws {
    var options = GenerateOptions(maxTokens: -1)
    #expect(await message(of: options) == "max_tokens is -1, expected at least 0")
    options = GenerateOptions()
    options.maxKVSize = -2
    #expect(await message(of: options) == "max_kv_size is -2, expected at least 0")
    options = GenerateOptions()
    options.sampling.topK = -3
    #expect(await message(of: options) == "top_k is -3, expected at least 0")
}

/// The message of the invalid argument that options are.
private func message(of options: GenerateOptions) async -> String {
    guard case MetalCandleError.invalidArgument(let message)? = await thrown({ try options.handle() }) else {
        return "not an invalid argument"
    }
    return message
}

@Test func modelOptionsSurviveCoders() throws {
    let options = ModelOptions(
        device: .cpu, dtype: .bf16, quantization: .init(bits: 8, groupSize: 32), memoryBudget: .max)
    #expect(try JSONDecoder().decode(ModelOptions.self, from: JSONEncoder().encode(options)) == options)
    #expect(try JSON(text: "{}").decode(ModelOptions.self) == ModelOptions())
    let part = try JSON(text: #"{"quantization": {"bits": 8}}"#).decode(ModelOptions.self)
    #expect(part == ModelOptions(quantization: .init(bits: 8)))
}

@Test func chatOptionsSurviveCoders() throws {
    let tool: JSON = ["function": ["name": "f"], "type": "function"]
    let options = ChatOptions(
        tools: [tool], addGenerationPrompt: false, continueFinalMessage: true, arguments: ["enable_thinking": false])
    #expect(try JSONDecoder().decode(ChatOptions.self, from: JSONEncoder().encode(options)) == options)
    #expect(try JSON(text: "{}").decode(ChatOptions.self) == ChatOptions())
}

@Test func messagesSurviveCoders() throws {
    let call = ToolCall(name: "f", arguments: ["a": 1])
    let message = ChatMessage(.assistant, "text", toolCalls: [call], extra: ["reasoning_content": "so"])
    #expect(try JSONDecoder().decode(ChatMessage.self, from: JSONEncoder().encode(message)) == message)
    let short = try JSON(text: #"{"role": "critic", "content": "no"}"#).decode(ChatMessage.self)
    #expect(short == ChatMessage("critic", "no"))
    #expect(
        [ChatMessage.system("s"), .user("u"), .assistant("a"), .tool("t")].map(\.role.rawValue)
            == ["system", "user", "assistant", "tool"])
}

@Test func kindsAreThoseOfCBothWays() {
    for device in Device.allCases {
        #expect(Device(device.constant) == device)
    }
    for dtype in DType.allCases {
        #expect(DType(dtype.constant) == dtype)
    }
    #expect(Set(GGUFType.allCases.map(\.constant.rawValue)).count == GGUFType.allCases.count)
    #expect(Set(Adapter.Format.allCases.map(\.constant.rawValue)).count == 2)
    #expect(Set(Pooling.allCases.map(\.constant.rawValue)).count == 2)
    #expect(Set(CacheType.allCases.map(\.constant.rawValue)).count == 2)
}

@Test func finishReasonsAreThoseOfCAndOthersAreNotTakenForAnEnd() async throws {
    let reasons = try (0..<6).map { try FinishReason(#require(mcandle_finish_reason(rawValue: $0))) }
    #expect(Set(reasons) == Set(FinishReason.allCases))
    let later = try #require(mcandle_finish_reason(rawValue: 99))
    #expect(await thrown { try FinishReason(later) } is MetalCandleError)
}
