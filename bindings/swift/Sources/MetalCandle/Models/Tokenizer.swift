internal import CMetalCandle

/// Turns text into token ids and back.
///
/// It can be used from any number of tasks at the same time, and outlives its model.
public final class Tokenizer: Sendable {
    private let handle: Handle

    init(_ handle: Handle) {
        self.handle = handle
    }

    /// Turns text into token ids.
    ///
    /// - Parameters:
    ///   - text: The text.
    ///   - addSpecialTokens: Adds the tokens that the model expects around a text, if any.
    public func encode(_ text: String, addSpecialTokens: Bool = false) throws -> [UInt32] {
        try withText(text) { text, length in
            try tokens { mcandle_tokenizer_encode(handle.pointer, text, length, addSpecialTokens, $0, $1) }
        }
    }

    /// Turns token ids into text. Bytes that are no whole character become U+FFFD.
    ///
    /// - Parameters:
    ///   - ids: The ids.
    ///   - skipSpecialTokens: Leaves out tokens such as that of the end of a text.
    /// - Throws: ``MetalCandleError/tokenizer(_:)``.
    public func decode(_ ids: [UInt32], skipSpecialTokens: Bool = false) throws -> String {
        try string { mcandle_tokenizer_decode(handle.pointer, ids, ids.count, skipSpecialTokens, $0, $1) }
    }
}

extension Model {
    /// The tokenizer of the model.
    ///
    /// - Throws: ``MetalCandleError/tokenizer(_:)`` where the model has none.
    public var tokenizer: Tokenizer {
        get throws {
            Tokenizer(
                try Handle(free: mcandle_tokenizer_free) { mcandle_model_tokenizer(handle.pointer, $0, $1) })
        }
    }
}
