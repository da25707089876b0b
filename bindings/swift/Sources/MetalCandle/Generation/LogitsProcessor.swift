internal import CMetalCandle
internal import Synchronization

/// Changes the logits of the next token before it is chosen.
///
/// Penalties, grammars and filters work on what it leaves. It is called on a thread of the library, for each token,
/// so it should be fast. It must not wait for the generator or batch that calls it, which waits for it.
///
/// ```swift
/// try await generator.setLogitsProcessor { tokens, logits in
///     logits[42] = -.infinity
/// }
/// ```
///
/// - Parameters:
///   - tokens: The ids of the prompt and of what was generated.
///   - logits: One number for each id of the vocabulary, to be changed in place.
/// - Throws: Any error, which fails the generation, and comes out of it as it is.
public typealias LogitsProcessor = @Sendable (_ tokens: [UInt32], _ logits: inout Logits) throws -> Void

/// The logits of the next token, one for each id of the vocabulary, which a ``LogitsProcessor`` changes.
///
/// They are lent for one call, and cannot be copied out of it.
public struct Logits: ~Copyable {
    private let numbers: UnsafeMutableBufferPointer<Float>

    init(_ numbers: UnsafeMutableBufferPointer<Float>) {
        self.numbers = numbers
    }

    /// The number of token ids.
    public var count: Int { numbers.count }

    /// The logit of a token; negative infinity forbids it. An id that the vocabulary does not have is forbidden
    /// whatever is set.
    public subscript(id: UInt32) -> Float {
        get {
            numbers.indices.contains(Int(id)) ? numbers[Int(id)] : -.infinity
        }
        set {
            if numbers.indices.contains(Int(id)) {
                numbers[Int(id)] = newValue
            }
        }
    }

    /// Lends all logits at once, as for Accelerate. The pointer must not be used after the call.
    public mutating func withUnsafeMutableBufferPointer<Result>(
        _ body: (UnsafeMutableBufferPointer<Float>) throws -> Result
    ) rethrows -> Result {
        try body(numbers)
    }
}

extension Generator {
    /// Lets a function change the logits of every token from the next generation on, in the place of any before; `nil`
    /// for none.
    ///
    /// A generator that ``fork()`` makes has none. One that holds on to its own generator keeps it alive.
    public func setLogitsProcessor(_ processor: LogitsProcessor?) async throws {
        try await turns.run { [handle, thrown] in
            guard let processor else {
                return try check { mcandle_generator_set_logits_processor(handle.pointer, nil, nil, nil, $0) }
            }
            let processing = LogitsProcessing(processor, thrown)
            try check {
                mcandle_generator_set_logits_processor(
                    handle.pointer, processLogits, processing.handedOver(), releaseLogitsProcessing, $0)
            }
        }
    }
}

/// What a function threw in a call of the library, until that call has ended.
final class ThrownError: Sendable {
    private let error = Mutex<(any Error)?>(nil)

    func keep(_ thrown: any Error) {
        error.withLock { $0 = thrown }
    }

    func take() -> (any Error)? {
        error.withLock { error in
            defer { error = nil }
            return error
        }
    }
}

/// What the library holds of a logits processor.
final class LogitsProcessing: Sendable {
    private let processor: LogitsProcessor
    private let thrown: ThrownError

    init(_ processor: @escaping LogitsProcessor, _ thrown: ThrownError) {
        self.processor = processor
        self.thrown = thrown
    }

    /// The user data for a call, which owns it from its start, also where it fails.
    func handedOver() -> UnsafeMutableRawPointer {
        Unmanaged.passRetained(self).toOpaque()
    }

    func process(_ tokens: UnsafeBufferPointer<UInt32>, _ logits: UnsafeMutableBufferPointer<Float>) -> Bool {
        var logits = Logits(logits)
        do {
            try processor(Array(tokens), &logits)
            return true
        } catch {
            thrown.keep(error)
            return false
        }
    }
}

/// Calls a ``LogitsProcessing``.
func processLogits(
    _ tokens: UnsafePointer<UInt32>, _ tokenCount: Int, _ logits: UnsafeMutablePointer<Float>, _ logitCount: Int,
    _ processing: UnsafeMutableRawPointer?
) -> Bool {
    (borrowed(processing) as LogitsProcessing).process(
        UnsafeBufferPointer(start: tokens, count: tokenCount),
        UnsafeMutableBufferPointer(start: logits, count: logitCount))
}

/// Gives up a ``LogitsProcessing``.
func releaseLogitsProcessing(_ processing: UnsafeMutableRawPointer?) {
    _ = owned(processing) as LogitsProcessing
}
