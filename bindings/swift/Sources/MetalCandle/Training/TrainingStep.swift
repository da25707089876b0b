internal import CMetalCandle

extension TrainingEvent {
    /// What happened in one optimizer step.
    public struct Step: Codable, Hashable, Sendable {
        /// The number of the step, from 1.
        public var step: Int
        /// The steps of the whole run.
        public var totalSteps: Int
        /// How often every training row was seen, this step included; 1.5 is the middle of the second time.
        public var epoch: Double
        /// The mean negative log-likelihood of the target tokens before the update, or the mean loss of the pairs.
        public var loss: Double
        /// The learning rate.
        public var learningRate: Double
        /// The L2 norm of the gradient, before clipping.
        public var gradNorm: Double
        /// The tokens of the step, without padding.
        public var tokens: Int
        /// The tokens of the step that are scored.
        public var targetTokens: Int
        /// The tokens since the first step, this one included, over all resumptions.
        public var tokensSoFar: Int
        /// The speed of the step: tokens per second, without padding.
        public var tokensPerSecond: Double
        /// The seconds since the run, or its resumption, began.
        public var secondsElapsed: Double
        /// The seconds that the remaining steps will take at the pace so far.
        public var secondsRemaining: Double
        /// The bytes that the process holds; 0 where the operating system does not tell.
        public var memory: UInt64
        /// The most bytes that the process has held.
        public var peakMemory: UInt64
        /// What the pairs of the step say; `nil` where no preferences are learned.
        public var preference: Preference?

        private enum CodingKeys: String, CodingKey {
            case step
            case totalSteps = "total_steps"
            case epoch, loss
            case learningRate = "learning_rate"
            case gradNorm = "grad_norm"
            case tokens
            case targetTokens = "target_tokens"
            case tokensSoFar = "tokens_so_far"
            case tokensPerSecond = "tokens_per_second"
            case secondsElapsed = "elapsed_seconds"
            case secondsRemaining = "remaining_seconds"
            case memory
            case peakMemory = "peak_memory"
            case preference
        }

        init(_ event: OpaquePointer) {
            step = mcandle_train_event_step(event)
            totalSteps = mcandle_train_event_total_steps(event)
            epoch = mcandle_train_event_epoch(event)
            loss = mcandle_train_event_loss(event)
            learningRate = mcandle_train_event_learning_rate(event)
            gradNorm = mcandle_train_event_grad_norm(event)
            tokens = mcandle_train_event_tokens(event)
            targetTokens = mcandle_train_event_target_tokens(event)
            tokensSoFar = mcandle_train_event_tokens_so_far(event)
            tokensPerSecond = mcandle_train_event_tokens_per_second(event)
            secondsElapsed = mcandle_train_event_seconds_elapsed(event)
            secondsRemaining = mcandle_train_event_seconds_remaining(event)
            memory = mcandle_train_event_memory(event)
            peakMemory = mcandle_train_event_peak_memory(event)
            preference = Preference(event)
        }
    }

    /// The rewards of the answers of a step.
    ///
    /// A reward is the log-probability of an answer times beta, with DPO less that of the model before training;
    /// with ORPO it is lambda times the mean of the log-probabilities of its tokens.
    public struct Preference: Codable, Hashable, Sendable {
        /// The mean reward of the answers that were chosen.
        public var rewardChosen: Double
        /// The mean reward of the answers that were rejected.
        public var rewardRejected: Double
        /// The mean of the differences, chosen less rejected.
        public var margin: Double
        /// The share of the pairs whose chosen answer has the higher reward, 0 to 1.
        public var accuracy: Double

        private enum CodingKeys: String, CodingKey {
            case rewardChosen = "reward_chosen"
            case rewardRejected = "reward_rejected"
            case margin, accuracy
        }

        init?(_ event: OpaquePointer) {
            rewardChosen = mcandle_train_event_reward_chosen(event)
            rewardRejected = mcandle_train_event_reward_rejected(event)
            margin = mcandle_train_event_reward_margin(event)
            accuracy = mcandle_train_event_reward_accuracy(event)
            if accuracy.isNaN {
                return nil
            }
        }
    }
}
