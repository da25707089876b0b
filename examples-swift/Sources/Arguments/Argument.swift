/// An argument of a program, and the property of its settings that takes the value.
public struct Argument<Settings> {
    enum Kind {
        case flag, option, positional
    }

    let kind: Kind
    let name: String
    let placeholder: String
    let help: String
    let take: (String, inout Settings) throws(ArgumentError) -> Void

    /// A name that turns something on.
    public static func flag(
        _ name: String, _ help: String, _ property: WritableKeyPath<Settings, Bool>
    ) -> Argument {
        Argument(kind: .flag, name: name, placeholder: "", help: help) { _, settings in
            settings[keyPath: property] = true
        }
    }

    /// A name with a value; the last one counts where it is repeated.
    public static func option<Value: ArgumentValue>(
        _ name: String, _ placeholder: String, _ help: String, _ property: WritableKeyPath<Settings, Value>,
        where isValid: @escaping (Value) -> Bool = { _ in true }, _ condition: String = ""
    ) -> Argument {
        Argument(kind: .option, name: name, placeholder: placeholder, help: help) {
            text, settings throws(ArgumentError) in
            settings[keyPath: property] = try read(text, of: name, where: isValid, condition)
        }
    }

    /// A name with a value that may be repeated.
    public static func list<Value: ArgumentValue>(
        _ name: String, _ placeholder: String, _ help: String, _ property: WritableKeyPath<Settings, [Value]>
    ) -> Argument {
        Argument(kind: .option, name: name, placeholder: placeholder, help: help) {
            text, settings throws(ArgumentError) in
            settings[keyPath: property].append(try read(text, of: name, where: { _ in true }, ""))
        }
    }

    /// A value without a name, which must be there unless it has a default; they come in the order of their list.
    public static func positional(
        _ placeholder: String, _ help: String, _ property: WritableKeyPath<Settings, String>
    ) -> Argument {
        Argument(kind: .positional, name: placeholder, placeholder: placeholder, help: help) { text, settings in
            settings[keyPath: property] = text
        }
    }

    private static func read<Value: ArgumentValue>(
        _ text: String, of name: String, where isValid: (Value) -> Bool, _ condition: String
    ) throws(ArgumentError) -> Value {
        guard let value = Value(argument: text), isValid(value) else {
            let expected = condition.isEmpty ? Value.expected : "\(Value.expected) \(condition)"
            throw ArgumentError("\(name): \(text) is not \(expected)")
        }
        return value
    }
}

/// What is wrong with a command line.
public struct ArgumentError: Error, Hashable, CustomStringConvertible {
    /// The reason, which names the argument.
    public let description: String

    init(_ description: String) {
        self.description = description
    }
}
