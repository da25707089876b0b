internal import CMetalCandle

/// What the library has to tell, for people.
///
/// Without a handler the library is silent, and that costs nothing. Messages never hold prompts, generated text or
/// rows. On Apple's systems a handler can pass them on to an `os.Logger`:
///
/// ```swift
/// import os
///
/// let logger = Logger(subsystem: "com.example.app", category: "metal-candle")
/// try Log.setHandler(level: .info) { message in
///     logger.log(level: message.level >= .error ? .error : .info, "\(message.message, privacy: .public)")
/// }
/// ```
public enum Log {
    /// How much a message matters, the least first: `.warning < .error`.
    public enum Level: Int, Codable, CaseIterable, Comparable, Sendable {
        /// What happens all the time.
        case trace
        /// What helps to find out why something is as it is.
        case debug
        /// What happens seldom: a model was loaded, a training began.
        case info
        /// Something that is probably not what is meant.
        case warning
        /// A defect of the library.
        case error

        /// Tells whether a level matters less than another.
        public static func < (a: Level, b: Level) -> Bool { a.rawValue < b.rawValue }

        var constant: mcandle_log_level {
            switch self {
            case .trace: .trace
            case .debug: .debug
            case .info: .info
            case .warning: .warn
            case .error: .error
            }
        }

        init(_ constant: mcandle_log_level) {
            switch constant {
            case .error: self = .error
            case .warn: self = .warning
            case .info: self = .info
            case .debug: self = .debug
            case .trace: self = .trace
            @unknown default: self = .trace
            }
        }
    }

    /// Lets a function receive what the library has to tell, in the whole process, in the place of any before.
    ///
    /// The handler is called on the thread that does what it tells of, also on several threads at the same time, so
    /// it should return soon. It may call functions of the library, whose own messages are then left out. It is let
    /// go of when it was replaced and no call of it is running any more.
    ///
    /// - Parameters:
    ///   - level: What matters less is not told.
    ///   - handler: Takes a message.
    /// - Throws: ``MetalCandleError/unsupported(_:)`` where the process has a subscriber of Rust's `tracing`, which
    ///   receives the messages already.
    public static func setHandler(level: Level, handler: @escaping @Sendable (LogMessage) -> Void) throws {
        let handler = Unmanaged.passRetained(LogHandler(handler))
        // The library owns the handler from here on, also where the call fails.
        try check {
            mcandle_set_log_callback(
                { level, target, message, handler in
                    (borrowed(handler) as LogHandler).handle(
                        LogMessage(
                            level: Log.Level(level), target: String(cString: target), message: String(cString: message))
                    )
                },
                level.constant, handler.toOpaque(), { _ = owned($0) as LogHandler }, $0)
        }
    }

    /// Lets no function receive what the library has to tell.
    ///
    /// - Throws: As ``setHandler(level:handler:)``.
    public static func removeHandler() throws {
        try check { mcandle_set_log_callback(nil, .error, nil, nil, $0) }
    }
}

/// A message of the library, for people.
public struct LogMessage: Codable, Hashable, Sendable {
    /// How much it matters.
    public var level: Log.Level
    /// The part of the library that it comes from, such as `metal_candle::models::loader`.
    public var target: String
    /// What is told, such as `loaded a model path=model device=cpu`.
    public var message: String
}

/// What the library holds of a handler.
private final class LogHandler: Sendable {
    let handle: @Sendable (LogMessage) -> Void

    init(_ handle: @escaping @Sendable (LogMessage) -> Void) {
        self.handle = handle
    }
}
