internal import CMetalCandle
public import Foundation

/// What went wrong, as the library reports it: a case for each status of the C interface.
///
/// The message says what was wrong, where, and what would be right. It is in English and names files, keys
/// and values, so that it helps who develops an app; an app that tells its users decides by the case.
///
/// Where a task is cancelled that waits for the library, `CancellationError` is thrown rather than
/// ``cancelled(_:)``, as Swift's own functions do.
public enum MetalCandleError: Error, Hashable, Sendable {
    /// An argument or option is out of its range.
    case invalidArgument(String)
    /// A pointer of the C interface is null. The Swift interface never causes it.
    case nullPointer(String)
    /// A text is not valid UTF-8. The Swift interface never causes it.
    case invalidUTF8(String)
    /// A file or directory does not exist.
    case notFound(String)
    /// The operating system refused to read or write a file.
    case io(String)
    /// A file, configuration, tensor or data row is malformed.
    case invalidFormat(String)
    /// The input is well-formed but asks for something that is not supported.
    case unsupported(String)
    /// The tokenizer failed, or the model has none.
    case tokenizer(String)
    /// The device is not available.
    case device(String)
    /// The tokens do not fit into the context of the model.
    case contextFull(String)
    /// A computation gave NaN or an infinity.
    case nonFinite(String)
    /// A checkpoint or adapter does not fit what it is used with.
    case incompatible(String)
    /// Something else than the waiting task cancelled.
    case cancelled(String)
    /// The object is in use by another call.
    case busy(String)
    /// The tensor backend failed, for example for lack of memory.
    case backend(String)
    /// A defect of the library; do not use the object again.
    case `internal`(String)
    /// The work needs more memory than it may have, or the system has no room for another thread.
    case outOfMemory(String)

    /// The name and the message of the error.
    private var parts: (name: String, message: String) {
        switch self {
        case .invalidArgument(let message): ("MCANDLE_INVALID_ARGUMENT", message)
        case .nullPointer(let message): ("MCANDLE_NULL_POINTER", message)
        case .invalidUTF8(let message): ("MCANDLE_INVALID_UTF8", message)
        case .notFound(let message): ("MCANDLE_NOT_FOUND", message)
        case .io(let message): ("MCANDLE_IO", message)
        case .invalidFormat(let message): ("MCANDLE_INVALID_FORMAT", message)
        case .unsupported(let message): ("MCANDLE_UNSUPPORTED", message)
        case .tokenizer(let message): ("MCANDLE_TOKENIZER", message)
        case .device(let message): ("MCANDLE_DEVICE", message)
        case .contextFull(let message): ("MCANDLE_CONTEXT_FULL", message)
        case .nonFinite(let message): ("MCANDLE_NON_FINITE", message)
        case .incompatible(let message): ("MCANDLE_INCOMPATIBLE", message)
        case .cancelled(let message): ("MCANDLE_CANCELLED", message)
        case .busy(let message): ("MCANDLE_BUSY", message)
        case .backend(let message): ("MCANDLE_BACKEND", message)
        case .internal(let message): ("MCANDLE_INTERNAL", message)
        case .outOfMemory(let message): ("MCANDLE_OUT_OF_MEMORY", message)
        }
    }

    /// What was wrong, where, and what would be right.
    public var message: String { parts.message }

    /// The name of the status in the C interface, such as `MCANDLE_NOT_FOUND`, for logs.
    public var statusName: String { parts.name }

    /// The error for a status and its message. A status that is not known here is a defect of the library.
    init(_ status: mcandle_status, message: String) {
        switch status {
        case .invalidArgument: self = .invalidArgument(message)
        case .nullPointer: self = .nullPointer(message)
        case .invalidUtf8: self = .invalidUTF8(message)
        case .notFound: self = .notFound(message)
        case .io: self = .io(message)
        case .invalidFormat: self = .invalidFormat(message)
        case .unsupported: self = .unsupported(message)
        case .tokenizer: self = .tokenizer(message)
        case .device: self = .device(message)
        case .contextFull: self = .contextFull(message)
        case .nonFinite: self = .nonFinite(message)
        case .incompatible: self = .incompatible(message)
        case .cancelled: self = .cancelled(message)
        case .busy: self = .busy(message)
        case .backend: self = .backend(message)
        case .outOfMemory: self = .outOfMemory(message)
        case .internal: self = .internal(message)
        case .ok: self = .internal("an error without a reason: \(message)")
        @unknown default: self = .internal("status \(status.rawValue): \(message)")
        }
    }
}

extension MetalCandleError: LocalizedError {
    /// What was wrong, where, and what would be right; the same as ``message``.
    public var errorDescription: String? { message }
}
