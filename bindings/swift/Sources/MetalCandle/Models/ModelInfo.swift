internal import CMetalCandle
public import Foundation

/// What a stored model is, found out without loading its weights.
///
/// It tells whether a model fits before it is loaded:
///
/// ```swift
/// let info = try await Model.inspect(url)
/// let bytes = try info.weightsSize(.bf16) + info.cacheSize(tokens: 8192, dtype: .bf16)
/// ```
public struct ModelInfo: Sendable {
    /// The format in which it is stored, such as `safetensors`, `mlx`, `gguf` or `pytorch`.
    public var format: String { contents.format }
    /// The family, such as `qwen2` or `llama`.
    public var architecture: String { contents.architecture }
    /// The number of weights; a tied embedding counts once.
    public var parameterCount: UInt64 { contents.parameters }
    /// The number of layers.
    public var layerCount: Int { contents.layers }
    /// The length of a hidden state.
    public var hiddenSize: Int { contents.hiddenSize }
    /// The number of token ids that the model can choose from.
    public var vocabularySize: Int { contents.vocabularySize }
    /// The most tokens that prompt and generated text can have together.
    public var contextLength: Int { contents.contextLength }
    /// The encoding of most of the weights that stay quantised, such as `Q4_K`; `nil` where no weight is.
    public var quantization: String? { contents.quantization }
    /// How the weights are stored, by the name of each encoding.
    public var encodings: [String: Encoding] { contents.encodings }
    /// All that was found out, as the C interface gives it.
    public let json: JSON

    /// What is stored in one encoding.
    public struct Encoding: Codable, Hashable, Sendable {
        /// The number of tensors.
        public var tensors: Int
        /// The number of weights in them.
        public var parameters: UInt64
        /// Their size in the files.
        public var bytes: UInt64
    }

    private struct Contents: Decodable {
        var format: String
        var architecture: String
        var parameters: UInt64
        var layers: Int
        var hiddenSize: Int
        var vocabularySize: Int
        var contextLength: Int
        var quantization: String?
        var encodings: [String: Encoding]

        enum CodingKeys: String, CodingKey {
            case format, architecture, parameters, layers
            case hiddenSize = "hidden_size"
            case vocabularySize = "vocab_size"
            case contextLength = "context_length"
            case quantization, encodings
        }
    }

    private let contents: Contents
    private let handle: Handle

    init(_ handle: Handle) throws {
        self.handle = handle
        json = try JSON(text: string { mcandle_model_info_json(handle.pointer, $0, $1) })
        contents = try json.decode()
    }

    /// Gives the bytes that the weights take when they are loaded in a number format, of which those that are stored
    /// quantised are not.
    ///
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` for ``DType/auto``.
    public func weightsSize(_ dtype: DType) throws -> UInt64 {
        var bytes: UInt64 = 0
        try check { mcandle_model_info_weights_size(handle.pointer, dtype.constant, &bytes, $0) }
        return bytes
    }

    /// Gives the bytes that keys and values of a conversation take.
    ///
    /// - Parameters:
    ///   - tokens: The tokens of the conversation.
    ///   - dtype: The number format of the model.
    ///   - cacheType: How keys and values are kept.
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` for ``DType/auto`` and for fewer than 0 tokens.
    public func cacheSize(tokens: Int, dtype: DType, cacheType: CacheType = .full) throws -> UInt64 {
        let tokens = try size(tokens, "tokens")
        var bytes: UInt64 = 0
        try check {
            mcandle_model_info_cache_size(handle.pointer, tokens, dtype.constant, cacheType.constant, &bytes, $0)
        }
        return bytes
    }
}

extension Model {
    /// Finds out what a stored model is, without loading its weights.
    ///
    /// - Parameter url: A directory or file, as ``load(from:options:progress:)`` takes it.
    /// - Throws: ``MetalCandleError/notFound(_:)``, ``MetalCandleError/invalidFormat(_:)``,
    ///   ``MetalCandleError/unsupported(_:)``, ``MetalCandleError/io(_:)``.
    public static func inspect(_ url: URL) async throws -> ModelInfo {
        try await BlockingWork.run {
            try withPath(url) { path in
                try ModelInfo(Handle(free: mcandle_model_info_free) { mcandle_model_inspect(path, $0, $1) })
            }
        }
    }
}
