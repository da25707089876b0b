/// What the value of an argument can be read as.
public protocol ArgumentValue: Sendable {
    /// Reads a value, or gives `nil` where the text is none.
    init?(argument: String)

    /// What values look like, for the message about one that does not: `a whole number`.
    static var expected: String { get }
}

extension String: ArgumentValue {
    /// Takes the text as it is.
    public init?(argument: String) { self = argument }
    /// Any text is one.
    public static var expected: String { "a text" }
}

extension Int: ArgumentValue {
    /// Reads a whole number.
    public init?(argument: String) { self.init(argument) }
    /// How a message calls it.
    public static var expected: String { "a whole number" }
}

extension UInt64: ArgumentValue {
    /// Reads a whole number that is not negative.
    public init?(argument: String) { self.init(argument) }
    /// How a message calls it.
    public static var expected: String { "a whole number of at least 0" }
}

extension Double: ArgumentValue {
    /// Reads a number that is finite.
    public init?(argument: String) {
        guard let value = Double(argument), value.isFinite else {
            return nil
        }
        self = value
    }
    /// How a message calls it.
    public static var expected: String { "a number" }
}

extension Optional: ArgumentValue where Wrapped: ArgumentValue {
    /// Reads a value; only an argument that is left out is `nil`.
    public init?(argument: String) {
        guard let value = Wrapped(argument: argument) else {
            return nil
        }
        self = .some(value)
    }
    /// How a message calls it.
    public static var expected: String { Wrapped.expected }
}

extension ArgumentValue where Self: RawRepresentable & CaseIterable, RawValue == String {
    /// Reads the name of a case.
    public init?(argument: String) { self.init(rawValue: argument) }
    /// The names of all cases.
    public static var expected: String { allCases.map(\.rawValue).joined(separator: ", ") }
}
