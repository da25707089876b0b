internal import CMetalCandle
public import Foundation

/// What happens in a training run: its start, then steps, evaluations and checkpoints, and its end.
///
/// As JSON it is what a line of `metrics.jsonl` in the output directory says.
public enum TrainingEvent: Hashable, Sendable {
    /// A run, or its resumption, begins.
    case start(Start)
    /// A step is done.
    case step(Step)
    /// The validation rows were evaluated.
    case evaluation(Evaluation)
    /// A checkpoint is safe on disk.
    case checkpoint(Checkpoint)
    /// The run is over. It comes once, and last; a run that fails ends with an error instead.
    case end(TrainingSummary)

    /// Makes an event of one of the library; `nil` for the end, which the completion tells when it is one, and for what
    /// is not known here, which a later version may have.
    init?(_ event: OpaquePointer) {
        switch mcandle_train_event_kind_of(event) {
        case .start: self = .start(Start(event))
        case .step: self = .step(Step(event))
        case .evaluation: self = .evaluation(Evaluation(event))
        case .checkpoint: self = .checkpoint(Checkpoint(event))
        case .end: return nil
        @unknown default: return nil
        }
    }

    /// What a run is about to do, told before anything is computed.
    public struct Start: Codable, Hashable, Sendable {
        /// How many numbers are trained.
        public var trainableParameters: UInt64
        /// How many numbers there are in all: those of the model and those that training adds.
        public var parameters: UInt64
        /// The training rows.
        public var rows: Int
        /// The tokens of the training rows.
        public var tokens: Int
        /// The tokens of the training rows that are scored.
        public var targetTokens: Int
        /// The training rows that were cut to the longest length.
        public var truncated: Int
        /// The training rows that were left out.
        public var skipped: Int
        /// The steps of the whole run.
        public var totalSteps: Int
        /// The steps done before: 0, or where the run resumes.
        public var firstStep: Int
        /// The batches in which every training row comes once.
        public var batchesPerEpoch: Int
        /// The share of the places of a packed batch that hold tokens; `nil` where rows are not packed.
        public var packEfficiency: Double?
        /// What is trained: `lora`, `dora`, `qlora`, `qdora` or `full`.
        public var method: String
        /// What the loss rewards: `sft`, `dpo` or `orpo`.
        public var objective: String

        private enum CodingKeys: String, CodingKey {
            case trainableParameters = "trainable_parameters"
            case parameters, rows, tokens
            case targetTokens = "target_tokens"
            case truncated, skipped
            case totalSteps = "steps"
            case firstStep = "first_step"
            case batchesPerEpoch = "batches_per_epoch"
            case packEfficiency = "pack_efficiency"
            case method, objective
        }

        init(_ event: OpaquePointer) {
            trainableParameters = mcandle_train_event_trainable_parameters(event)
            parameters = mcandle_train_event_parameters(event)
            rows = mcandle_train_event_rows(event)
            tokens = mcandle_train_event_tokens(event)
            targetTokens = mcandle_train_event_target_tokens(event)
            truncated = mcandle_train_event_truncated(event)
            skipped = mcandle_train_event_skipped(event)
            totalSteps = mcandle_train_event_total_steps(event)
            firstStep = mcandle_train_event_step(event)
            batchesPerEpoch = mcandle_train_event_batches_per_epoch(event)
            let efficiency = mcandle_train_event_pack_efficiency(event)
            packEfficiency = efficiency > 0 ? efficiency : nil
            method = String(cString: mcandle_train_event_method(event))
            objective = String(cString: mcandle_train_event_objective(event))
        }
    }

    /// The validation rows with what is trained so far.
    public struct Evaluation: Hashable, Sendable {
        /// The steps done.
        public var step: Int
        /// The mean negative log-likelihood of a target token, or the mean loss of a pair.
        public var loss: Double
        /// e to the power of the loss.
        public var perplexity: Double
        /// Whether it is the lowest loss of the run so far.
        public var isBest: Bool
        /// The seconds since the run, or its resumption, began.
        public var secondsElapsed: Double

        init(_ event: OpaquePointer) {
            step = mcandle_train_event_step(event)
            loss = mcandle_train_event_loss(event)
            perplexity = mcandle_train_event_perplexity(event)
            isBest = mcandle_train_event_best(event)
            secondsElapsed = mcandle_train_event_seconds_elapsed(event)
        }
    }

    /// A checkpoint that was written.
    public struct Checkpoint: Hashable, Sendable {
        /// The steps done.
        public var step: Int
        /// Its directory.
        public var url: URL
        /// Whether it has the weights of the best evaluation so far.
        public var isBest: Bool

        init(_ event: OpaquePointer) {
            step = mcandle_train_event_step(event)
            url = URL(filePath: String(cString: mcandle_train_event_path(event)))
            isBest = mcandle_train_event_best(event)
        }
    }
}
