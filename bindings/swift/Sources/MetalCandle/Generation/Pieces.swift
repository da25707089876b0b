/// The pieces of a generation, as they come: text, reasoning and calls of tools.
public struct Pieces<Chunks: AsyncSequence>: AsyncSequence where Chunks.Element == Chunk {
    fileprivate let chunks: Chunks
    fileprivate let findReasoning: Bool
    fileprivate let insideReasoning: Bool

    /// Starts at the next chunk.
    public func makeAsyncIterator() -> AsyncIterator {
        AsyncIterator(
            chunks: chunks.makeAsyncIterator(),
            parser: ToolCallParser(findReasoning: findReasoning, insideReasoning: insideReasoning))
    }

    /// Goes over the pieces.
    public struct AsyncIterator: AsyncIteratorProtocol {
        fileprivate var chunks: Chunks.AsyncIterator
        fileprivate let parser: ToolCallParser
        private var ready: ArraySlice<Piece> = []
        private var isAtEnd = false

        fileprivate init(chunks: Chunks.AsyncIterator, parser: ToolCallParser) {
            self.chunks = chunks
            self.parser = parser
        }

        /// Gives the next piece, or `nil` at the end.
        public mutating func next(isolation actor: isolated (any Actor)?) async throws(any Error) -> Piece? {
            while ready.isEmpty && !isAtEnd {
                if let chunk = try await chunks.next(isolation: actor) {
                    ready = try parser.push(chunk.text)[...]
                } else {
                    isAtEnd = true
                    ready = try parser.finish()[...]
                }
            }
            return ready.popFirst()
        }

        /// Gives the next piece, or `nil` at the end.
        public mutating func next() async throws -> Piece? {
            try await next(isolation: nil)
        }
    }
}

extension Pieces: Sendable where Chunks: Sendable {}

extension AsyncSequence where Element == Chunk {
    /// Finds calls of tools in what is generated, in the format of Qwen and Hermes, and the reasoning before an answer.
    ///
    /// ```swift
    /// for try await piece in session.streamResponse(to: "What is the weather in Kyiv?").pieces() {
    ///     switch piece {
    ///     case .text(let text): print(text, terminator: "")
    ///     case .reasoning: break
    ///     case .toolCall(let call): calls.append(call)
    ///     }
    /// }
    /// ```
    ///
    /// - Parameters:
    ///   - findReasoning: Whether text between `<think>` and `</think>` comes out as ``Piece/reasoning(_:)``.
    ///   - insideReasoning: Whether the text starts inside of the reasoning, as it does where the prompt ends with the
    ///     opening tag; then reasoning is found whatever is given.
    /// - Returns: The pieces, which fail with the error of the generation.
    public func pieces(findReasoning: Bool = false, insideReasoning: Bool = false) -> Pieces<Self> {
        Pieces(chunks: self, findReasoning: findReasoning, insideReasoning: insideReasoning)
    }
}
