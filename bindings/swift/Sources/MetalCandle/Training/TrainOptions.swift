public import Foundation

/// How a model is fine-tuned.
///
/// The defaults are those of the C interface: 1000 steps of AdamW on a LoRA adapter. Options are written to and
/// read from the same JSON as there.
///
/// ```swift
/// var options = TrainOptions(steps: 200, learningRate: 2e-4)
/// options.method = .lora(LoRAOptions(rank: 16))
/// options.schedule = .cosine
/// options.outputDirectory = URL(filePath: "run")
/// ```
public struct TrainOptions: Hashable, Sendable {
    /// What is changed.
    public var method = TrainMethod.lora()
    /// How rows of a prompt and two answers are learned; `nil` for other rows, whose scored tokens are made likely.
    public var preference: PreferenceLoss?
    /// The optimizer steps of the whole run, at least 1.
    public var steps = 1000
    /// The passes over the training rows, above 0, in the place of ``steps``; 1.5 ends in the middle of the second.
    public var epochs: Double?
    /// The rows of a batch, or the packs where rows are packed; at least 1.
    public var batchSize = 4
    /// How many batches make one step, weighted by their scored tokens; at least 1. Pairs of preferences count
    /// alike.
    public var gradientAccumulation = 1
    /// How rows are put together to batches.
    public var batching = Batching.plain
    /// The most tokens of a pack, where rows are packed; at least as many as the longest row has.
    public var packLength = 2048
    /// The highest learning rate, above 0.
    public var learningRate = 1e-4
    /// What a falling learning rate does not fall below, 0 or more.
    public var minLearningRate = 0.0
    /// How the learning rate goes on after the warm-up.
    public var schedule = LearningRateSchedule.constant
    /// The steps over which the learning rate rises from 0.
    public var warmupSteps = 0
    /// How gradients change weights.
    public var optimizer = Optimizer.adamW()
    /// The L2 norm that gradients are scaled down to, over all weights together; 0 for no limit.
    public var maxGradNorm = 1.0
    /// The share of each target that is spread over the whole vocabulary, 0 or more and below 1.
    ///
    /// The training loss contains it, validation losses do not. Not for preferences; DPO has one of its own.
    public var labelSmoothing = 0.0
    /// Computes layers again in the backward pass instead of keeping them: about a third slower, and memory for
    /// one layer instead of all.
    public var gradCheckpoint = false
    /// Decides the first weights of an adapter, the order of rows, and dropout.
    public var seed: UInt64 = 0
    /// Brings rows in another order in each epoch.
    public var shuffle = true
    /// The steps between evaluations on the validation rows, which also happen before the first step and after the
    /// last; 0 for none.
    public var evalEvery = 200
    /// The most batches of an evaluation; 0 for all.
    public var evalBatches = 25
    /// After how many evaluations in a row without a better loss the run ends; 0 for no such end.
    public var earlyStoppingPatience = 0
    /// By how much a loss must be below the best one to be better, 0 or more.
    public var earlyStoppingMinDelta = 0.0
    /// The steps between checkpoints, which need an output directory; 0 for none.
    public var saveEvery = 100
    /// How many of the newest checkpoints are kept, beside the one of the best evaluation; 0 for all.
    public var keepCheckpoints = 0
    /// Where checkpoints, `metrics.jsonl` and `loss.svg` are written, and at the end the adapter; or the model, in
    /// the directory `model` there, where its weights are trained. `nil` for nowhere.
    public var outputDirectory: URL?

    /// Makes options with the defaults.
    public init() {}

    /// Makes options with what is most often set.
    public init(
        method: TrainMethod = .lora(), steps: Int = 1000, batchSize: Int = 4, learningRate: Double = 1e-4,
        outputDirectory: URL? = nil
    ) {
        self.method = method
        self.steps = steps
        self.batchSize = batchSize
        self.learningRate = learningRate
        self.outputDirectory = outputDirectory
    }
}

/// How rows are put together to batches.
public enum Batching: String, Codable, CaseIterable, Sendable {
    /// As they come, each padded to the longest of its batch.
    case plain
    /// Rows of similar length come together, so that there is little to pad.
    case lengthBuckets = "length_buckets"
    /// Rows that have few tokens together make one of a batch's rows, and do not see each other. Nothing is padded
    /// within it. Not for preferences.
    case packed
}
