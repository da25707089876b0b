internal import CMetalCandle
internal import Foundation

extension TrainOptions: Codable {
    private enum CodingKeys: String, CodingKey {
        case method, preference, steps, epochs
        case batchSize = "batch_size"
        case gradientAccumulation = "gradient_accumulation"
        case batching
        case packLength = "pack_length"
        case learningRate = "learning_rate"
        case minLearningRate = "min_learning_rate"
        case schedule
        case warmupSteps = "warmup_steps"
        case optimizer
        case maxGradNorm = "max_grad_norm"
        case labelSmoothing = "label_smoothing"
        case gradCheckpoint = "grad_checkpoint"
        case seed, shuffle
        case evalEvery = "eval_every"
        case evalBatches = "eval_batches"
        case earlyStoppingPatience = "early_stopping_patience"
        case earlyStoppingMinDelta = "early_stopping_min_delta"
        case saveEvery = "save_every"
        case keepCheckpoints = "keep_checkpoints"
        case outputDirectory = "output_dir"
    }

    /// Reads options; a key that is left out has its default.
    public init(from decoder: any Decoder) throws {
        self.init()
        let values = try decoder.container(keyedBy: CodingKeys.self)
        method = try values.decode(.method, or: method)
        preference = try values.decode(.preference, or: preference)
        steps = try values.decode(.steps, or: steps)
        epochs = try values.decode(.epochs, or: epochs)
        batchSize = try values.decode(.batchSize, or: batchSize)
        gradientAccumulation = try values.decode(.gradientAccumulation, or: gradientAccumulation)
        batching = try values.decode(.batching, or: batching)
        packLength = try values.decode(.packLength, or: packLength)
        learningRate = try values.decode(.learningRate, or: learningRate)
        minLearningRate = try values.decode(.minLearningRate, or: minLearningRate)
        schedule = try values.decode(.schedule, or: schedule)
        warmupSteps = try values.decode(.warmupSteps, or: warmupSteps)
        optimizer = try values.decode(.optimizer, or: optimizer)
        maxGradNorm = try values.decode(.maxGradNorm, or: maxGradNorm)
        labelSmoothing = try values.decode(.labelSmoothing, or: labelSmoothing)
        gradCheckpoint = try values.decode(.gradCheckpoint, or: gradCheckpoint)
        seed = try values.decode(.seed, or: seed)
        shuffle = try values.decode(.shuffle, or: shuffle)
        evalEvery = try values.decode(.evalEvery, or: evalEvery)
        evalBatches = try values.decode(.evalBatches, or: evalBatches)
        earlyStoppingPatience = try values.decode(.earlyStoppingPatience, or: earlyStoppingPatience)
        earlyStoppingMinDelta = try values.decode(.earlyStoppingMinDelta, or: earlyStoppingMinDelta)
        saveEvery = try values.decode(.saveEvery, or: saveEvery)
        keepCheckpoints = try values.decode(.keepCheckpoints, or: keepCheckpoints)
        outputDirectory = try values.decodeIfPresent(String.self, forKey: .outputDirectory).map { URL(filePath: $0) }
    }

    /// Writes all options, as JSON for the C interface.
    ///
    /// - Throws: `EncodingError` where ``outputDirectory`` is not the URL of a directory.
    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(method, forKey: .method)
        try values.encode(preference, forKey: .preference)
        try values.encode(steps, forKey: .steps)
        try values.encode(epochs, forKey: .epochs)
        try values.encode(batchSize, forKey: .batchSize)
        try values.encode(gradientAccumulation, forKey: .gradientAccumulation)
        try values.encode(batching, forKey: .batching)
        try values.encode(packLength, forKey: .packLength)
        try values.encode(learningRate, forKey: .learningRate)
        try values.encode(minLearningRate, forKey: .minLearningRate)
        try values.encode(schedule, forKey: .schedule)
        try values.encode(warmupSteps, forKey: .warmupSteps)
        try values.encode(optimizer, forKey: .optimizer)
        try values.encode(maxGradNorm, forKey: .maxGradNorm)
        try values.encode(labelSmoothing, forKey: .labelSmoothing)
        try values.encode(gradCheckpoint, forKey: .gradCheckpoint)
        try values.encode(seed, forKey: .seed)
        try values.encode(shuffle, forKey: .shuffle)
        try values.encode(evalEvery, forKey: .evalEvery)
        try values.encode(evalBatches, forKey: .evalBatches)
        try values.encode(earlyStoppingPatience, forKey: .earlyStoppingPatience)
        try values.encode(earlyStoppingMinDelta, forKey: .earlyStoppingMinDelta)
        try values.encode(saveEvery, forKey: .saveEvery)
        try values.encode(keepCheckpoints, forKey: .keepCheckpoints)
        if let outputDirectory, !outputDirectory.isFileURL {
            let path = values.codingPath + [CodingKeys.outputDirectory]
            throw EncodingError.invalidValue(
                outputDirectory, .init(codingPath: path, debugDescription: "not the URL of a directory"))
        }
        try values.encode(outputDirectory?.path(percentEncoded: false), forKey: .outputDirectory)
    }

    func handle() throws -> Handle {
        try checkCounts()
        return try optionsHandle(self, free: mcandle_train_options_free, mcandle_train_options_from_json)
    }

    /// The library reads counts without a sign, and would not say which one has it.
    private func checkCounts() throws {
        let counts = [
            (CodingKeys.steps.rawValue, steps),
            (CodingKeys.batchSize.rawValue, batchSize),
            (CodingKeys.gradientAccumulation.rawValue, gradientAccumulation),
            (CodingKeys.packLength.rawValue, packLength),
            (CodingKeys.warmupSteps.rawValue, warmupSteps),
            (CodingKeys.evalEvery.rawValue, evalEvery),
            (CodingKeys.evalBatches.rawValue, evalBatches),
            (CodingKeys.earlyStoppingPatience.rawValue, earlyStoppingPatience),
            (CodingKeys.saveEvery.rawValue, saveEvery),
            (CodingKeys.keepCheckpoints.rawValue, keepCheckpoints),
        ]
        for (name, count) in counts + method.counts + schedule.counts + optimizer.counts {
            _ = try size(count, name)
        }
    }
}
