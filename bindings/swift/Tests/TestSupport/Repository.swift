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

/// A model with weights of no meaning, which has no tokenizer.
public let smallQwen = repository.appending(path: "tests/fixtures/models/qwen2_tied")

/// How the tests load it: like the reference outputs.
public let exact = ModelOptions(device: .cpu, dtype: .f32)

/// Options of a generation that only a cancellation ends.
public let endless: GenerateOptions = {
    var options = GenerateOptions(maxTokens: 1_000_000)
    options.ignoreEOS = true
    options.contextShift = true
    return options
}()
