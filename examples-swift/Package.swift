// swift-tools-version: 6.0
import PackageDescription

let metalCandle = Target.Dependency.product(name: "MetalCandle", package: "metal-candle")

let package = Package(
    name: "metal-candle-examples",
    platforms: [.macOS(.v15), .iOS(.v18)],
    dependencies: [
        // By its name, because SwiftPM otherwise takes that of the folder, which is another in each clone.
        .package(name: "metal-candle", path: "..")
    ],
    targets: [
        .target(name: "Arguments"),
        .target(name: "Terminal"),
        .executableTarget(name: "mcandle-chat", dependencies: ["Arguments", "Terminal", metalCandle]),
        .testTarget(name: "ArgumentsTests", dependencies: ["Arguments"]),
    ]
)
