internal import CMetalCandle
internal import Synchronization

/// One generation on a thread of the library, from its turn to its completion, and the stream that it feeds.
///
/// The library holds a reference meanwhile, and the run one to the generator, so that both may be let go of.
final class GenerationRun: Sendable {
    typealias Stream = AsyncThrowingStream<Chunk, any Error>

    private enum Phase {
        case waiting, running, cancelled, ended
    }

    private let generator: Handle
    private let turns: Turns
    private let thrown: ThrownError
    private let chunks: Stream.Continuation
    private let phase = Mutex(Phase.waiting)

    private init(_ generator: Handle, _ turns: Turns, _ thrown: ThrownError, _ chunks: Stream.Continuation) {
        self.generator = generator
        self.turns = turns
        self.thrown = thrown
        self.chunks = chunks
    }

    /// Starts a generation when it is its turn. What fails, also at the start, is thrown by the stream.
    ///
    /// The stream holds what was generated and not taken yet, which is bounded by the most tokens. Where it is let
    /// go of, or its task is cancelled, the generation ends before the next token.
    static func start(
        _ prompt: Prompt, _ options: GenerateOptions, on generator: Handle, _ turns: Turns, _ thrown: ThrownError
    ) -> Stream {
        let (stream, chunks) = Stream.makeStream()
        let run = GenerationRun(generator, turns, thrown, chunks)
        chunks.onCancel { run.cancel() }
        turns.take { run.begin(prompt, options) }
        return stream
    }

    private func begin(_ prompt: Prompt, _ options: GenerateOptions) {
        let userData = Unmanaged.passRetained(self)
        do {
            let options = try options.handle()
            try phase.withLock { phase in
                guard phase == .waiting else {
                    throw CancellationError()
                }
                phase = .running
            }
            try prompt.start(
                generator.pointer, options.pointer,
                { chunk, run in (borrowed(run) as GenerationRun).tell(chunk) },
                { generation, error, run in (owned(run) as GenerationRun).complete(generation, error) },
                userData.toOpaque())
            // A cancellation before the start did not meet it. After the end, another run may have its turn.
            phase.withLock { phase in
                if phase == .cancelled {
                    mcandle_generator_cancel(generator.pointer)
                }
            }
        } catch {
            userData.release()
            end(throwing: error)
        }
    }

    private func tell(_ chunk: OpaquePointer) -> Bool {
        chunks.yield(.token(Chunk.Token(chunk)))
        return phase.withLock { $0 != .cancelled }
    }

    private func complete(_ generation: OpaquePointer?, _ error: OpaquePointer?) {
        var failure: (any Error)? = error.map(MetalCandleError.init(taking:))
        if let generation {
            do {
                chunks.yield(.end(try Generation(generation)))
            } catch {
                failure = error
            }
            mcandle_generation_free(generation)
        }
        // What a logits processor threw says more than that it failed the generation.
        end(throwing: thrown.take() ?? failure)
    }

    private func end(throwing error: (any Error)?) {
        phase.withLock { $0 = .ended }
        chunks.finish(throwing: error)
        turns.pass()
    }

    private func cancel() {
        phase.withLock { phase in
            if phase == .running {
                mcandle_generator_cancel(generator.pointer)
            }
            if phase != .ended {
                phase = .cancelled
            }
        }
    }
}
