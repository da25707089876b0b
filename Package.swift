// swift-tools-version: 6.0
import PackageDescription

// Where the library itself comes from, first match:
//   METAL_CANDLE_LIB_DIR      a folder with cargo's libmetal_candle.a: for development and tests, on any host
//   METAL_CANDLE_XCFRAMEWORK  an XCFramework in a folder of this package, as make-xcframework.sh makes it
//   other hosts than Apple's  -lmetal_candle, where the linker finds it
let environment = Context.environment
let binary: Target?
let link: [LinkerSetting]

if let folder = environment["METAL_CANDLE_LIB_DIR"] {
    let base = folder.hasPrefix("/") ? folder : Context.packageDirectory + "/" + folder
    binary = nil
    // By its file name, or a shared library beside it would win; past swift-autolink-extract, which does
    // not read objects of a newer LLVM. Versioned dependencies may not have unsafe flags: hence only here.
    link = [.unsafeFlags(["-Xlinker", base + "/libmetal_candle.a"])]
} else if let path = environment["METAL_CANDLE_XCFRAMEWORK"] {
    binary = .binaryTarget(name: "MetalCandleFFI", path: path)
    link = []
} else {
    binary = nil
    link = [.linkedLibrary("metal_candle")]
}

let apple: [Platform] = [.macOS, .iOS]

let package = Package(
    name: "metal-candle",
    platforms: [.macOS(.v15), .iOS(.v18)],
    products: [.library(name: "MetalCandle", targets: ["MetalCandle"])],
    targets: [
        .target(
            name: "CMetalCandle",
            dependencies: binary == nil ? [] : ["MetalCandleFFI"],
            path: "bindings/swift/Sources/CMetalCandle",
            linkerSettings: link + [
                .linkedFramework("Metal", .when(platforms: apple)),
                .linkedFramework("Foundation", .when(platforms: apple)),
                .linkedFramework("CoreGraphics", .when(platforms: apple)),
                .linkedFramework("Security", .when(platforms: apple)),
                .linkedLibrary("objc", .when(platforms: apple)),
                .linkedLibrary("iconv", .when(platforms: apple)),
                .linkedLibrary("m", .when(platforms: [.linux])),
            ]),
        .target(name: "MetalCandle", dependencies: ["CMetalCandle"], path: "bindings/swift/Sources/MetalCandle"),
        // What both libraries of tests use; no product has it.
        .target(name: "TestSupport", dependencies: ["MetalCandle"], path: "bindings/swift/Tests/TestSupport"),
        .testTarget(
            name: "MetalCandleTests", dependencies: ["MetalCandle", "TestSupport"],
            path: "bindings/swift/Tests/MetalCandleTests"),
        .testTarget(
            name: "MetalCandleSwiftTestingTests", dependencies: ["MetalCandle", "TestSupport"],
            path: "bindings/swift/Tests/MetalCandleSwiftTestingTests"),
    ] + (binary.map { [$0] } ?? [])
)
