import MetalCandle
import TestSupport
import XCTest

/// Versions, threads and memory: what is one for the whole process.
final class RuntimeTests: XCTestCase {
    /// The value of a macro of the header.
    private func macro(_ name: String) throws -> Substring {
        let header = try String(contentsOf: repository.appending(path: "include/metal_candle.h"), encoding: .utf8)
        let line = try XCTUnwrap(header.split(separator: "\n").first { $0.hasPrefix("#define \(name) ") })
        return try XCTUnwrap(line.split(separator: " ").last)
    }

    func testTheLibraryIsTheOneOfTheHeader() throws {
        XCTAssertEqual(String(Runtime.abiVersion), String(try macro("MCANDLE_ABI_VERSION")))
        XCTAssertEqual("\"\(Runtime.version)\"", String(try macro("MCANDLE_VERSION")))
    }

    func testThreads() throws {
        try Runtime.setThreadCount(nil)
        let standard = Runtime.threadCount
        XCTAssertGreaterThan(standard, 0)
        try Runtime.setThreadCount(standard + 1)
        XCTAssertEqual(Runtime.threadCount, standard + 1)
        for count in [0, -1, 1025, .max] {
            XCTAssertThrowsError(try Runtime.setThreadCount(count)) { error in
                guard case MetalCandleError.invalidArgument = error else {
                    return XCTFail("\(error)")
                }
            }
        }
        XCTAssertEqual(Runtime.threadCount, standard + 1)
        try Runtime.setThreadCount(nil)
        XCTAssertEqual(Runtime.threadCount, standard)
    }

    func testMemory() async throws {
        let model = try await Model.load(from: tinyCoder, options: exact)
        let memory = try await MemoryInfo.current(device: .cpu)
        let current = try XCTUnwrap(memory.processCurrent)
        let peak = try XCTUnwrap(memory.processPeak)
        XCTAssertGreaterThan(current, 1 << 20)
        XCTAssertGreaterThanOrEqual(peak, model.parameterCount * 4)
        XCTAssertGreaterThan(try XCTUnwrap(memory.systemTotal), current)
        XCTAssertNil(memory.deviceTotal)
        XCTAssertNil(memory.deviceUsed)
        #if os(Linux)
            XCTAssertGreaterThan(try XCTUnwrap(memory.systemAvailable), 0)
            do {
                _ = try await MemoryInfo.current(device: .metal)
                XCTFail("Metal on Linux")
            } catch MetalCandleError.device {
            }
        #endif
    }
}
