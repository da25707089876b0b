internal import CMetalCandle

/// Where a model computes.
public enum Device: String, Codable, CaseIterable, Sendable {
    /// Metal where there is a usable one, else CUDA where the build has it, else the CPU.
    case auto
    /// The CPU.
    case cpu
    /// Apple's GPU; needs macOS 15 or iOS 18.
    case metal
    /// An NVIDIA GPU; needs a build with CUDA, and a driver.
    case cuda

    /// Whether models can compute there.
    public var isAvailable: Bool { mcandle_device_is_available(constant) }

    var constant: mcandle_device {
        switch self {
        case .auto: .auto
        case .cpu: .cpu
        case .metal: .metal
        case .cuda: .cuda
        }
    }

    init(_ constant: mcandle_device) {
        switch constant {
        case .cpu: self = .cpu
        case .metal: self = .metal
        case .cuda: self = .cuda
        case .auto: self = .auto
        @unknown default: self = .auto
        }
    }
}

/// The number format of weights and activations.
public enum DType: String, Codable, CaseIterable, Sendable {
    /// What the checkpoint has where the device computes it well, else 32-bit floats.
    case auto
    /// 32-bit floats.
    case f32
    /// 16-bit floats of IEEE 754.
    case f16
    /// 16-bit brain floats.
    case bf16

    var constant: mcandle_dtype {
        switch self {
        case .auto: .auto
        case .f32: .f32
        case .f16: .f16
        case .bf16: .bf16
        }
    }

    init(_ constant: mcandle_dtype) {
        switch constant {
        case .f32: self = .f32
        case .f16: self = .f16
        case .bf16: self = .bf16
        case .auto: self = .auto
        @unknown default: self = .auto
        }
    }
}
