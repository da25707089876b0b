internal import CMetalCandle
public import Foundation

/// A loaded language model.
///
/// Its weights are never written, so any number of generators, sessions and trainers can use one model at the
/// same time, from any task. They keep what they need of it.
///
/// ```swift
/// let model = try await Model.load(from: URL(filePath: "assets/tiny-coder"))
/// let session = try ChatSession(model)
/// print(try await session.respond(to: "Reverse a string in Rust."))
/// ```
public final class Model: Sendable {
    let handle: Handle

    init(_ handle: Handle) {
        self.handle = handle
    }

    /// Loads a model on a thread of the library.
    ///
    /// Where the task is cancelled, or `progress` is, the loading ends before the next tensor.
    ///
    /// - Parameters:
    ///   - url: A directory as Hugging Face and mlx-lm store models, or a GGUF file.
    ///   - options: Device, number format, quantisation and a bound on memory.
    ///   - progress: Is told of bytes as they are read; its `cancel()` cancels the loading.
    /// - Throws: ``MetalCandleError``, such as ``MetalCandleError/notFound(_:)``,
    ///   ``MetalCandleError/invalidFormat(_:)``, ``MetalCandleError/unsupported(_:)``,
    ///   ``MetalCandleError/outOfMemory(_:)``, and ``MetalCandleError/cancelled(_:)`` where the progress was
    ///   cancelled; `CancellationError` where the task was.
    public static func load(
        from url: URL, options: ModelOptions = ModelOptions(), progress: Progress? = nil
    ) async throws -> Model {
        try await ModelLoading(progress: progress).run(url: url, options: options)
    }

    /// Computes once with made-up tokens, so that the first answer does not pay for what is made once, such as
    /// Metal's kernels.
    public func warmUp() async throws {
        try await BlockingWork.run { [handle] in
            try check { mcandle_model_warm_up(handle.pointer, $0) }
        }
    }

    /// Saves the model as a directory that transformers and mlx-lm load, whole or not at all.
    public func save(to url: URL) async throws {
        try await BlockingWork.run { [handle] in
            try withPath(url) { path in
                try check { mcandle_model_save(handle.pointer, path, $0) }
            }
        }
    }

    /// Saves the model as a GGUF file that llama.cpp runs, whole or not at all.
    public func saveGGUF(to url: URL, type: GGUFType = .q8_0) async throws {
        try await BlockingWork.run { [handle] in
            try withPath(url) { path in
                try check { mcandle_model_save_gguf(handle.pointer, path, type.constant, $0) }
            }
        }
    }

    /// The number of weights.
    public var parameterCount: UInt64 { mcandle_model_parameter_count(handle.pointer) }

    /// The most tokens that the model can take into account.
    public var contextLength: Int { mcandle_model_context_length(handle.pointer) }

    /// The number of token ids that the model can choose from.
    public var vocabularySize: Int { mcandle_model_vocab_size(handle.pointer) }

    /// Whether linear maps are kept in fewer bits.
    public var isQuantized: Bool { mcandle_model_is_quantized(handle.pointer) }

    /// Where the model computes.
    public var device: Device { Device(mcandle_model_device(handle.pointer)) }

    /// The number format of weights and activations.
    public var dtype: DType { DType(mcandle_model_dtype(handle.pointer)) }

    /// What the model is, in a line for people: architecture, size, vocabulary, context, number format, device.
    public var summary: String {
        get throws { try string { mcandle_model_summary(handle.pointer, $0, $1) } }
    }
}

/// The number format of the weights in a GGUF file.
public enum GGUFType: String, Codable, CaseIterable, Sendable {
    /// 16-bit floats of IEEE 754.
    case f16
    /// 16-bit brain floats.
    case bf16
    /// 8.5 bits a weight; hardly to be told from 16 bits.
    case q8_0
    /// 6.6 bits a weight.
    case q6K = "q6_k"
    /// About 4.8 bits a weight, of the mix also called Q4_K_M; the usual choice where memory is scarce.
    case q4K = "q4_k"
    /// 4.5 bits a weight; the fastest on many CPUs, and the least accurate.
    case q4_0

    var constant: mcandle_gguf_type {
        switch self {
        case .f16: .f16
        case .bf16: .bf16
        case .q8_0: .q8_0
        case .q6K: .q6K
        case .q4K: .q4K
        case .q4_0: .q4_0
        }
    }
}
