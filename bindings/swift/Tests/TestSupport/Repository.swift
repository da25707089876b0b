public import Foundation
public import MetalCandle

/// The repository, in which the tests find the model and the header.
public let repository: URL = {
    var folder = URL(filePath: #filePath)
    for _ in 0..<5 {
        folder.deleteLastPathComponent()
    }
    return folder
}()

/// A small code model that completes Rust and Python.
public let tinyCoder = repository.appending(path: "assets/tiny-coder")

/// How the tests load it: like the reference outputs.
public let exact = ModelOptions(device: .cpu, dtype: .f32)
