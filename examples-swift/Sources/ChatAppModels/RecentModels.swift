public import Foundation
internal import MetalCandle
public import Observation

/// A model that was opened before.
public struct RecentModel: Codable, Hashable, Identifiable, Sendable {
    /// Its file or folder.
    public let file: FileReference
    /// The name of its file or folder.
    public let name: String
    /// What it is.
    public let info: Info

    /// What tells models apart in the list.
    public var id: String { file.path }

    /// What a list shows of a model, without loading it.
    public struct Info: Codable, Hashable, Sendable {
        /// The family, such as `qwen2`.
        public let architecture: String
        /// The number of weights.
        public let parameters: UInt64
        /// Their size in the files, in bytes.
        public let bytes: UInt64
        /// How most of its weights are quantised, where they are.
        public let quantization: String?

        init(_ info: ModelInfo) {
            architecture = info.architecture
            parameters = info.parameterCount
            bytes = info.encodings.values.reduce(0) { $0 + $1.bytes }
            quantization = info.quantization
        }
    }

    /// Looks at a model on disk.
    ///
    /// - Throws: `MetalCandleError` where there is no model that can be loaded.
    public init(inspecting url: URL) async throws {
        info = Info(try await Model.inspect(url))
        file = FileReference(url)
        name = url.lastPathComponent
    }
}

/// Where the list of models is kept.
public protocol RecentModelStore: Sendable {
    /// The list as it was saved last; empty where none was.
    func load() throws -> [RecentModel]
    /// Saves the list.
    func save(_ models: [RecentModel]) throws
}

/// Keeps the list of models in a JSON file.
public struct RecentModelFile: RecentModelStore {
    private let url: URL

    /// Names the file, which need not be there yet, nor its folder.
    public init(_ url: URL) {
        self.url = url
    }

    /// Reads the file.
    public func load() throws -> [RecentModel] {
        guard FileManager.default.fileExists(atPath: url.path(percentEncoded: false)) else {
            return []
        }
        return try JSONDecoder().decode([RecentModel].self, from: Data(contentsOf: url))
    }

    /// Writes the file, whole or not at all.
    public func save(_ models: [RecentModel]) throws {
        try FileManager.default.createDirectory(
            at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
        try JSONEncoder().encode(models).write(to: url, options: .atomic)
    }
}

/// The models that were opened last, the newest first.
@MainActor @Observable
public final class RecentModels {
    /// The models.
    public private(set) var models: [RecentModel]
    /// Why the list could not be read or saved.
    public private(set) var error: String?

    private static let limit = 20
    private let store: any RecentModelStore

    /// Reads the list.
    public init(_ store: any RecentModelStore) {
        self.store = store
        do {
            models = try store.load()
        } catch {
            models = []
            self.error = error.localizedDescription
        }
    }

    /// Puts a model at the top of the list.
    public func add(_ model: RecentModel) {
        save([model] + models.filter { $0.id != model.id })
    }

    /// Takes a model off the list. Its files stay.
    public func remove(_ model: RecentModel) {
        save(models.filter { $0.id != model.id })
    }

    private func save(_ new: [RecentModel]) {
        models = Array(new.prefix(Self.limit))
        do {
            try store.save(models)
            error = nil
        } catch {
            self.error = error.localizedDescription
        }
    }
}
