internal import CMetalCandle
public import Foundation

/// Tokenised rows to train on.
///
/// It is never written, so any number of trainers can share one. A row is a JSON object: `{"text": ...}`;
/// `{"prompt": ..., "completion": ...}`; `{"messages": [...]}`, perhaps with `"tools"`, by the model's chat
/// template; `{"prefix": ..., "suffix": ..., "middle": ...}`, by the model's tokens for code to fill in; or
/// `{"prompt": ..., "chosen": ..., "rejected": ...}`, which cannot be mixed with the others. Prompts and answers
/// are texts or lists of messages. Other keys are ignored.
public final class Dataset: Sendable {
    let handle: Handle

    private init(_ handle: Handle) {
        self.handle = handle
    }

    /// Reads a JSONL file: a row in each line.
    ///
    /// Of a file longer than ``DatasetOptions/maxBytesInMemory`` the rows are read again when they are used; a
    /// change of the file is an error then.
    ///
    /// - Parameters:
    ///   - url: The file.
    ///   - model: The model that will be trained.
    ///   - options: How the rows are read.
    /// - Throws: ``MetalCandleError``, such as ``MetalCandleError/invalidFormat(_:)`` with file and line of a row
    ///   that cannot be used.
    public static func load(
        from url: URL, for model: Model, options: DatasetOptions = DatasetOptions()
    ) async throws -> Dataset {
        try await BlockingWork.run {
            let options = try options.handle()
            return try withPath(url) { path in
                Dataset(
                    try Handle(free: mcandle_dataset_free) {
                        mcandle_dataset_from_jsonl(path, model.handle.pointer, options.pointer, $0, $1)
                    })
            }
        }
    }

    /// Reads the data sets of a folder: `train.jsonl`, and where they are there `valid.jsonl` (or
    /// `validation.jsonl`) and `test.jsonl`.
    ///
    /// - Throws: As ``load(from:for:options:)``; ``MetalCandleError/notFound(_:)`` where there is no `train.jsonl`.
    public static func loadSplits(
        from folder: URL, for model: Model, options: DatasetOptions = DatasetOptions()
    ) async throws -> Splits {
        try await BlockingWork.run {
            let options = try options.handle()
            var validation: OpaquePointer?
            var test: OpaquePointer?
            let train = try withPath(folder) { path in
                try Handle(free: mcandle_dataset_free) {
                    mcandle_dataset_from_folder(
                        path, model.handle.pointer, options.pointer, $0, &validation, &test, $1)
                }
            }
            return Splits(
                train: Dataset(train),
                validation: validation.map { Dataset(Handle($0, free: mcandle_dataset_free)) },
                test: test.map { Dataset(Handle($0, free: mcandle_dataset_free)) })
        }
    }

    /// Makes a data set of rows that come from elsewhere than a file. They are kept in memory, as tokens.
    ///
    /// The sequence is iterated on another thread. Where the task is cancelled, that ends before the next row.
    ///
    /// - Parameters:
    ///   - rows: The rows, each as it would be a line of a file; ``JSON/init(encoding:)`` makes one of a value.
    ///   - model: The model that will be trained.
    ///   - options: How the rows are read.
    /// - Throws: As ``load(from:for:options:)``, with the rows numbered from 1; `CancellationError` where the task
    ///   is cancelled.
    public convenience init(
        rows: some Sequence<JSON> & Sendable, for model: Model, options: DatasetOptions = DatasetOptions()
    ) async throws {
        let stop = Flag()
        self.init(
            try await BlockingWork.run(onCancel: { stop.raise() }) {
                let options = try options.handle()
                return try DatasetRows(rows, until: stop).dataset(for: model, options: options)
            })
    }

    /// The data sets of a folder.
    public struct Splits: Sendable {
        /// The rows to train on.
        public let train: Dataset
        /// The rows to evaluate on while training.
        public let validation: Dataset?
        /// The rows to evaluate on at the end.
        public let test: Dataset?
    }

    /// What rows are.
    public enum RowKind: String, Codable, CaseIterable, Sendable {
        /// Texts to imitate.
        case sample
        /// Two answers to a prompt, of which one is preferred; for ``TrainOptions/preference``.
        case pair
    }

    /// A row that was left out.
    public struct SkippedRow: Codable, Hashable, Sendable {
        /// Its line in the file, or its number, from 1.
        public let line: Int
        /// Why it was left out.
        public let reason: String
    }

    /// What the rows are.
    public var rowKind: RowKind {
        switch mcandle_dataset_row_kind(handle.pointer) {
        case .pair: .pair
        case .sample: .sample
        @unknown default: .sample
        }
    }

    /// The number of rows.
    public var count: Int { mcandle_dataset_length(handle.pointer) }

    /// The number of tokens in all rows together.
    public var tokenCount: Int { mcandle_dataset_token_count(handle.pointer) }

    /// The number of tokens that are scored, in all rows together.
    public var targetTokenCount: Int { mcandle_dataset_target_token_count(handle.pointer) }

    /// The number of rows that were cut to the most tokens of a row.
    public var truncatedCount: Int { mcandle_dataset_truncated_count(handle.pointer) }

    /// The number of rows that were left out because they could not be used.
    public var skippedCount: Int { mcandle_dataset_skipped_count(handle.pointer) }

    /// The first of the rows that were left out, at most 100.
    public var skippedRows: [SkippedRow] {
        (0..<skippedCount).lazy
            .map { index in
                SkippedRow(
                    line: mcandle_dataset_skipped_line(self.handle.pointer, index),
                    reason: String(cString: mcandle_dataset_skipped_reason(self.handle.pointer, index)))
            }
            .prefix { $0.line > 0 }
    }
}
