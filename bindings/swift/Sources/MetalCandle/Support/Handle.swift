internal import CMetalCandle

/// Owns an object of the C interface, and frees it with its last reference.
///
/// It may go from thread to thread because every such object may. What is shared between threads has only
/// functions that may run side by side, or answers a second call with `MetalCandleError.busy`; the few
/// objects that are neither, such as options, never leave the call that makes them.
final class Handle: @unchecked Sendable {
    let pointer: OpaquePointer
    private let free: @Sendable (OpaquePointer?) -> Void

    init(_ pointer: OpaquePointer, free: @escaping @Sendable (OpaquePointer?) -> Void) {
        self.pointer = pointer
        self.free = free
    }

    deinit {
        free(pointer)
    }

    /// Owns what a function hands out through its first output.
    convenience init(
        free: @escaping @Sendable (OpaquePointer?) -> Void,
        _ make: (UnsafeMutablePointer<OpaquePointer?>, UnsafeMutablePointer<OpaquePointer?>) -> mcandle_status
    ) throws {
        var made: OpaquePointer?
        try check { make(&made, $0) }
        guard let made else {
            throw MetalCandleError.internal("the library handed out nothing")
        }
        self.init(made, free: free)
    }
}

/// Makes a call that takes, last, a place for an error, and throws that error.
func check(_ call: (UnsafeMutablePointer<OpaquePointer?>) -> mcandle_status) throws {
    var error: OpaquePointer?
    let status = call(&error)
    defer { mcandle_error_free(error) }
    if status != .ok {
        throw MetalCandleError(status, message: String(cString: mcandle_error_message(error)))
    }
}

extension MetalCandleError {
    /// Copies an error object that is lent.
    init(of error: OpaquePointer?) {
        self.init(mcandle_error_status(error), message: String(cString: mcandle_error_message(error)))
    }

    /// Takes over an error object that a completion received.
    init(taking error: OpaquePointer) {
        self.init(of: error)
        mcandle_error_free(error)
    }
}
