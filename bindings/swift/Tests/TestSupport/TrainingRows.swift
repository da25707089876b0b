public import Foundation
public import MetalCandle

/// The rows of questions and SQL.
public let sqlFolder = repository.appending(path: "assets/sql")

/// The first rows of questions and SQL.
public func sqlRows(_ count: Int) throws -> [JSON] {
    try String(contentsOf: sqlFolder.appending(path: "train.jsonl"), encoding: .utf8)
        .split(separator: "\n").prefix(count).map { try JSON(text: String($0)) }
}

/// Rows so short that a step takes a few hundredths of a second.
public let shortRows: [JSON] = (0..<8).map { ["prompt": "let x = ", "completion": JSON("\($0) * 2;")] }

/// A directory that is there and empty.
public func emptyFolder() throws -> URL {
    let folder = FileManager.default.temporaryDirectory.appending(path: "metal-candle-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    return folder
}
