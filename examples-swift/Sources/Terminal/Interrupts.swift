internal import Dispatch
internal import Foundation

/// Calls a function for each Ctrl-C, in the place of ending the program.
///
/// The function runs on a queue, not in a signal handler, so it may do what any function may.
public final class Interrupts {
    private let source: any DispatchSourceSignal

    /// Takes over Ctrl-C until it is let go of.
    public init(_ handler: @escaping @Sendable () -> Void) {
        // Else the signal would end the program before the source sees it.
        signal(SIGINT, SIG_IGN)
        source = DispatchSource.makeSignalSource(signal: SIGINT, queue: DispatchQueue(label: "interrupts"))
        source.setEventHandler(handler: handler)
        source.activate()
    }

    deinit {
        source.cancel()
        signal(SIGINT, SIG_DFL)
    }
}
