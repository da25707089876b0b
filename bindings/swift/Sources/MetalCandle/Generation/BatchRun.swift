internal import CMetalCandle
internal import Synchronization

/// One run of a batch, step by step, and the stream that it feeds.
///
/// Between two steps others have their turn, so texts can be added and cancelled while it goes on, and each text is
/// handed over when it ends.
final class BatchRun: Sendable {
    typealias Stream = AsyncThrowingStream<BatchChunk, any Error>

    private enum Phase {
        case waiting, running, cancelled, ended
    }

    private let batch: BatchGenerator
    private let chunks: Stream.Continuation
    private let phase = Mutex(Phase.waiting)

    private init(_ batch: BatchGenerator, _ chunks: Stream.Continuation) {
        self.batch = batch
        self.chunks = chunks
    }

    /// Starts a run when it is its turn.
    static func start(on batch: BatchGenerator) -> Stream {
        let (stream, chunks) = Stream.makeStream()
        let run = BatchRun(batch, chunks)
        chunks.onCancel { run.cancel() }
        batch.runs.take { run.begin() }
        return stream
    }

    private func begin() {
        phase.withLock { phase in
            if phase == .waiting {
                phase = .running
            }
        }
        Task {
            do {
                while try await batch.turns.run({ try self.isRunning && self.step() }) {}
                end(throwing: nil)
            } catch {
                end(throwing: error)
            }
        }
    }

    private var isRunning: Bool {
        phase.withLock { $0 == .running }
    }

    /// Computes the next token of every text, hands over what came of it, and tells whether there is more to do.
    private func step() throws -> Bool {
        let results = try Handle(free: mcandle_batch_results_free) { results, error in
            mcandle_batch_step(
                batch.handle.pointer, { chunk, run in (borrowed(run) as BatchRun).tell(chunk) },
                Unmanaged.passUnretained(self).toOpaque(), results, error)
        }
        for index in 0..<mcandle_batch_results_length(results.pointer) {
            chunks.yield(.end(result(results.pointer, index)))
        }
        return try batch.unfinished() > 0
    }

    private func tell(_ chunk: OpaquePointer) -> Bool {
        chunks.yield(.token(sequence: mcandle_chunk_sequence(chunk), Chunk.Token(chunk)))
        return true
    }

    private func result(_ results: OpaquePointer, _ index: Int) -> BatchResult {
        let sequence = mcandle_batch_results_sequence(results, index)
        let thrown = batch.takeThrown(sequence)
        if let generation = mcandle_batch_results_generation(results, index) {
            return BatchResult(sequence: sequence, result: Swift.Result { try Generation(generation) })
        }
        let failure = MetalCandleError(of: mcandle_batch_results_error(results, index))
        return BatchResult(sequence: sequence, result: .failure(thrown ?? failure))
    }

    private func end(throwing error: (any Error)?) {
        phase.withLock { $0 = .ended }
        chunks.finish(throwing: error)
        batch.runs.pass()
    }

    /// Ends the texts that are there, in a turn that is asked for now: those that are added after have nothing to do
    /// with it.
    private func cancel() {
        let wasRunning = phase.withLock { phase in
            defer {
                if phase != .ended {
                    phase = .cancelled
                }
            }
            return phase == .running
        }
        if wasRunning {
            batch.turns.take {
                Task {
                    _ = try? await BlockingWork.run {
                        self.batch.cancel()
                        return try self.step()
                    }
                    self.batch.turns.pass()
                }
            }
        }
    }
}
