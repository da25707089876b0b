internal import Foundation

/// Writes to standard output at once, without a buffer: a token is seen when it comes.
public func write(_ text: String) {
    FileHandle.standardOutput.write(Data(text.utf8))
}

/// Writes a line to standard error, for what is not the result of the program.
public func note(_ text: String) {
    FileHandle.standardError.write(Data((text + "\n").utf8))
}

/// Whether somebody reads standard output in a terminal.
public var outputIsTerminal: Bool { isatty(STDOUT_FILENO) == 1 }

/// Whether somebody types standard input in a terminal.
public var inputIsTerminal: Bool { isatty(STDIN_FILENO) == 1 }
