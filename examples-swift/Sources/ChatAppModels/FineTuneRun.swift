internal import Foundation
internal import MetalCandle

/// What a person sets of a fine-tuning.
public struct FineTuneSettings: Codable, Hashable, Sendable {
    /// The rank of the adapter.
    public var rank = 8
    /// The highest learning rate.
    public var learningRate = 1e-4
    /// The steps of the whole run.
    public var steps = 200

    /// Makes the settings that a form starts with.
    public init() {}

    /// The options of the run: about ten evaluations and checkpoints, the newest two and the best kept.
    func options(output: URL) -> TrainOptions {
        var options = TrainOptions()
        options.method = .lora(LoRAOptions(rank: rank, scale: .alpha(2 * Double(rank))))
        options.learningRate = learningRate
        options.steps = steps
        options.evalEvery = max(1, steps / 10)
        options.saveEvery = max(1, steps / 10)
        options.keepCheckpoints = 2
        options.outputDirectory = output
        return options
    }
}

/// A run of fine-tuning on disk: a folder with its settings, checkpoints, and at the end its adapter.
struct FineTuneRun: Codable, Sendable {
    /// What the person set.
    let settings: FineTuneSettings
    /// The folder with the rows.
    let data: FileReference

    private static let file = "fine-tune.json"

    /// The folders of all runs, the one that was started last first.
    static func folders(in runs: URL) throws -> [URL] {
        try numbered(in: runs).sorted { $0.number > $1.number }.map(\.folder)
    }

    /// Makes a folder for a run, and writes the settings there.
    func create(in runs: URL) throws -> URL {
        let last = try Self.numbered(in: runs).map(\.number).max() ?? 0
        let folder = runs.appending(path: "run-\(last + 1)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try JSONEncoder().encode(self).write(to: folder.appending(path: Self.file), options: .atomic)
        return folder
    }

    /// Reads the settings of a run.
    init(in folder: URL) throws {
        self = try JSONDecoder().decode(Self.self, from: Data(contentsOf: folder.appending(path: Self.file)))
    }

    /// Describes a run that is about to start.
    init(settings: FineTuneSettings, data: FileReference) {
        self.settings = settings
        self.data = data
    }

    private static func numbered(in runs: URL) throws -> [(number: Int, folder: URL)] {
        guard FileManager.default.fileExists(atPath: runs.path(percentEncoded: false)) else {
            return []
        }
        let folders = try FileManager.default.contentsOfDirectory(at: runs, includingPropertiesForKeys: nil)
        return folders.compactMap { folder in
            let name = folder.lastPathComponent
            guard name.hasPrefix("run-"), let number = Int(name.dropFirst(4)) else {
                return nil
            }
            return (number, folder)
        }
    }
}
