internal import CMetalCandle
internal import Foundation

/// Lends a text as a pointer to its UTF-8 and its length.
func withText<Result>(
    _ text: String, _ body: (UnsafePointer<CChar>?, Int) throws -> Result
) rethrows -> Result {
    var text = text
    return try text.withUTF8 { bytes in
        try bytes.withMemoryRebound(to: CChar.self) { try body($0.baseAddress, $0.count) }
    }
}

/// Lends a name that ends with a NUL, and therefore must not hold one.
func withName<Result>(
    _ name: String, _ what: String, _ body: (UnsafePointer<CChar>) throws -> Result
) throws -> Result {
    if name.utf8.contains(0) {
        throw MetalCandleError.invalidArgument("\(what) has a NUL character: \(name.debugDescription)")
    }
    return try name.withCString(body)
}

/// Lends names that end with a NUL each, and therefore must not hold one.
func withNames<Result>(
    _ names: [String], _ what: String, _ body: ([UnsafePointer<CChar>]) throws -> Result
) throws -> Result {
    var starts: [Int] = []
    var characters: [CChar] = []
    for name in names {
        starts.append(characters.count)
        try withName(name, what) { _ in characters += name.utf8CString }
    }
    return try characters.withUnsafeBufferPointer { characters in
        try body(characters.baseAddress.map { base in starts.map { base + $0 } } ?? [])
    }
}

/// Lends the path of a file or directory.
func withPath<Result>(_ url: URL, _ body: (UnsafePointer<CChar>) throws -> Result) throws -> Result {
    guard url.isFileURL else {
        throw MetalCandleError.invalidArgument("not the URL of a file or directory: \(url.absoluteString)")
    }
    let path = url.path(percentEncoded: false)
    // Where its bytes are not UTF-8 it is empty, which would be the current directory.
    if path.isEmpty {
        throw MetalCandleError.invalidArgument("a URL without a path in UTF-8: \(url.absoluteString)")
    }
    return try withName(path, "the path", body)
}

/// Copies text that the library lends with its length.
func text(_ read: (UnsafeMutablePointer<Int>) -> UnsafePointer<CChar>) -> String {
    var length = 0
    let start = read(&length)
    return String(decoding: UnsafeRawBufferPointer(start: start, count: length), as: UTF8.self)
}

/// Copies numbers that the library lends with their count.
func array<Element>(_ read: (UnsafeMutablePointer<Int>) -> UnsafePointer<Element>?) -> [Element] {
    var count = 0
    let start = read(&count)
    return Array(UnsafeBufferPointer(start: start, count: start == nil ? 0 : count))
}

/// Copies and frees a text that a function hands out.
func string(
    _ make: (UnsafeMutablePointer<OpaquePointer?>, UnsafeMutablePointer<OpaquePointer?>) -> mcandle_status
) throws -> String {
    let string = try Handle(free: mcandle_string_free, make)
    let length = mcandle_string_length(string.pointer)
    let start = mcandle_string_data(string.pointer)
    return String(decoding: UnsafeRawBufferPointer(start: start, count: length), as: UTF8.self)
}

/// Copies and frees token ids that a function hands out.
func tokens(
    _ make: (UnsafeMutablePointer<OpaquePointer?>, UnsafeMutablePointer<OpaquePointer?>) -> mcandle_status
) throws -> [UInt32] {
    let tokens = try Handle(free: mcandle_tokens_free, make)
    return Array(
        UnsafeBufferPointer(start: mcandle_tokens_data(tokens.pointer), count: mcandle_tokens_length(tokens.pointer)))
}

/// Copies and frees numbers that a function hands out.
func floats(
    _ make: (UnsafeMutablePointer<OpaquePointer?>, UnsafeMutablePointer<OpaquePointer?>) -> mcandle_status
) throws -> [Float] {
    let floats = try Handle(free: mcandle_floats_free, make)
    return Array(
        UnsafeBufferPointer(start: mcandle_floats_data(floats.pointer), count: mcandle_floats_length(floats.pointer)))
}
