import CMetalCandle
import Foundation
import TestSupport
import Testing

@testable import MetalCandle

/// The names and numbers that the header has for C.
private func statusesOfTheHeader() throws -> [Int32: String] {
    let header = try String(contentsOf: repository.appending(path: "include/metal_candle.h"), encoding: .utf8)
    let start = try #require(header.range(of: "@name Values of mcandle_status"))
    let end = try #require(header.range(of: "/** @} */", range: start.upperBound..<header.endIndex))
    var statuses: [Int32: String] = [:]
    for line in header[start.upperBound..<end.lowerBound].split(separator: "\n") {
        let words = line.split(separator: " ")
        if words.first == "#define", words.count == 3 {
            statuses[try #require(Int32(words[2]))] = String(words[1])
        }
    }
    return statuses
}

@Test func everyStatusOfTheHeaderIsACase() throws {
    let statuses = try statusesOfTheHeader()
    #expect(statuses.count >= 18)
    #expect(statuses[0] == "MCANDLE_OK")
    var errors: Set<MetalCandleError> = []
    for (number, name) in statuses where number != 0 {
        let error = MetalCandleError(try #require(mcandle_status(rawValue: number)), message: "why")
        #expect(error.statusName == name)
        #expect(error.message == "why")
        #expect(error.localizedDescription == "why")
        errors.insert(error)
    }
    #expect(errors.count == statuses.count - 1)
}

@Test func aStatusOfALaterVersionKeepsItsNumberAndMessage() throws {
    let later = try #require(mcandle_status(rawValue: 4711))
    #expect(MetalCandleError(later, message: "why") == .internal("status 4711: why"))
}
