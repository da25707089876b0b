import Foundation
import MetalCandle
import Testing

/// What the tests load: a small code model, exactly.
enum Fixtures {
    static let repository: URL = {
        var folder = URL(filePath: #filePath)
        for _ in 0..<4 {
            folder.deleteLastPathComponent()
        }
        return folder
    }()

    static let tinyCoder = repository.appending(path: "assets/tiny-coder")
    static let exact = ModelOptions(device: .cpu, dtype: .f32)

    /// A folder of its own for each test, and what it writes there is gone after it.
    @MainActor
    static func withFolder(_ body: @MainActor (URL) async throws -> Void) async throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "chat-app-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        try await body(folder)
    }

    /// Rows to train on, and a few to evaluate on.
    static func writeRows(to folder: URL) throws {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        for (name, count) in [("train", 24), ("valid", 4)] {
            let all = try String(
                contentsOf: repository.appending(path: "assets/sql/\(name).jsonl"), encoding: .utf8)
            let rows = all.split(separator: "\n").prefix(count).joined(separator: "\n")
            try Data(rows.utf8).write(to: folder.appending(path: "\(name).jsonl"))
        }
    }
}

/// Waits until something holds that other tasks bring about.
@MainActor
func wait(until holds: () -> Bool, sourceLocation: SourceLocation = #_sourceLocation) async throws {
    let deadline = ContinuousClock.now + .seconds(30)
    while !holds() {
        try #require(ContinuousClock.now < deadline, "it did not come", sourceLocation: sourceLocation)
        try await Task.sleep(for: .milliseconds(2))
    }
}
