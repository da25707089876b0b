import MetalCandle
import Synchronization

/// What Ctrl-C, which comes on another thread, has to know of the chat: whether an answer runs.
final class Answering: Sendable {
    private struct State {
        var generator: Generator?
        var isStopped = false
        var interrupts = 0
    }

    private let state = Mutex(State())

    func begin(_ generator: Generator) {
        state.withLock { $0 = State(generator: generator) }
    }

    func end() {
        state.withLock { $0 = State() }
    }

    /// Stops the answer that runs; `false` where none does.
    @discardableResult
    func stop() -> Bool {
        state.withLock { state in
            state.isStopped = state.generator != nil
            state.generator?.cancel()
            return state.isStopped
        }
    }

    /// Stops again what was to be stopped, because a generation that had not begun then was not.
    func repeatStop() {
        state.withLock { state in
            if state.isStopped {
                state.generator?.cancel()
            }
        }
    }

    /// Counts a Ctrl-C at the prompt, and tells whether there was one before, with nothing entered since.
    func isSecondInterrupt() -> Bool {
        state.withLock { state in
            state.interrupts += 1
            return state.interrupts > 1
        }
    }

    func resetInterrupts() {
        state.withLock { $0.interrupts = 0 }
    }
}
