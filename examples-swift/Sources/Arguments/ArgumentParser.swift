internal import Foundation

/// Reads the words of a command line into settings, and explains them.
///
/// Options are `--name value` or `--name=value`; what follows `--` has no names. `--help` is always there.
public struct ArgumentParser<Settings> {
    private let program: String
    private let summary: String
    private let notes: String
    private let arguments: [Argument<Settings>]

    /// Describes a program.
    ///
    /// - Parameters:
    ///   - program: Its name.
    ///   - summary: What it does.
    ///   - arguments: What it takes.
    ///   - notes: What else its help says, at the end.
    public init(_ program: String, _ summary: String, _ arguments: [Argument<Settings>], notes: String = "") {
        self.program = program
        self.summary = summary
        self.notes = notes
        self.arguments = arguments
    }

    /// Reads words, the name of the program not among them; gives `nil` where they ask for help.
    public func parse(_ words: [String], defaults: Settings) throws(ArgumentError) -> Settings? {
        var settings = defaults
        var words = words[...]
        var positionals = arguments.filter { $0.kind == .positional }[...]
        var onlyPositionals = false
        while let word = words.popFirst() {
            if onlyPositionals || !word.hasPrefix("-") || word == "-" {
                guard let positional = positionals.popFirst() else {
                    throw ArgumentError("\(word): more than is expected")
                }
                try positional.take(word, &settings)
            } else if word == "--" {
                onlyPositionals = true
            } else if word == "--help" || word == "-h" {
                return nil
            } else {
                try take(word, &words, &settings)
            }
        }
        if let missing = positionals.first {
            throw ArgumentError("\(missing.name) is missing")
        }
        return settings
    }

    private func take(
        _ word: String, _ words: inout ArraySlice<String>, _ settings: inout Settings
    ) throws(ArgumentError) {
        let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        let name = parts.first ?? word
        guard let argument = arguments.first(where: { $0.kind != .positional && $0.name == name }) else {
            throw ArgumentError("\(name): no such option")
        }
        switch (argument.kind, parts.count) {
        case (.flag, 1):
            try argument.take("", &settings)
        case (.flag, _):
            throw ArgumentError("\(name) takes no value")
        case (_, 1):
            guard let value = words.popFirst() else {
                throw ArgumentError("\(name): \(argument.placeholder) is missing")
            }
            try argument.take(value, &settings)
        default:
            try argument.take(parts[1], &settings)
        }
    }

    /// What `--help` prints.
    public var help: String {
        let positionals = arguments.filter { $0.kind == .positional }
        let options = arguments.filter { $0.kind != .positional }
        let names = options.map { $0.placeholder.isEmpty ? $0.name : "\($0.name) \($0.placeholder)" } + ["--help"]
        let width = (names + positionals.map(\.name)).map(\.count).max() ?? 0
        func line(_ name: String, _ help: String) -> String {
            "  " + name + String(repeating: " ", count: width - name.count + 2) + help + "\n"
        }
        var text = "Usage: " + ([program, "[OPTION]..."] + positionals.map(\.name)).joined(separator: " ") + "\n"
        text += summary + "\n\n"
        text += positionals.map { line($0.name, $0.help) }.joined()
        text += zip(names, options.map(\.help) + ["print this"]).map(line).joined()
        return notes.isEmpty ? text : text + "\n" + notes + "\n"
    }

    /// Reads the command line of this program. Help ends it with status 0, a mistake with 2 and a message.
    public func parseOrExit(defaults: Settings) -> Settings {
        do {
            if let settings = try parse(Array(CommandLine.arguments.dropFirst()), defaults: defaults) {
                return settings
            }
            print(help, terminator: "")
            exit(0)
        } catch {
            FileHandle.standardError.write(Data("\(program): \(error) (see --help)\n".utf8))
            exit(2)
        }
    }
}
