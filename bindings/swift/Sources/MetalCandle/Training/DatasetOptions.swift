internal import CMetalCandle

/// How the rows of a data set are read.
///
/// Options are written to and read from the same JSON as in the C interface.
public struct DatasetOptions: Codable, Hashable, Sendable {
    /// The most tokens of a row, at least 2; what is longer is cut at the end and counted.
    public var maxSeqLength = 2048
    /// Which tokens of a row are not scored. A row of preferences scores its answers alone.
    public var mask = LossMask.assistant
    /// The keys under which rows have their parts.
    public var fields = FieldNames()
    /// What happens where a row cannot be used.
    public var onBadRow = BadRow.stop
    /// The size in bytes up to which a file is kept in memory as tokens; the rows of a longer one are read again
    /// each time they are used.
    public var maxBytesInMemory: UInt64 = 67_108_864

    /// Makes options; without arguments, those tokens are scored that the assistant writes, and a row that cannot
    /// be used is an error.
    public init(
        maxSeqLength: Int = 2048, mask: LossMask = .assistant, fields: FieldNames = FieldNames(),
        onBadRow: BadRow = .stop
    ) {
        self.maxSeqLength = maxSeqLength
        self.mask = mask
        self.fields = fields
        self.onBadRow = onBadRow
    }

    private enum CodingKeys: String, CodingKey {
        case maxSeqLength = "max_seq_length"
        case mask, fields
        case onBadRow = "on_bad_row"
        case maxBytesInMemory = "max_bytes_in_memory"
    }

    /// Reads options; a key that is left out has its default.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        maxSeqLength = try values.decode(.maxSeqLength, or: maxSeqLength)
        mask = try values.decode(.mask, or: mask)
        fields = try values.decode(.fields, or: fields)
        onBadRow = try values.decode(.onBadRow, or: onBadRow)
        maxBytesInMemory = try values.decode(.maxBytesInMemory, or: maxBytesInMemory)
    }

    func handle() throws -> Handle {
        // The library reads a count without a sign, and would not say which one has it.
        _ = try size(maxSeqLength, CodingKeys.maxSeqLength.rawValue)
        return try optionsHandle(self, free: mcandle_dataset_options_free, mcandle_dataset_options_from_json)
    }
}

/// Which tokens of a row are not scored.
public enum LossMask: String, Codable, CaseIterable, Sendable {
    /// All are scored, but the first.
    case none
    /// Those before the completion, the middle or the last answer, as with mlx-lm's `--mask-prompt`.
    case prompt
    /// Those that the assistant does not write: scored are the completion, the middle or every answer.
    case assistant
}

/// What happens where a row cannot be used.
public enum BadRow: String, Codable, CaseIterable, Sendable {
    /// The data set is an error that names the row.
    case stop
    /// The row is left out, and reported by ``Dataset/skippedRows``.
    case skip
}

/// The keys under which rows have their parts, for files that call them otherwise.
///
/// Two parts cannot have the same key. A part whose key no row has is hidden.
public struct FieldNames: Codable, Hashable, Sendable {
    /// The key of a text to learn as it is.
    public var text = "text"
    /// The key of what comes before a completion or a preferred answer.
    public var prompt = "prompt"
    /// The key of the answer to a prompt.
    public var completion = "completion"
    /// The key of a conversation.
    public var messages = "messages"
    /// The key of the tools of a conversation.
    public var tools = "tools"
    /// The key of the code before a middle.
    public var prefix = "prefix"
    /// The key of the code after a middle.
    public var suffix = "suffix"
    /// The key of the code to fill in.
    public var middle = "middle"
    /// The key of the better of two answers.
    public var chosen = "chosen"
    /// The key of the worse of two answers.
    public var rejected = "rejected"

    /// Makes names that are those of the parts.
    public init() {}

    /// Reads names; one that is left out is that of its part.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        text = try values.decode(.text, or: text)
        prompt = try values.decode(.prompt, or: prompt)
        completion = try values.decode(.completion, or: completion)
        messages = try values.decode(.messages, or: messages)
        tools = try values.decode(.tools, or: tools)
        prefix = try values.decode(.prefix, or: prefix)
        suffix = try values.decode(.suffix, or: suffix)
        middle = try values.decode(.middle, or: middle)
        chosen = try values.decode(.chosen, or: chosen)
        rejected = try values.decode(.rejected, or: rejected)
    }
}
