import MetalCandle
import Synchronization
import TestSupport
import XCTest

/// What the library tells. The handler is one for the whole process, so these tests run one after another.
final class LogTests: XCTestCase {
    private final class Messages: Sendable {
        let all = Mutex<[LogMessage]>([])
    }

    override func tearDown() async throws {
        try Log.removeHandler()
    }

    func testALoadIsToldAndNoPrompt() async throws {
        let messages = Messages()
        try Log.setHandler(level: .trace) { message in messages.all.withLock { $0.append(message) } }
        let model = try await Model.load(from: tinyCoder, options: exact)
        _ = try await Generator(model).generation(of: "a_secret_prompt", options: GenerateOptions(maxTokens: 2))
        try Log.removeHandler()
        let told = messages.all.withLock { $0 }
        let load = try XCTUnwrap(told.first { $0.message.contains("loaded a model") })
        XCTAssertEqual(load.level, .info)
        XCTAssert(load.target.hasPrefix("metal_candle::"), load.target)
        XCTAssert(load.message.contains("tiny-coder"), load.message)
        XCTAssertFalse(told.contains { $0.message.contains("a_secret_prompt") })

        _ = try await Model.load(from: tinyCoder, options: exact)
        XCTAssertEqual(messages.all.withLock { $0.count }, told.count)
    }

    func testWhatMattersLessIsNotTold() async throws {
        let messages = Messages()
        try Log.setHandler(level: .warning) { message in messages.all.withLock { $0.append(message) } }
        _ = try await Model.load(from: tinyCoder, options: exact)
        try Log.removeHandler()
        XCTAssertEqual(messages.all.withLock { $0.filter { $0.level < .warning } }, [])
        XCTAssertEqual(Log.Level.allCases.sorted(), [.trace, .debug, .info, .warning, .error])
    }

    func testAHandlerIsLetGoOfWhenItIsReplaced() throws {
        weak var first: Messages?
        weak var second: Messages?
        func set(_ messages: Messages) throws {
            try Log.setHandler(level: .info) { message in messages.all.withLock { $0.append(message) } }
        }
        do {
            let messages = Messages()
            first = messages
            try set(messages)
        }
        XCTAssertNotNil(first)
        do {
            let messages = Messages()
            second = messages
            try set(messages)
        }
        XCTAssertNil(first)
        XCTAssertNotNil(second)
        try Log.removeHandler()
        XCTAssertNil(second)
    }
}
