/// The object behind the user data of a callback, which the library goes on holding.
func borrowed<Object: AnyObject>(_ userData: UnsafeMutableRawPointer?) -> Object {
    object(userData).takeUnretainedValue()
}

/// The object behind the user data of a completion, which the library gives up.
func owned<Object: AnyObject>(_ userData: UnsafeMutableRawPointer?) -> Object {
    object(userData).takeRetainedValue()
}

/// The library passes on what it was given, which is never null: were it, the program ends here, in every build,
/// rather than go on with wrong memory.
private func object<Object: AnyObject>(_ userData: UnsafeMutableRawPointer?) -> Unmanaged<Object> {
    guard let userData else {
        preconditionFailure("a callback without its user data")
    }
    return Unmanaged.fromOpaque(userData)
}
