import CMetalCandle
import Foundation
import TestSupport
import Testing

@testable import MetalCandle

/// What C has as the options of a training, as JSON.
private func json(of options: TrainOptions) throws -> JSON {
    let handle = try options.handle()
    return try JSON(text: string { mcandle_train_options_to_json(handle.pointer, $0, $1) })
}

private func json(of options: DatasetOptions) throws -> JSON {
    let handle = try options.handle()
    return try JSON(text: string { mcandle_dataset_options_to_json(handle.pointer, $0, $1) })
}

private func defaultsOfC() throws -> JSON {
    let options = Handle(mcandle_train_options_new(), free: mcandle_train_options_free)
    return try JSON(text: string { mcandle_train_options_to_json(options.pointer, $0, $1) })
}

/// All keys of an object and of the objects in it, as paths.
private func keys(_ json: JSON) throws -> Set<String> {
    func paths(_ value: Any, _ prefix: String) -> [String] {
        (value as? [String: Any] ?? [:]).flatMap { [prefix + $0.key] + paths($0.value, prefix + $0.key + ".") }
    }
    return Set(paths(try JSONSerialization.jsonObject(with: Data(json.text.utf8)), ""))
}

/// Options none of which has its default.
private var unusual: TrainOptions {
    var options = TrainOptions()
    options.method = .lora(
        LoRAOptions(
            rank: 4, scale: .factor(3.5), dropout: 0.25, useRSLoRA: true, useDoRA: true,
            targets: .projections([.down, .query]), layers: .last(2)))
    options.preference = .dpo(beta: 0.2, labelSmoothing: 0.25)
    options.steps = 7
    options.epochs = 1.5
    options.batchSize = 3
    options.gradientAccumulation = 2
    options.batching = .lengthBuckets
    options.packLength = 99
    options.learningRate = 3e-5
    options.minLearningRate = 1e-6
    options.schedule = .step(size: 5, gamma: 0.5)
    options.warmupSteps = 6
    options.optimizer = .sgd(SGDOptions(momentum: 0.9, nesterov: true, weightDecay: 0.125))
    options.maxGradNorm = 0.5
    options.gradCheckpoint = true
    options.seed = .max
    options.shuffle = false
    options.evalEvery = 11
    options.evalBatches = 12
    options.earlyStoppingPatience = 13
    options.earlyStoppingMinDelta = 0.25
    options.saveEvery = 14
    options.keepCheckpoints = 15
    options.outputDirectory = URL(filePath: "/a folder/ä%20")
    return options
}

@Test func trainingDefaultsAreThoseOfCInBothDirections() throws {
    let defaults = try defaultsOfC()
    #expect(try defaults.decode(TrainOptions.self) == TrainOptions())
    #expect(try JSON(text: "{}").decode(TrainOptions.self) == TrainOptions())
    #expect(try json(of: TrainOptions()) == defaults)
    #expect(try keys(JSON(encoding: TrainOptions())) == keys(defaults))
    #expect(try keys(defaults).count == 38)
}

@Test func everyTrainingOptionGoesToCAndBack() throws {
    let options = unusual
    let standard = Mirror(reflecting: TrainOptions()).children.map { "\($0.value)" }
    for (field, standard) in zip(Mirror(reflecting: options).children, standard) where field.label != "labelSmoothing" {
        #expect("\(field.value)" != standard, "\(field.label ?? "") has its default")
    }
    let written = try json(of: options)
    #expect(try written.decode(TrainOptions.self) == options)
    #expect(try keys(written) == keys(JSON(encoding: options)))
    // Not beside preferences.
    var smooth = TrainOptions()
    smooth.labelSmoothing = 0.25
    #expect(try json(of: smooth).decode(TrainOptions.self) == smooth)
}

@Test(arguments: [
    Optimizer.adamW(AdamWOptions(beta1: 0.5, beta2: 0.75, eps: 1e-6, weightDecay: 0.5, biasCorrection: false)),
    .adam(AdamOptions(beta1: 0.5, beta2: 0.75, eps: 1e-6, weightDecay: 0.5, biasCorrection: false)),
    .sgd(SGDOptions(momentum: 0.5, dampening: 0.25, weightDecay: 0.5)),
    .adafactor(
        AdafactorOptions(
            eps: 1e-20, parameterEps: 0.5, clipThreshold: 2, decayRate: -0.5, beta1: 0.9, weightDecay: 0.5,
            scaleParameter: true)),
    .muon(unusualMuon), .adamW(), .adam(), .sgd(), .adafactor(), .muon(),
])
func everyOptimizerGoesToCAndBack(_ optimizer: Optimizer) throws {
    var options = TrainOptions()
    options.optimizer = optimizer
    let written = try json(of: options)
    #expect(try written.decode(TrainOptions.self) == options)
    #expect(try keys(written) == keys(JSON(encoding: options)))
}

private var unusualMuon: MuonOptions {
    var options = MuonOptions(
        momentum: 0.5, weightDecay: 0.5, learningRateAdjustment: .matchRMSAdamW, adamW: AdamWOptions(beta1: 0.5))
    options.nesterov = false
    options.nsSteps = 4
    options.nsCoefficients = [2, -1.5, 0.5]
    options.eps = 1e-6
    return options
}

