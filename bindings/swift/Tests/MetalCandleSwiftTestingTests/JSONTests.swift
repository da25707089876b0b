import Foundation
import MetalCandle
import TestSupport
import Testing

@Test func literalsKeepTheOrderOfTheirKeys() {
    let json: JSON = ["z": 1, "a": [true, nil, 0.5, "text"], "m": ["y": -2, "b": 1e300]]
    #expect(json.text == #"{"z":1,"a":[true,null,0.5,"text"],"m":{"y":-2,"b":1e+300}}"#)
    #expect(json.description == json.text)
}

@Test(arguments: ["plain", "\"quoted\" \\ / \n\r\t", "\u{0}\u{1}\u{1F}\u{7F}", "é 😀 \u{2028}", ""])
func textsSurvive(text: String) throws {
    #expect(try JSON(text).decode(String.self) == text)
    #expect(try JSON(object: [(key: text, value: 1)]).decode([String: Int].self) == [text: 1])
}

@Test(arguments: ["{\"z\": 1, \"a\": 2}", "[]", "1", "\"a\"", "null", " {} \n"])
func jsonTextIsTakenAsItIs(text: String) throws {
    #expect(try JSON(text: text).text == text)
}

@Test(arguments: ["", "{", "{a: 1}", "nul", "1 2", "'a'", "\u{FEFF}1", "1\u{0}", "NaN"])
func whatIsNotJSONIsRefused(text: String) async {
    let error = await thrown { try JSON(text: text) }
    guard case MetalCandleError.invalidArgument(let message)? = error else {
        Issue.record("\(text.debugDescription): \(String(describing: error))")
        return
    }
    #expect(message.hasPrefix("not JSON"))
}

@Test func aFloatThatIsNotFiniteIsNull() {
    #expect(JSON(floatLiteral: .nan).text == "null")
    #expect(JSON(floatLiteral: -.infinity).text == "null")
}

@Test func codersKeepValuesButNotTheOrder() throws {
    let json: JSON = ["z": [1, 2.5, -3], "a": ["c": nil, "b": false], "t": "x/y"]
    let coded = try JSONDecoder().decode(JSON.self, from: JSONEncoder().encode(json))
    #expect(coded.text == #"{"a":{"b":false,"c":null},"t":"x/y","z":[1,2.5,-3]}"#)
    let largest = try JSON(text: "[18446744073709551615,-9223372036854775808]")
    #expect(try JSONDecoder().decode(JSON.self, from: JSONEncoder().encode(largest)) == largest)
}

@Test func valuesAreEncodedWithSortedKeysAndDecoded() async throws {
    struct Point: Codable, Equatable {
        var y = 1
        var x = "a/b"
    }
    let json = try JSON(encoding: Point())
    #expect(json.text == #"{"x":"a/b","y":1}"#)
    #expect(try json.decode() == Point())
    #expect(await thrown { try json.decode([Int].self) } is DecodingError)
    #expect(await thrown { try JSON(encoding: Double.nan) } is EncodingError)
}
