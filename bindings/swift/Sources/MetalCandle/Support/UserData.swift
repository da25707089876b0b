/// The object behind the user data of a callback, which the library goes on holding.
///
/// The library passes on what it was given, which is never null: were it, the program would end here rather
/// than go on with wrong memory.
func borrowed<Object: AnyObject>(_ userData: UnsafeMutableRawPointer?) -> Object {
    Unmanaged<Object>.fromOpaque(userData.unsafelyUnwrapped).takeUnretainedValue()
}

/// The object behind the user data of a completion, which the library gives up.
func owned<Object: AnyObject>(_ userData: UnsafeMutableRawPointer?) -> Object {
    Unmanaged<Object>.fromOpaque(userData.unsafelyUnwrapped).takeRetainedValue()
}
