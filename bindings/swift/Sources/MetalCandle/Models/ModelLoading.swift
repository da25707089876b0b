internal import CMetalCandle
internal import Foundation

/// One load of a model: what the library's thread needs, and the task that waits for it.
///
/// The library holds a reference from the start to the completion, which comes exactly once.
final class ModelLoading: Sendable {
    private let progress: Progress?
    private let isCancelled = Flag()
    private let waiter = Waiter<Model>()

    init(progress: Progress?) {
        self.progress = progress
    }

    func run(url: URL, options: ModelOptions) async throws -> Model {
        try Task.checkCancellation()
        return try await withTaskCancellationHandler {
            try await waiter.wait { self.start(url: url, options: options) }
        } onCancel: {
            // Before the next tensor, so that nobody goes on while the library still loads.
            isCancelled.raise()
        }
    }

    private func start(url: URL, options: ModelOptions) {
        do {
            let options = try options.handle()
            let loading = Unmanaged.passRetained(self)
            mcandle_model_options_set_progress(
                options.pointer,
                { loaded, total, loading in (borrowed(loading) as ModelLoading).tell(loaded: loaded, total: total) },
                loading.toOpaque())
            do {
                try withPath(url) { path in
                    try check {
                        mcandle_model_load_async(
                            path, options.pointer,
                            { model, error, loading in (owned(loading) as ModelLoading).finish(model, error) },
                            loading.toOpaque(), $0)
                    }
                }
            } catch {
                loading.release()
                throw error
            }
        } catch {
            waiter.resume(with: .failure(error))
        }
    }

    private func tell(loaded: UInt64, total: UInt64) -> Bool {
        if let progress {
            progress.totalUnitCount = Int64(clamping: total)
            progress.completedUnitCount = Int64(clamping: loaded)
        }
        return !isCancelled.isRaised && progress?.isCancelled != true
    }

    private func finish(_ model: OpaquePointer?, _ error: OpaquePointer?) {
        let model = model.map { Model(Handle($0, free: mcandle_model_free)) }
        let error = error.map(MetalCandleError.init(taking:))
        // A model that came all the same, because the last tensor was read, is freed.
        if isCancelled.isRaised {
            waiter.resume(with: .failure(CancellationError()))
        } else if let model {
            waiter.resume(with: .success(model))
        } else {
            waiter.resume(with: .failure(error ?? .internal("neither a model nor an error")))
        }
    }
}
