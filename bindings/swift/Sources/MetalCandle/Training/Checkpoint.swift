internal import CMetalCandle
public import Foundation

/// A checkpoint in the output directory of a training run, from which another trainer goes on.
public struct Checkpoint: Hashable, Sendable {
    /// The steps done before it.
    public let step: Int
    /// Its directory.
    public let url: URL

    /// The checkpoint of the evaluation with the lowest loss.
    public struct Best: Hashable, Sendable {
        /// The steps done before it.
        public let step: Int
        /// Its directory.
        public let url: URL
        /// Its validation loss.
        public let loss: Double
    }

    /// Lists the checkpoints in an output directory that are whole, by their steps.
    ///
    /// Where the directory does not exist there are none.
    ///
    /// - Throws: ``MetalCandleError/io(_:)``.
    public static func list(in outputDirectory: URL) async throws -> [Checkpoint] {
        try await BlockingWork.run {
            let list = try withPath(outputDirectory) { path in
                try Handle(free: mcandle_checkpoints_free) { mcandle_checkpoint_list(path, $0, $1) }
            }
            return (0..<mcandle_checkpoints_length(list.pointer)).map { index in
                Checkpoint(
                    step: mcandle_checkpoints_step(list.pointer, index),
                    url: URL(filePath: String(cString: mcandle_checkpoints_path(list.pointer, index))))
            }
        }
    }

    /// Finds the checkpoint with the most steps in an output directory; `nil` where there is none.
    ///
    /// - Throws: ``MetalCandleError/io(_:)``.
    public static func latest(in outputDirectory: URL) async throws -> Checkpoint? {
        try await list(in: outputDirectory).last
    }

    /// Finds the checkpoint of the evaluation with the lowest loss in an output directory; `nil` where no such
    /// checkpoint was written.
    ///
    /// It is not looked whether somebody removed it since.
    ///
    /// - Throws: ``MetalCandleError/invalidFormat(_:)`` where `best.json` in the directory is damaged,
    ///   ``MetalCandleError/io(_:)``.
    public static func best(in outputDirectory: URL) async throws -> Best? {
        try await BlockingWork.run {
            var checkpoint: OpaquePointer?
            var step = 0
            var loss = 0.0
            try withPath(outputDirectory) { path in
                try check { mcandle_checkpoint_best(path, &checkpoint, &step, &loss, $0) }
            }
            guard let checkpoint else {
                return nil
            }
            defer { mcandle_string_free(checkpoint) }
            return Best(step: step, url: URL(filePath: String(cString: mcandle_string_data(checkpoint))), loss: loss)
        }
    }
}
