// An app that depends on the package, as test.sh has it: by its path, and by a version, in Swift 5 mode.
import Foundation
import MetalCandle

guard CommandLine.arguments.count == 2 else {
    print("usage: Consumer MODEL")
    exit(2)
}
let model = try await Model.load(from: URL(filePath: CommandLine.arguments[1]), options: ModelOptions(device: .cpu))
let generator = try Generator(model)
var count = 0
for try await chunk in generator.generate("fn main() {", options: GenerateOptions(maxTokens: 8)) {
    count += 1
    print(chunk.text, terminator: "")
}
print("\n\(Runtime.version): \(count) chunks")
