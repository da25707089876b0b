import Foundation
import MetalCandle
import TestSupport
import Testing

private func tinyModel() async throws -> Model {
    try await Model.load(from: tinyCoder, options: exact)
}

@Test func aDatasetOfRowsIsThatOfTheirFile() async throws {
    let model = try await tinyModel()
    let rows = try sqlRows(6)
    try await withTemporaryFolder { folder in
        let file = folder.appending(path: "rows.jsonl")
        try rows.map(\.text).joined(separator: "\n").write(to: file, atomically: true, encoding: .utf8)
        let options = DatasetOptions(maxSeqLength: 60)
        let ofFile = try await Dataset.load(from: file, for: model, options: options)
        let ofRows = try await Dataset(rows: rows, for: model, options: options)
        #expect(ofRows.count == 6)
        #expect(ofRows.tokenCount > 100)
        #expect(ofRows.targetTokenCount > 20)
        #expect(ofRows.truncatedCount > 0)
        #expect(ofRows.rowKind == .sample)
        #expect(ofFile.count == ofRows.count)
        #expect(ofFile.tokenCount == ofRows.tokenCount)
        #expect(ofFile.targetTokenCount == ofRows.targetTokenCount)
        #expect(ofFile.truncatedCount == ofRows.truncatedCount)
        // A checkpoint knows its rows: that of one data set is one of the other.
        let trainer = try await Trainer(model: model, train: ofFile, options: shortOptions(steps: 1))
        let checkpoint = folder.appending(path: "checkpoint")
        try await trainer.saveCheckpoint(to: checkpoint)
        _ = try await Trainer(resumingFrom: checkpoint, model: model, train: ofRows, options: shortOptions(steps: 1))
    }
}

@Test func rowsThatCannotBeUsedAreNamedOrLeftOut() async throws {
    let model = try await tinyModel()
    try await withTemporaryFolder { folder in
        let file = folder.appending(path: "rows.jsonl")
        let lines = "{\"text\": \"fn main() {}\"}\n{\"txt\": 1}\n{\"text\": \"struct A;\"}\n"
        try lines.write(to: file, atomically: true, encoding: .utf8)
        do {
            _ = try await Dataset.load(from: file, for: model)
            Issue.record("a row without a known key was taken")
        } catch MetalCandleError.invalidFormat(let message) {
            #expect(message.contains("rows.jsonl:2"), "\(message)")
        }
        let rows = try await Dataset.load(from: file, for: model, options: DatasetOptions(onBadRow: .skip))
        #expect(rows.count == 2)
        #expect(rows.skippedCount == 1)
        #expect(rows.skippedRows.map(\.line) == [2])
        #expect(rows.skippedRows.first?.reason.contains("txt") == true)
    }
    let bad: [JSON] = Array(repeating: ["txt": 1], count: 120)
    do {
        _ = try await Dataset(rows: [["text": "a"]] + bad, for: model)
        Issue.record("a row without a known key was taken")
    } catch MetalCandleError.invalidFormat(let message) {
        #expect(message.contains("2"), "\(message)")
    }
    let rows = try await Dataset(
        rows: [["text": "fn main() {}"]] + bad, for: model, options: DatasetOptions(onBadRow: .skip))
    #expect(rows.count == 1)
    #expect(rows.skippedCount == 120)
    #expect(rows.skippedRows.map(\.line) == Array(2...101))
}

@Test func aFolderHasItsSplits() async throws {
    let model = try await tinyModel()
    try await withTemporaryFolder { folder in
        do {
            _ = try await Dataset.loadSplits(from: folder, for: model)
            Issue.record("an empty folder was taken")
        } catch MetalCandleError.notFound(let message) {
            #expect(message.contains("train.jsonl"))
        }
        func write(_ rows: ArraySlice<JSON>, _ name: String) throws {
            let lines = rows.map(\.text).joined(separator: "\n")
            try lines.write(to: folder.appending(path: name), atomically: true, encoding: .utf8)
        }
        try write(shortRows[..<5], "train.jsonl")
        var splits = try await Dataset.loadSplits(from: folder, for: model)
        #expect(splits.train.count == 5)
        #expect(splits.validation == nil && splits.test == nil)
        try write(shortRows[..<2], "valid.jsonl")
        try write(shortRows[..<3], "test.jsonl")
        splits = try await Dataset.loadSplits(from: folder, for: model)
        #expect([splits.train.count, splits.validation?.count, splits.test?.count] == [5, 2, 3])
    }
}

@Test func pairsAreOfTheirOwnKind() async throws {
    let model = try await tinyModel()
    #expect(try await Dataset(rows: shortPairs, for: model).rowKind == .pair)
    await #expect(throws: MetalCandleError.self) { try await Dataset(rows: shortPairs + shortRows, for: model) }
}

@Test func rowsWithoutAnEndEndWithTheirTask() async throws {
    struct Endless: Sequence, IteratorProtocol, Sendable {
        let reached: AsyncStream<Void>.Continuation
        var count = 0

        mutating func next() -> JSON? {
            count += 1
            if count == 3 {
                reached.finish()
            }
            return ["text": "fn main() {}"]
        }
    }
    let model = try await tinyModel()
    let (stream, reached) = AsyncStream<Void>.makeStream()
    let task = Task { try await Dataset(rows: Endless(reached: reached), for: model) }
    for await _ in stream {}
    task.cancel()
    await #expect(throws: CancellationError.self) { try await task.value }
}
