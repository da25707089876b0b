public import MetalCandle

/// The error that `body` throws, or `nil` where it throws none.
public func thrown<Result>(_ body: () async throws -> Result) async -> (any Error)? {
    do {
        _ = try await body()
        return nil
    } catch {
        return error
    }
}

extension AsyncThrowingStream<Chunk, any Error> {
    /// Takes all chunks, and gives the last.
    public func end() async throws -> Generation? {
        var end: Generation?
        for try await chunk in self {
            if case .end(let generation) = chunk {
                end = generation
            }
        }
        return end
    }
}
