internal import CMetalCandle
internal import Synchronization

/// A part of generated text.
public enum Piece: Codable, Hashable, Sendable {
    /// Text for the user.
    case text(String)
    /// Text inside of `<think>` and `</think>`.
    case reasoning(String)
    /// A whole call of a tool.
    case toolCall(ToolCall)

    init(_ piece: OpaquePointer) {
        let text = MetalCandle.text { mcandle_piece_text(piece, $0) }
        switch mcandle_piece_kind_of(piece) {
        case .toolCall:
            let name = MetalCandle.text { mcandle_piece_name(piece, $0) }
            self = .toolCall(ToolCall(name: name, arguments: JSON(unchecked: text)))
        case .reasoning: self = .reasoning(text)
        case .text: self = .text(text)
        @unknown default: self = .text(text)
        }
    }
}

/// Finds calls of tools in generated text, in the format of Qwen and Hermes, and the reasoning before an answer.
///
/// Text comes in parts that may end anywhere, such as the chunks of a generation. A stream of chunks becomes one of
/// pieces with `pieces(findReasoning:insideReasoning:)`.
///
/// ```swift
/// let pieces = try ToolCallParser.pieces(of: answer)
/// ```
public final class ToolCallParser: Sendable {
    private let parser: Mutex<Handle>

    /// Makes a parser at the start of a text.
    ///
    /// - Parameters:
    ///   - findReasoning: Whether text between `<think>` and `</think>` comes out as ``Piece/reasoning(_:)``, without
    ///     the tags; if not, it is text.
    ///   - insideReasoning: Whether the text starts inside of the reasoning, as it does where the prompt ends with the
    ///     opening tag; then reasoning is found whatever is given.
    public init(findReasoning: Bool = false, insideReasoning: Bool = false) {
        parser = Mutex(
            Handle(
                mcandle_tool_call_parser_new(findReasoning, insideReasoning), free: mcandle_tool_call_parser_free))
    }

    /// Takes the next part of a text, and gives the pieces that are now complete.
    ///
    /// - Throws: ``MetalCandleError/internal(_:)`` for a defect of the library, and nothing else.
    public func push(_ text: String) throws -> [Piece] {
        try withText(text) { text, length in
            try pieces { mcandle_tool_call_parser_push($0, text, length, $1, $2, $3) }
        }
    }

    /// Ends the text, and gives what is still held back; a call that was not closed is text. What comes next starts
    /// another text.
    ///
    /// - Throws: ``MetalCandleError/internal(_:)`` for a defect of the library, and nothing else.
    public func finish() throws -> [Piece] {
        try pieces { mcandle_tool_call_parser_finish($0, $1, $2, $3) }
    }

    /// Gives the pieces of a whole text.
    ///
    /// - Parameters:
    ///   - text: The text, such as ``Generation/text``.
    ///   - findReasoning: As for ``init(findReasoning:insideReasoning:)``.
    ///   - insideReasoning: Likewise.
    public static func pieces(
        of text: String, findReasoning: Bool = false, insideReasoning: Bool = false
    ) throws -> [Piece] {
        let parser = ToolCallParser(findReasoning: findReasoning, insideReasoning: insideReasoning)
        return try parser.push(text) + parser.finish()
    }

    private func pieces(
        _ parse: (
            OpaquePointer, mcandle_piece_callback, UnsafeMutableRawPointer, UnsafeMutablePointer<OpaquePointer?>
        ) -> mcandle_status
    ) throws -> [Piece] {
        var pieces: [Piece] = []
        try parser.withLock { parser in
            try withUnsafeMutablePointer(to: &pieces) { pieces in
                try check { error in
                    parse(
                        parser.pointer,
                        { piece, pieces in pieces?.assumingMemoryBound(to: [Piece].self).pointee.append(Piece(piece)) },
                        pieces, error)
                }
            }
        }
        return pieces
    }
}
