internal import CMetalCandle
internal import Foundation

extension KeyedDecodingContainer {
    /// Decodes a key, or gives the default where it is left out.
    func decode<Value: Decodable>(_ key: Key, or standard: Value) throws -> Value {
        try decodeIfPresent(Value.self, forKey: key) ?? standard
    }

    /// Decodes a key that may be null, or gives the default where it is left out.
    func decode<Value: Decodable>(_ key: Key, or standard: Value?) throws -> Value? {
        contains(key) ? try decodeIfPresent(Value.self, forKey: key) : standard
    }
}

/// A number that C takes without a sign.
func size(_ value: Int, _ name: String) throws -> Int {
    if value < 0 {
        throw MetalCandleError.invalidArgument("\(name) is \(value), expected at least 0")
    }
    return value
}

/// Makes options of C from options that encode to the JSON that C reads.
func optionsHandle(
    _ options: some Encodable, free: @escaping @Sendable (OpaquePointer?) -> Void,
    _ make: (
        UnsafePointer<CChar>?, Int, UnsafeMutablePointer<OpaquePointer?>, UnsafeMutablePointer<OpaquePointer?>
    ) -> mcandle_status
) throws -> Handle {
    let json: JSON
    do {
        json = try JSON(encoding: options)
    } catch EncodingError.invalidValue(let value, let context) {
        let key = context.codingPath.map(\.stringValue).joined(separator: ".")
        throw MetalCandleError.invalidArgument("\(key) is \(value): \(context.debugDescription)")
    }
    return try withText(json.text) { text, length in
        try Handle(free: free) { make(text, length, $0, $1) }
    }
}