@Test(arguments: ["adamw", "adam", "sgd", "adafactor", "muon"])
func optimizersThatAreOnlyNamedHaveTheDefaultsOfC(_ name: String) throws {
    let bare = try JSON(text: "{\"optimizer\": \"\(name)\"}")
    let settings = try JSON(text: "{\"optimizer\": {\"name\": \"\(name)\"}}")
    let options = try bare.decode(TrainOptions.self)
    #expect(try settings.decode(TrainOptions.self) == options)
    let ofC = try withText(bare.text) { text, length in
        try Handle(free: mcandle_train_options_free) { mcandle_train_options_from_json(text, length, $0, $1) }
    }
    let written = try string { mcandle_train_options_to_json(ofC.pointer, $0, $1) }
    #expect(try json(of: options).text == written)
}

@Test(arguments: [
    TrainMethod.full(), .full(layers: .last(3)), .full(layers: .these([0, 2])), .lora(),
    .lora(LoRAOptions(scale: .alpha(4), layers: .these([1]))),
    .lora(LoRAOptions(targets: .pattern(".*\\.[qk]_proj"))),
])
func everyMethodGoesToCAndBack(_ method: TrainMethod) throws {
    var options = TrainOptions()
    options.method = method
    let written = try json(of: options)
    #expect(try written.decode(TrainOptions.self) == options)
    #expect(try keys(written) == keys(JSON(encoding: options)))
}

@Test(arguments: [
    LearningRateSchedule.constant, .linear, .cosine, .step(size: 3), .exponential(gamma: 0.75),
])
func everyScheduleGoesToCAndBack(_ schedule: LearningRateSchedule) throws {
    var options = TrainOptions()
    options.schedule = schedule
    #expect(try json(of: options).decode(TrainOptions.self) == options)
}

@Test(arguments: [PreferenceLoss.dpo(), .orpo(), .orpo(lambda: 0.5)])
func everyPreferenceGoesToCAndBack(_ preference: PreferenceLoss) throws {
    var options = TrainOptions()
    options.preference = preference
    #expect(try json(of: options).decode(TrainOptions.self) == options)
    let name = preference == .dpo() ? "dpo" : "orpo"
    let bare = try JSON(text: "\"\(name)\"").decode(PreferenceLoss.self)
    #expect(bare == (name == "dpo" ? .dpo() : .orpo()))
}

@Test(arguments: Batching.allCases)
func everyBatchingGoesToCAndBack(_ batching: Batching) throws {
    var options = TrainOptions()
    options.batching = batching
    #expect(try json(of: options).decode(TrainOptions.self) == options)
}

@Test func optionsOutOfRangeAreNamed() throws {
    func expect(_ part: String, _ change: (inout TrainOptions) -> Void) throws {
        var options = TrainOptions()
        change(&options)
        do {
            _ = try json(of: options)
            Issue.record("\(part) was taken")
        } catch MetalCandleError.invalidArgument(let message) {
            #expect(message.contains(part), "\(message)")
        }
    }
    try expect("steps is -1") { $0.steps = -1 }
    try expect("save_every is -2") { $0.saveEvery = -2 }
    try expect("rank is -3") { $0.method = .lora(LoRAOptions(rank: -3)) }
    try expect("rank") { $0.method = .lora(LoRAOptions(rank: 5000)) }
    try expect("num_layers is -1") { $0.method = .full(layers: .last(-1)) }
    try expect("layers is -7") { $0.method = .full(layers: .these([-7])) }
    try expect("step_size is -1") { $0.schedule = .step(size: -1) }
    try expect("gamma") { $0.schedule = .exponential(gamma: 2) }
    try expect("beta") { $0.preference = .dpo(beta: 0) }
    try expect("learning_rate is inf") { $0.learningRate = .infinity }
    try expect("epochs is nan") { $0.epochs = .nan }
    try expect("output_dir is https://example.org") { $0.outputDirectory = URL(string: "https://example.org") }
    for json in [
        "{\"method\": {\"target_modules\": [\"q_prj\"]}}", "{\"method\": {\"alpha\": 1, \"scale\": 1}}",
        "{\"method\": {\"num_layers\": 1, \"layers\": [1]}}", "{\"optimizer\": \"adamx\"}",
        "{\"optimizer\": {\"name\": \"muon\", \"ns_coefficients\": [1, 2]}}", "{\"schedule\": 3}",
    ] {
        #expect(throws: DecodingError.self) { try JSON(text: json).decode(TrainOptions.self) }
    }
}

@Test func optionsOfDataSetsGoToCAndBack() throws {
    let handle = Handle(mcandle_dataset_options_new(), free: mcandle_dataset_options_free)
    let defaults = try JSON(text: string { mcandle_dataset_options_to_json(handle.pointer, $0, $1) })
    #expect(try defaults.decode(DatasetOptions.self) == DatasetOptions())
    #expect(try json(of: DatasetOptions()) == defaults)
    #expect(try keys(JSON(encoding: DatasetOptions())) == keys(defaults))
    #expect(try keys(defaults).count == 15)

    var options = DatasetOptions(maxSeqLength: 9, mask: .prompt, onBadRow: .skip)
    options.maxBytesInMemory = .max
    options.fields.text = "a"
    options.fields.prompt = "b"
    options.fields.completion = "c"
    options.fields.messages = "d"
    options.fields.tools = "e"
    options.fields.prefix = "f"
    options.fields.suffix = "g"
    options.fields.middle = "h"
    options.fields.chosen = "i"
    options.fields.rejected = "j"
    #expect(try json(of: options).decode(DatasetOptions.self) == options)
    do {
        _ = try DatasetOptions(maxSeqLength: -1).handle()
        Issue.record("a length below zero was taken")
    } catch MetalCandleError.invalidArgument(let message) {
        #expect(message.contains("max_seq_length is -1"))
    }
}
