import Foundation
import Terminal

@main
struct Main {
    static func main() async {
        let settings = Settings.parser.parseOrExit(defaults: Settings())
        do {
            var chat = try await Chat(settings)
            if let prompt = settings.prompt {
                try await chat.answer(once: prompt)
            } else {
                try await chat.run()
            }
        } catch {
            note("mcandle-chat: \(error.localizedDescription)")
            exit(1)
        }
    }
}
