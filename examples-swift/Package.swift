// swift-tools-version: 6.0
import PackageDescription

let metalCandle = Target.Dependency.product(name: "MetalCandle", package: "metal-candle")

let package = Package(
    name: "metal-candle-examples",
    platforms: [.macOS(.v15), .iOS(.v18)],
    products: [
        // For the app's Xcode project.
        .library(name: "ChatAppModels", targets: ["ChatAppModels"])
    ],
    dependencies: [
        // By its name, because SwiftPM otherwise takes that of the folder, which is another in each clone.
        .package(name: "metal-candle", path: "..")
    ],
    targets: [
        .target(name: "Arguments"),
        .target(name: "Terminal"),
        .executableTarget(name: "mcandle-chat", dependencies: ["Arguments", "Terminal", metalCandle]),
        .executableTarget(name: "mcandle-finetune", dependencies: ["Arguments", "Terminal", metalCandle]),
        // The app: what it does, which every host builds and tests, and what it looks like, which takes SwiftUI.
        .target(name: "ChatAppModels", dependencies: [metalCandle]),
        .executableTarget(name: "ChatApp", dependencies: ["ChatAppModels"], path: "ChatApp/Sources"),
        .testTarget(name: "ChatAppModelsTests", dependencies: ["ChatAppModels"]),
        .testTarget(name: "ArgumentsTests", dependencies: ["Arguments"]),
    ]
)
