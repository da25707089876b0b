internal import CMetalCandle
public import Foundation

/// How a training run ended.
public struct TrainingSummary: Hashable, Sendable {
    /// The steps done in all.
    public var steps: Int
    /// The loss of the last step; `nil` where none was done.
    public var loss: Double?
    /// The last loss of the validation rows; `nil` where there was no evaluation.
    public var validationLoss: Double?
    /// Why it ended.
    public var stopReason: StopReason
    /// The steps done before the evaluation with the lowest loss; `nil` where there was no evaluation.
    public var bestStep: Int?
    /// The lowest loss of the validation rows, over all resumptions; `nil` where there was no evaluation.
    public var bestLoss: Double?
    /// The checkpoint with the weights of the lowest validation loss; `nil` where none was written.
    public var bestCheckpoint: URL?
    /// The tokens since the first step, over all resumptions.
    public var tokens: Int
    /// The seconds since the run, or its resumption, began.
    public var seconds: Double

    /// Why a run ended.
    public enum StopReason: String, Codable, CaseIterable, Sendable {
        /// All steps are done.
        case finished
        /// It was cancelled before its last step; another call goes on.
        case cancelled
        /// The validation loss no longer fell.
        case earlyStopping = "early_stopping"

        init(_ constant: mcandle_train_stop) throws {
            switch constant {
            case .finished: self = .finished
            case .cancelled: self = .cancelled
            case .earlyStopping: self = .earlyStopping
            @unknown default: throw MetalCandleError.internal("a training ended for reason \(constant.rawValue)")
            }
        }
    }

    init(_ summary: OpaquePointer) throws {
        steps = mcandle_train_summary_steps(summary)
        loss = mcandle_train_summary_loss(summary).unlessNaN
        validationLoss = mcandle_train_summary_validation_loss(summary).unlessNaN
        stopReason = try StopReason(mcandle_train_summary_stop_reason(summary))
        bestLoss = mcandle_train_summary_best_loss(summary).unlessNaN
        bestStep = bestLoss == nil ? nil : mcandle_train_summary_best_step(summary)
        let path = String(cString: mcandle_train_summary_best_path(summary))
        bestCheckpoint = path.isEmpty ? nil : URL(filePath: path)
        tokens = mcandle_train_summary_tokens(summary)
        seconds = mcandle_train_summary_seconds(summary)
    }
}

extension Double {
    /// The number, or `nil` for NaN, which says "none" in C.
    var unlessNaN: Double? { isNaN ? nil : self }
}

extension TrainingSummary: Codable {
    private enum CodingKeys: String, CodingKey {
        case steps, loss
        case validationLoss = "validation_loss"
        case best
        case stopReason = "stop"
        case tokens
        case seconds = "elapsed_seconds"
    }

    private struct Best: Codable {
        var step: Int
        var loss: Double
        var path: String?
    }

    /// Reads a summary as it is the last line of `metrics.jsonl`.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        steps = try values.decode(Int.self, forKey: .steps)
        loss = try values.decodeIfPresent(Double.self, forKey: .loss)
        validationLoss = try values.decodeIfPresent(Double.self, forKey: .validationLoss)
        stopReason = try values.decode(StopReason.self, forKey: .stopReason)
        let best = try values.decodeIfPresent(Best.self, forKey: .best)
        bestStep = best?.step
        bestLoss = best?.loss
        bestCheckpoint = best?.path.map { URL(filePath: $0) }
        tokens = try values.decode(Int.self, forKey: .tokens)
        seconds = try values.decode(Double.self, forKey: .seconds)
    }

    /// Writes a summary as it is the last line of `metrics.jsonl`.
    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(steps, forKey: .steps)
        try values.encode(loss, forKey: .loss)
        try values.encode(validationLoss, forKey: .validationLoss)
        try values.encode(stopReason, forKey: .stopReason)
        if let bestStep, let bestLoss {
            let path = bestCheckpoint?.path(percentEncoded: false)
            try values.encode(Best(step: bestStep, loss: bestLoss, path: path), forKey: .best)
        }
        try values.encode(tokens, forKey: .tokens)
        try values.encode(seconds, forKey: .seconds)
    }
}
