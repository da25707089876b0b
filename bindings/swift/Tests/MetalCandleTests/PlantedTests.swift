import CMetalCandle
import Dispatch
import XCTest

/// Frees what a completion is given, and waits before it touches it; unless METAL_CANDLE_PLANT says `leak` or
/// `race`, which test.sh does to see that the sanitizers notice.
final class PlantedTests: XCTestCase {
    private final class Load {
        let ended = DispatchSemaphore(value: 0)
        var count = 0
    }

    private let plant = ProcessInfo.processInfo.environment["METAL_CANDLE_PLANT"]

    func testACompletionRunsOnceAndLeavesNothing() {
        // One leak could be missed, where a register still holds the address.
        for _ in 0..<16 {
            let load = Load()
            let userData = Unmanaged.passRetained(load)
            let status = mcandle_model_load_async(
                "/nowhere/at/all", nil,
                { model, error, userData in
                    guard let userData else { return }
                    let load = Unmanaged<Load>.fromOpaque(userData).takeUnretainedValue()
                    mcandle_model_free(model)
                    mcandle_error_free(error)
                    load.count += 1
                    load.ended.signal()
                }, userData.toOpaque(), nil)
            XCTAssertEqual(status, .ok)
            if plant == "race" { load.count += 1 }
            load.ended.wait()
            XCTAssertEqual(load.count, plant == "race" ? 2 : 1)
            if plant != "leak" { userData.release() }
        }
    }
}
