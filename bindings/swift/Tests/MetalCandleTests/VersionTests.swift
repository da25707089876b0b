import MetalCandle
import XCTest

final class VersionTests: XCTestCase {
    func testVersionHasThreeNumbers() {
        XCTAssertEqual(version.split(separator: ".").count, 3)
    }
}
