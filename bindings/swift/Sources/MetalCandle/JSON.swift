internal import Foundation

/// A JSON value as text, whose keys keep their order: schemas, tools, arguments.
///
/// The order of keys matters to models: output that is held to a schema has its keys in the schema's order.
/// Dictionaries and Foundation's coders do not keep it; literals and text do.
///
/// ```swift
/// let schema: JSON = [
///     "type": "object",
///     "properties": ["name": ["type": "string"], "age": ["type": "integer"]],
///     "required": ["name", "age"],
/// ]
/// ```
public struct JSON: Hashable, Sendable {
    /// The value as JSON text.
    public let text: String

    /// Takes JSON text as it is.
    ///
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where it is not JSON.
    public init(text: String) throws {
        // Foundation would take a NUL or a byte order mark for another encoding than UTF-8.
        if text.utf8.contains(0) || text.unicodeScalars.first == "\u{FEFF}" {
            throw MetalCandleError.invalidArgument("not JSON: \(text.prefix(200).debugDescription)")
        }
        do {
            _ = try JSONSerialization.jsonObject(with: Data(text.utf8), options: .fragmentsAllowed)
        } catch {
            throw MetalCandleError.invalidArgument("not JSON: \(text.prefix(200))")
        }
        self.text = text
    }

    /// Encodes a value. The keys of structures are sorted, so that the same value gives the same text.
    ///
    /// - Throws: `EncodingError`.
    public init(encoding value: some Encodable) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        text = String(decoding: try encoder.encode(value), as: UTF8.self)
    }

    /// Decodes a value.
    ///
    /// - Throws: `DecodingError` where the text does not have the shape of the type.
    public func decode<Value: Decodable>(_ type: Value.Type = Value.self) throws -> Value {
        try JSONDecoder().decode(type, from: Data(text.utf8))
    }

    /// Takes text that is known to be JSON.
    init(unchecked text: String) {
        self.text = text
    }

    /// A list of values.
    public init(_ elements: [JSON]) {
        text = "[" + elements.map(\.text).joined(separator: ",") + "]"
    }

    /// An object with its keys in the order given.
    public init(object members: [(key: String, value: JSON)]) {
        text = "{" + members.map { Self.quoted($0.key) + ":" + $0.value.text }.joined(separator: ",") + "}"
    }

    /// A text.
    public init(_ value: String) {
        text = Self.quoted(value)
    }

    private static func quoted(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": quoted += "\\\""
            case "\\": quoted += "\\\\"
            case "\n": quoted += "\\n"
            case "\r": quoted += "\\r"
            case "\t": quoted += "\\t"
            case "\u{0}"..<"\u{20}":
                let digits = String(scalar.value, radix: 16)
                quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }
}

extension JSON: ExpressibleByStringLiteral, ExpressibleByBooleanLiteral, ExpressibleByIntegerLiteral,
    ExpressibleByFloatLiteral, ExpressibleByNilLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
    /// A text.
    public init(stringLiteral value: String) {
        self.init(value)
    }

    /// `true` or `false`.
    public init(booleanLiteral value: Bool) {
        text = value ? "true" : "false"
    }

    /// A whole number.
    public init(integerLiteral value: Int) {
        text = String(value)
    }

    /// A number; one that is not finite is `null`, as JSON has none.
    public init(floatLiteral value: Double) {
        text = value.isFinite ? String(value) : "null"
    }

    /// `null`.
    public init(nilLiteral: ()) {
        text = "null"
    }

    /// A list.
    public init(arrayLiteral elements: JSON...) {
        self.init(elements)
    }

    /// An object with its keys in the order written.
    public init(dictionaryLiteral elements: (String, JSON)...) {
        self.init(object: elements.map { (key: $0.0, value: $0.1) })
    }
}

extension JSON: CustomStringConvertible {
    /// The text.
    public var description: String { text }
}

extension JSON: Codable {
    /// Reads any value. Coders do not tell the order of keys: they are sorted.
    public init(from decoder: any Decoder) throws {
        self.init(unchecked: try JSON(encoding: AnyJSON(from: decoder)).text)
    }

    /// Writes the value. The coder decides in what order keys come.
    public func encode(to encoder: any Encoder) throws {
        try decode(AnyJSON.self).encode(to: encoder)
    }
}

/// A value of any shape, for coders.
private enum AnyJSON: Codable {
    case null
    case bool(Bool)
    case integer(Int64)
    case unsigned(UInt64)
    case number(Double)
    case string(String)
    case array([AnyJSON])
    case object([String: AnyJSON])

    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let value = try? container.decode(Bool.self) {
            self = .bool(value)
        } else if let value = try? container.decode(Int64.self) {
            self = .integer(value)
        } else if let value = try? container.decode(UInt64.self) {
            self = .unsigned(value)
        } else if let value = try? container.decode(Double.self) {
            self = .number(value)
        } else if let value = try? container.decode(String.self) {
            self = .string(value)
        } else if let value = try? container.decode([AnyJSON].self) {
            self = .array(value)
        } else {
            self = .object(try container.decode([String: AnyJSON].self))
        }
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .null: try container.encodeNil()
        case .bool(let value): try container.encode(value)
        case .integer(let value): try container.encode(value)
        case .unsigned(let value): try container.encode(value)
        case .number(let value): try container.encode(value)
        case .string(let value): try container.encode(value)
        case .array(let value): try container.encode(value)
        case .object(let value): try container.encode(value)
        }
    }
}
