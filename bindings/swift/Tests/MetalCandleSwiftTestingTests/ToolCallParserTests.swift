import MetalCandle
import Testing

/// Calls of tools and reasoning, found in text that is cut anywhere.
struct ToolCallParserTests {
    private let answer = """
        <think>Which city?</think>I look. <tool_call>
        {"name": "weather", "arguments": {"city": "Kyiv", "days": 2}}
        </tool_call> Done.
        """

    /// Neighbours of one kind as one, because where text is cut says nothing.
    private func joined(_ pieces: [Piece]) -> [Piece] {
        pieces.reduce(into: []) { joined, piece in
            switch (joined.last, piece) {
            case (.text(let a), .text(let b)): joined[joined.count - 1] = .text(a + b)
            case (.reasoning(let a), .reasoning(let b)): joined[joined.count - 1] = .reasoning(a + b)
            default: joined.append(piece)
            }
        }
    }

    @Test(arguments: [1, 2, 3, 7, 1000]) func partsThatEndAnywhere(length: Int) throws {
        let parser = ToolCallParser(findReasoning: true)
        // The second time, because the end of a text starts another.
        for _ in 0..<2 {
            var pieces: [Piece] = []
            var rest = Substring(answer)
            while !rest.isEmpty {
                pieces += try parser.push(String(rest.prefix(length)))
                rest = rest.dropFirst(length)
            }
            pieces += try parser.finish()
            let found = joined(pieces)
            try #require(found.count == 4)
            #expect(found[0] == .reasoning("Which city?"))
            #expect(found[1] == .text("I look. "))
            #expect(found[3] == .text(" Done."))
            guard case .toolCall(let call) = found[2] else {
                Issue.record("not a call: \(found[2])")
                return
            }
            #expect(call.name == "weather")
            struct Arguments: Decodable, Equatable {
                var city: String
                var days: Int
            }
            #expect(try call.arguments.decode(Arguments.self) == Arguments(city: "Kyiv", days: 2))
        }
    }

    @Test func reasoningIsTextWhereItIsNotLookedFor() throws {
        #expect(joined(try ToolCallParser.pieces(of: "<think>a</think>b")) == [.text("<think>a</think>b")])
        #expect(
            joined(try ToolCallParser.pieces(of: "a</think>b", insideReasoning: true)) == [.reasoning("a"), .text("b")])
        #expect(joined(try ToolCallParser.pieces(of: "<tool_call>{\"name\"")) == [.text("<tool_call>{\"name\"")])
        #expect(try ToolCallParser.pieces(of: "").isEmpty)
    }

    @Test func chunksBecomePieces() async throws {
        let (chunks, feed) = AsyncThrowingStream<Chunk, any Error>.makeStream()
        for character in answer {
            feed.yield(try token(String(character)))
        }
        feed.finish()
        var pieces: [Piece] = []
        for try await piece in chunks.pieces(findReasoning: true) {
            pieces.append(piece)
        }
        let found = joined(pieces)
        try #require(found.count == 4)
        guard case .toolCall(let call) = found[2] else {
            Issue.record("not a call: \(found[2])")
            return
        }
        #expect(call.name == "weather")
        #expect(found[3] == .text(" Done."))
    }

    @Test func anErrorComesThrough() async throws {
        let (chunks, feed) = AsyncThrowingStream<Chunk, any Error>.makeStream()
        feed.yield(try token("text"))
        feed.finish(throwing: MetalCandleError.busy("a test"))
        var iterator = chunks.pieces().makeAsyncIterator()
        #expect(try await iterator.next() == .text("text"))
        do {
            _ = try await iterator.next()
            Issue.record("it did not throw")
        } catch {
            #expect(error as? MetalCandleError == .busy("a test"))
        }
    }

    /// A chunk with a text, as only the library makes one.
    private func token(_ text: String) throws -> Chunk {
        let json = JSON(object: [
            ("index", 0), ("id", 0), ("text", JSON(text)), ("logprob", 0), ("topLogprobs", []),
        ])
        return .token(try json.decode())
    }
}
