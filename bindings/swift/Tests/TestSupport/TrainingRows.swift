public import Foundation
public import MetalCandle

/// The rows of questions and SQL.
public let sqlFolder = repository.appending(path: "assets/sql")

/// The first rows of questions and SQL.
public func sqlRows(_ count: Int) throws -> [JSON] {
    try String(contentsOf: sqlFolder.appending(path: "train.jsonl"), encoding: .utf8)
        .split(separator: "\n").prefix(count).map { try JSON(text: String($0)) }
}

/// Rows so short that a step takes a few hundredths of a second.
public let shortRows: [JSON] = (0..<8).map { ["prompt": "let x = ", "completion": JSON("\($0) * 2;")] }

/// Pairs of a better and a worse answer, as short.
public let shortPairs: [JSON] = (0..<4).map {
    ["prompt": "let x = ", "chosen": JSON("\($0);"), "rejected": JSON("\($0)")]
}

/// Options for short rows, that do what is asked for and nothing else.
public func shortOptions(steps: Int, outputDirectory: URL? = nil) -> TrainOptions {
    var options = TrainOptions(
        method: .lora(LoRAOptions(rank: 2, targets: .projections([.query, .value]))), steps: steps, batchSize: 1,
        learningRate: 1e-3, outputDirectory: outputDirectory)
    options.evalEvery = 0
    options.saveEvery = 0
    return options
}
