import Foundation
import MetalCandle
import TestSupport
import Testing

@Test func aMissingModelIsAnErrorThatNamesIt() async throws {
    do {
        _ = try await Model.load(from: URL(filePath: "/nowhere/at/all"))
        Issue.record("it was loaded")
    } catch MetalCandleError.notFound(let message) {
        #expect(message.contains("/nowhere/at/all"))
    }
}
