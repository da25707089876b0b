internal import Dispatch

/// Reads lines of standard input on a thread of its own, because waiting for them would block one of Swift's.
public struct Lines: Sendable {
    private let queue = DispatchQueue(label: "lines")

    /// Makes a reader. There should be one, as there is one standard input.
    public init() {}

    /// Waits for the next line; `nil` at the end of the input.
    public func next() async -> String? {
        await withCheckedContinuation { continuation in
            queue.async { continuation.resume(returning: readLine()) }
        }
    }
}
