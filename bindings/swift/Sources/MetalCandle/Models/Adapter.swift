internal import CMetalCandle
public import Foundation

/// A LoRA adapter: low-rank changes to the weights of one model.
///
/// It is never written, so any number of generators can use one at the same time.
public final class Adapter: Sendable {
    let handle: Handle

    init(_ handle: Handle) {
        self.handle = handle
    }

    /// Loads an adapter from a directory in PEFT's or mlx-lm's format.
    ///
    /// - Throws: ``MetalCandleError/incompatible(_:)`` where it belongs to a model of another shape.
    public static func load(from url: URL, for model: Model) async throws -> Adapter {
        try await BlockingWork.run {
            try withPath(url) { path in
                Adapter(
                    try Handle(free: mcandle_adapter_free) {
                        mcandle_adapter_load(path, model.handle.pointer, $0, $1)
                    })
            }
        }
    }

    /// Saves the adapter as a directory, whole or not at all.
    public func save(to url: URL, format: Format = .peft) async throws {
        try await BlockingWork.run { [handle] in
            try withPath(url) { path in
                try check { mcandle_adapter_save_as(handle.pointer, path, format.constant, $0) }
            }
        }
    }

    /// The number of weights.
    public var parameterCount: UInt64 { mcandle_adapter_parameter_count(handle.pointer) }

    /// The rank of its matrices.
    public var rank: Int { mcandle_adapter_rank(handle.pointer) }

    /// The format of an adapter's directory.
    public enum Format: String, Codable, CaseIterable, Sendable {
        /// That of Hugging Face's PEFT: `adapter_config.json` and `adapter_model.safetensors`.
        case peft
        /// That of mlx-lm: `adapter_config.json` and `adapters.safetensors`.
        case mlx

        var constant: mcandle_adapter_format {
            switch self {
            case .peft: .peft
            case .mlx: .mlx
            }
        }
    }
}

extension Model {
    /// Makes a model of its own whose weights have an adapter merged into them.
    ///
    /// It is as fast as the model without the adapter. ``save(to:)`` saves it.
    public func fused(with adapter: Adapter) async throws -> Model {
        try await BlockingWork.run { [handle] in
            Model(
                try Handle(free: mcandle_model_free) {
                    mcandle_model_merge(handle.pointer, adapter.handle.pointer, $0, $1)
                })
        }
    }
}
