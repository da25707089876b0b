import Arguments
import Testing

private enum Color: String, CaseIterable, ArgumentValue {
    case red, green
}

private struct Settings: Equatable {
    var name = "none"
    var count = 3
    var share: Double?
    var color = Color.red
    var words: [String] = []
    var isLoud = false
    var folder = ""
}

private var parser: ArgumentParser<Settings> {
    ArgumentParser(
        "paint", "Paints.",
        [
            .positional("FOLDER", "where", \.folder),
            .option("--name", "TEXT", "a name", \.name),
            .option("--count", "N", "how many", \.count, where: { $0 > 0 }, "above 0"),
            .option("--share", "X", "a share", \.share),
            .option("--color", "NAME", "a colour", \.color),
            .list("--word", "TEXT", "a word", \.words),
            .flag("--loud", "loudly", \.isLoud),
        ], notes: "That is all.")
}

@Test func everyKindOfArgumentIsRead() throws {
    let words = [
        "--name", "Ada", "--count=4", "--share", "0.5", "here", "--color", "green", "--word", "a", "--word=b=c",
        "--loud",
    ]
    #expect(
        try parser.parse(words, defaults: Settings())
            == Settings(
                name: "Ada", count: 4, share: 0.5, color: .green, words: ["a", "b=c"], isLoud: true, folder: "here"))
    #expect(try parser.parse(["x"], defaults: Settings()) == Settings(folder: "x"))
    #expect(
        try parser.parse(["--name", "-1", "--", "--loud"], defaults: Settings())
            == Settings(name: "-1", folder: "--loud"))
}

@Test(arguments: [
    (["--no", "x"], "--no: no such option"),
    (["--count", "many", "x"], "--count: many is not a whole number above 0"),
    (["--count", "0", "x"], "--count: 0 is not a whole number above 0"),
    (["--share", "nan", "x"], "--share: nan is not a number"),
    (["--color", "blue", "x"], "--color: blue is not red, green"),
    (["x", "--name"], "--name: TEXT is missing"),
    (["x", "--loud=yes"], "--loud takes no value"),
    (["x", "y"], "y: more than is expected"),
    ([], "FOLDER is missing"),
])
func aMistakeIsNamed(words: [String], message: String) {
    do {
        _ = try parser.parse(words, defaults: Settings())
        Issue.record("it was accepted")
    } catch {
        #expect(error.description == message)
    }
}

@Test func helpNamesEveryArgument() throws {
    #expect(try parser.parse(["--count", "2", "--help"], defaults: Settings()) == nil)
    #expect(
        parser.help == """
            Usage: paint [OPTION]... FOLDER
            Paints.

              FOLDER        where
              --name TEXT   a name
              --count N     how many
              --share X     a share
              --color NAME  a colour
              --word TEXT   a word
              --loud        loudly
              --help        print this

            That is all.

            """)
}
