// swift-tools-version: 6.0
import Foundation
import PackageDescription

// The XCFramework of a release, in the commit that its tag names: bindings/swift/release.py writes it there.
let release: (url: String, checksum: String)? = nil

// Where the library itself comes from, first match:
//   METAL_CANDLE_LIB_DIR      a folder with cargo's libmetal_candle.a: for development and tests, on any host
//   METAL_CANDLE_XCFRAMEWORK  an XCFramework in a folder of this package
//   on a Mac                  the XCFramework that bindings/swift/make-xcframework.sh made, else the release's
//   elsewhere                 -lmetal_candle, where the linker finds it
let environment = Context.environment
let built = "bindings/swift/MetalCandleFFI.xcframework"
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
    #if os(macOS)
        if FileManager.default.fileExists(atPath: Context.packageDirectory + "/" + built) {
            binary = .binaryTarget(name: "MetalCandleFFI", path: built)
        } else if let release {
            binary = .binaryTarget(name: "MetalCandleFFI", url: release.url, checksum: release.checksum)
        } else {
            // SwiftPM shows this and goes no further: better than a linker that finds no library. It keeps
            // no evaluation that failed, so that the next one looks again.
            print(
                """
                This is no release of metal-candle, so its library has to be built: run
                bindings/swift/make-xcframework.sh, which takes Rust, or depend on a version.
                """)
            exit(1)
        }
        link = []
    #else
        binary = nil
        link = [.linkedLibrary("metal_candle")]
    #endif
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
            name: "MetalCandleTests", dependencies: ["CMetalCandle", "MetalCandle", "TestSupport"],
            path: "bindings/swift/Tests/MetalCandleTests"),
        .testTarget(
            name: "MetalCandleSwiftTestingTests", dependencies: ["MetalCandle", "TestSupport"],
            path: "bindings/swift/Tests/MetalCandleSwiftTestingTests"),
    ] + (binary.map { [$0] } ?? [])
)
