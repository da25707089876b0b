extension AsyncThrowingStream.Continuation {
    /// Calls a function where the stream is let go of, or the task that iterates it is cancelled, before its end.
    func onCancel(_ cancel: @escaping @Sendable () -> Void) {
        onTermination = { termination in
            if case .cancelled = termination {
                cancel()
            }
        }
    }
}
