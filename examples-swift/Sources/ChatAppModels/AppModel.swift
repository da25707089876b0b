public import Foundation
public import MetalCandle
public import Observation

/// The model that is open, or what became of opening it.
@MainActor @Observable
public final class AppModel {
    /// What the window shows.
    public enum Phase {
        /// No model is open.
        case empty
        /// A model is loading; the share of its bytes that are read.
        case loading(name: String, share: Double)
        /// A model is open.
        case ready(OpenModel)
        /// A model could not be opened; why.
        case failed(name: String, reason: String)
    }

    /// What the window shows.
    public private(set) var phase = Phase.empty
    /// The models that were opened last.
    public let recents: RecentModels
    /// The loading that runs or ran last.
    public private(set) var loading: Task<Void, Never>?

    private let runs: URL
    private let options: ModelOptions

    /// Starts without a model.
    ///
    /// - Parameters:
    ///   - recents: Where the list of models is kept.
    ///   - runs: The folder for checkpoints and adapters of fine-tuning, which need not be there yet.
    ///   - options: How models are loaded.
    public init(recents: any RecentModelStore, runs: URL, options: ModelOptions = ModelOptions()) {
        self.recents = RecentModels(recents)
        self.runs = runs
        self.options = options
    }

    /// Opens a model of the list.
    public func open(_ recent: RecentModel) {
        do {
            open(try recent.file.resolve())
        } catch {
            phase = .failed(name: recent.name, reason: error.localizedDescription)
        }
    }

    /// Opens what a person chose, or tells why there was nothing to choose.
    public func open(_ choice: Result<URL, any Error>) {
        switch choice {
        case .success(let url): open(url)
        case .failure(let error): phase = .failed(name: "The model", reason: error.localizedDescription)
        }
    }

    /// Opens a model that a person chose, in the place of the one that is open.
    public func open(_ url: URL) {
        close()
        let name = url.lastPathComponent
        phase = .loading(name: name, share: 0)
        loading = Task {
            let end: Phase
            do {
                end = .ready(try await load(FileAccess(url), name))
            } catch {
                end = .failed(name: name, reason: error.localizedDescription)
            }
            // Who cancelled has said what comes instead.
            if !Task.isCancelled {
                phase = end
            }
        }
    }

    private func load(_ access: FileAccess, _ name: String) async throws -> OpenModel {
        let recent = try await RecentModel(inspecting: access.url)
        let progress = Progress(totalUnitCount: 0)
        // Is cancelled with this task, and at the latest with the end of this function.
        async let _ = show(progress, name)
        let model = try await Model.load(from: access.url, options: options, progress: progress)
        let open = try OpenModel(model, name: name, access: access, runs: runs.appending(path: name))
        recents.add(recent)
        return open
    }

    private func show(_ progress: Progress, _ name: String) async {
        while !Task.isCancelled {
            phase = .loading(name: name, share: progress.fractionCompleted)
            try? await Task.sleep(for: .milliseconds(50))
        }
    }

    /// Lets go of the model that is open or loading. What it was doing is stopped.
    public func close() {
        loading?.cancel()
        if case .ready(let open) = phase {
            open.stop()
        }
        phase = .empty
    }
}

/// A model that is open: its conversation and its fine-tuning.
@MainActor
public final class OpenModel {
    /// The name of its file or folder.
    public let name: String
    /// What it is, in a line for people.
    public let summary: String
    /// The conversation with it.
    public let chat: ChatModel
    /// Its fine-tuning.
    public let fineTuning: FineTuneModel

    // Weights may be read from the files for as long as the model lives.
    private let access: FileAccess

    init(_ model: Model, name: String, access: FileAccess, runs: URL) throws {
        self.name = name
        self.access = access
        summary = try model.summary
        chat = try ChatModel(model)
        fineTuning = FineTuneModel(model, runs: runs)
    }

    /// Stops what the model is doing: an answer stays as it is, and a run leaves a checkpoint to go on from.
    public func stop() {
        chat.stop()
        fineTuning.stop()
    }
}
