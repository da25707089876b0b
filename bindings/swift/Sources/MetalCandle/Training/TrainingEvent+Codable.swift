internal import Foundation

extension TrainingEvent: Codable {
    private enum CodingKeys: String, CodingKey {
        case event
    }

    private enum Kind: String, Codable {
        case start, step, evaluation, checkpoint, end
    }

    /// Reads an event as it is a line of `metrics.jsonl`.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        switch try values.decode(Kind.self, forKey: .event) {
        case .start: self = .start(try Start(from: decoder))
        case .step: self = .step(try Step(from: decoder))
        case .evaluation: self = .evaluation(try Evaluation(from: decoder))
        case .checkpoint: self = .checkpoint(try Checkpoint(from: decoder))
        case .end: self = .end(try TrainingSummary(from: decoder))
        }
    }

    /// Writes an event as it is a line of `metrics.jsonl`.
    public func encode(to encoder: any Encoder) throws {
        switch self {
        case .start(let start): try encode(.start, start, to: encoder)
        case .step(let step): try encode(.step, step, to: encoder)
        case .evaluation(let evaluation): try encode(.evaluation, evaluation, to: encoder)
        case .checkpoint(let checkpoint): try encode(.checkpoint, checkpoint, to: encoder)
        case .end(let summary): try encode(.end, summary, to: encoder)
        }
    }

    private func encode(_ kind: Kind, _ event: some Encodable, to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(kind, forKey: .event)
        try event.encode(to: encoder)
    }
}

extension TrainingEvent.Evaluation: Codable {
    private enum CodingKeys: String, CodingKey {
        case step, loss, perplexity
        case isBest = "best"
        case secondsElapsed = "elapsed_seconds"
    }

    /// Reads an evaluation as it is a line of `metrics.jsonl`.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        step = try values.decode(Int.self, forKey: .step)
        loss = try values.decode(Double.self, forKey: .loss)
        // JSON has no infinity, which a loss above 709 gives.
        perplexity = try values.decodeIfPresent(Double.self, forKey: .perplexity) ?? .infinity
        isBest = try values.decode(Bool.self, forKey: .isBest)
        secondsElapsed = try values.decode(Double.self, forKey: .secondsElapsed)
    }

    /// Writes an evaluation as it is a line of `metrics.jsonl`.
    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(step, forKey: .step)
        try values.encode(loss, forKey: .loss)
        try values.encode(perplexity.isFinite ? perplexity : nil, forKey: .perplexity)
        try values.encode(isBest, forKey: .isBest)
        try values.encode(secondsElapsed, forKey: .secondsElapsed)
    }
}

extension TrainingEvent.Checkpoint: Codable {
    private enum CodingKeys: String, CodingKey {
        case step
        case url = "path"
        case isBest = "best"
    }

    /// Reads a checkpoint as it is a line of `metrics.jsonl`.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        step = try values.decode(Int.self, forKey: .step)
        url = URL(filePath: try values.decode(String.self, forKey: .url))
        isBest = try values.decode(Bool.self, forKey: .isBest)
    }

    /// Writes a checkpoint as it is a line of `metrics.jsonl`.
    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(step, forKey: .step)
        try values.encode(url.path(percentEncoded: false), forKey: .url)
        try values.encode(isBest, forKey: .isBest)
    }
}
