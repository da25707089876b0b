import ChatAppModels
import Foundation
import Testing

@MainActor
@Test func aModelIsOpenedAndRemembered() async throws {
    try await Fixtures.withFolder { folder in
        let file = RecentModelFile(folder.appending(path: "state/recent.json"))
        let app = AppModel(recents: file, runs: folder, options: Fixtures.exact)
        #expect(app.recents.models.isEmpty)
        app.open(Fixtures.tinyCoder)
        guard case .loading("tiny-coder", _) = app.phase else {
            Issue.record("it is \(app.phase)")
            return
        }
        await app.loading?.value
        guard case .ready(let open) = app.phase else {
            Issue.record("it is \(app.phase)")
            return
        }
        #expect(open.name == "tiny-coder")
        #expect(open.summary.contains("Qwen2"))
        let recent = try #require(app.recents.models.first)
        #expect(recent.name == "tiny-coder")
        #expect(recent.info.architecture == "qwen2")
        #expect(recent.info.parameters > 6_000_000)
        #expect(recent.info.bytes >= recent.info.parameters)
        #expect(recent.info.quantization == nil)

        // Started anew, the app finds it in the list, and opens it from there.
        let again = AppModel(recents: file, runs: folder, options: Fixtures.exact)
        #expect(again.recents.models == [recent])
        again.open(recent)
        await again.loading?.value
        guard case .ready = again.phase else {
            Issue.record("it is \(again.phase)")
            return
        }
        #expect(again.recents.models == [recent])
        // A folder is listed once, whether its URL ends with a slash or not.
        let slash = URL(filePath: Fixtures.tinyCoder.path(percentEncoded: false) + "/", directoryHint: .isDirectory)
        again.recents.add(try await RecentModel(inspecting: slash))
        #expect(again.recents.models.map(\.id) == [recent.id])
        again.recents.remove(recent)
        #expect(try file.load().isEmpty)
    }
}

@MainActor
@Test func aModelThatCannotBeOpenedSaysWhy() async throws {
    try await Fixtures.withFolder { folder in
        let app = AppModel(recents: RecentModelFile(folder.appending(path: "recent.json")), runs: folder)
        app.open(folder.appending(path: "no-such-model"))
        await app.loading?.value
        guard case .failed("no-such-model", let reason) = app.phase else {
            Issue.record("it is \(app.phase)")
            return
        }
        #expect(reason.contains("no-such-model"))
        #expect(app.recents.models.isEmpty)
        app.close()
        guard case .empty = app.phase else {
            Issue.record("it is \(app.phase)")
            return
        }
    }
}

@MainActor
@Test func loadingCanBeGivenUp() async throws {
    try await Fixtures.withFolder { folder in
        let app = AppModel(
            recents: RecentModelFile(folder.appending(path: "recent.json")), runs: folder, options: Fixtures.exact)
        app.open(Fixtures.tinyCoder)
        app.close()
        await app.loading?.value
        guard case .empty = app.phase else {
            Issue.record("it is \(app.phase)")
            return
        }
    }
}

@MainActor
@Test func aDamagedListIsAnErrorAndNoCrash() async throws {
    try await Fixtures.withFolder { folder in
        let url = folder.appending(path: "recent.json")
        try Data("[1, 2".utf8).write(to: url)
        let recents = RecentModels(RecentModelFile(url))
        #expect(recents.models.isEmpty)
        #expect(recents.error != nil)
    }
}
