internal import CMetalCandle

/// The version of the library, such as "1.2.3".
public let version = String(cString: mcandle_version())
