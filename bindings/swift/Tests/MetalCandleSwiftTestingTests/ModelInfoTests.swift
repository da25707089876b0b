import Foundation
import MetalCandle
import TestSupport
import Testing

/// What a stored model is, beside what it is when it is loaded.
struct ModelInfoTests {
    @Test func aStoredModelIsWhatIsLoaded() async throws {
        let info = try await Model.inspect(tinyCoder)
        let model = try await Model.load(from: tinyCoder, options: exact)
        #expect(info.format == "safetensors")
        #expect(info.architecture == "qwen2")
        #expect(info.parameterCount == model.parameterCount)
        #expect(info.contextLength == model.contextLength)
        #expect(info.vocabularySize == model.vocabularySize)
        #expect(info.layerCount > 0 && info.hiddenSize > 0)
        #expect(info.quantization == nil)
        #expect(info.encodings.values.reduce(0) { $0 + $1.parameters } == info.parameterCount)
        struct Text: Decodable {
            var architecture: String
        }
        #expect(try info.json.decode(Text.self).architecture == "qwen2")
    }

    @Test func sizes() async throws {
        let info = try await Model.inspect(tinyCoder)
        #expect(try info.weightsSize(.f32) == 4 * info.parameterCount)
        #expect(try info.weightsSize(.bf16) == 2 * info.parameterCount)
        let thousand = try info.cacheSize(tokens: 1000, dtype: .f32)
        #expect(thousand > 0)
        #expect(try info.cacheSize(tokens: 2000, dtype: .f32) == 2 * thousand)
        #expect(try info.cacheSize(tokens: 1000, dtype: .f16) == thousand / 2)
        #expect(try info.cacheSize(tokens: 1000, dtype: .f32, cacheType: .int8) < thousand / 2)
        #expect(try info.cacheSize(tokens: 0, dtype: .f32) == 0)
        #expect(throws: MetalCandleError.self) { try info.weightsSize(.auto) }
        #expect(throws: MetalCandleError.self) { try info.cacheSize(tokens: -1, dtype: .f32) }
    }

    @Test func aQuantisedModel() async throws {
        let info = try await Model.inspect(repository.appending(path: "tests/fixtures/mlx/q4"))
        #expect(info.format == "mlx")
        #expect(info.quantization != nil)
        #expect(try info.weightsSize(.f32) < 4 * info.parameterCount)
    }

    @Test func whatIsNoModelIsRefused() async throws {
        do {
            _ = try await Model.inspect(repository.appending(path: "nowhere"))
            Issue.record("it was found")
        } catch MetalCandleError.notFound(let message) {
            #expect(message.contains("nowhere"))
        }
        await #expect(throws: MetalCandleError.self) {
            try await Model.inspect(URL(filePath: "/model").appending(path: "a\0b"))
        }
    }
}
