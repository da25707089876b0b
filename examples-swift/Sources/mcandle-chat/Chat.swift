import Foundation
import MetalCandle
import Terminal

/// A conversation in the terminal: reads lines, streams answers, obeys commands.
struct Chat {
    private let model: Model
    private let adapter: Adapter?
    private let settings: Settings
    private let options: GenerateOptions
    private let answering = Answering()
    private let lines = Lines()
    private var session: ChatSession

    /// Loads what the settings name.
    init(_ settings: Settings) async throws {
        self.settings = settings
        let model = try await Model.load(
            from: URL(filePath: settings.model), options: ModelOptions(device: settings.device))
        self.model = model
        var adapter: Adapter?
        if let path = settings.adapter {
            adapter = try await Adapter.load(from: URL(filePath: path), for: model)
        }
        self.adapter = adapter
        let sampling = SamplingOptions(temperature: settings.temperature, topP: settings.topP, seed: settings.seed)
        var options = GenerateOptions(maxTokens: settings.maxTokens, sampling: sampling, stop: settings.stop)
        if let file = settings.jsonSchema {
            let schema = try String(contentsOf: URL(filePath: file), encoding: .utf8)
            options.grammar = .jsonSchema(try JSON(text: schema))
        }
        self.options = options
        session = try ChatSession(model, instructions: settings.system, options: options)
        try await session.generator.setAdapter(adapter)
    }

    /// Answers one message.
    func answer(once prompt: String) async throws {
        let interrupts = Interrupts { [answering] in answering.stop() }
        defer { withExtendedLifetime(interrupts) {} }
        try await answer(prompt)
    }

    /// Answers lines until they end. What fails is told in a terminal, and thrown where a program wrote the lines.
    mutating func run() async throws {
        let interrupts = Interrupts { [answering] in
            if !answering.stop() {
                if answering.isSecondInterrupt() {
                    write("\n")
                    // Not exit, which would wait for the thread that reads standard input.
                    _exit(0)
                }
                write("\n(Ctrl-C again ends, as does Ctrl-D)\n> ")
            }
        }
        defer { withExtendedLifetime(interrupts) {} }
        prompt()
        while let line = await lines.next() {
            answering.resetInterrupts()
            do {
                if line.hasPrefix("/") {
                    try await obey(line)
                } else if !line.isEmpty {
                    try await answer(line)
                }
            } catch  where inputIsTerminal {
                note("mcandle-chat: \(error.localizedDescription)")
            }
            prompt()
        }
        if inputIsTerminal {
            write("\n")
        }
    }

    private func prompt() {
        if inputIsTerminal {
            write("> ")
        }
    }

    private func answer(_ prompt: String) async throws {
        answering.begin(session.generator)
        defer { answering.end() }
        for try await chunk in session.streamResponse(to: prompt) {
            answering.repeatStop()
            write(chunk.text)
            if case .end(let generation) = chunk {
                write(generation.finishReason == .cancelled ? " [stopped]\n" : "\n")
                if settings.stats {
                    note(statistics(generation))
                }
            }
        }
    }

    private func statistics(_ generation: Generation) -> String {
        let first = generation.timeToFirstToken.formatted(.number.precision(.fractionLength(2)))
        let speed = generation.tokensPerSecond.formatted(.number.precision(.fractionLength(1)))
        return "[\(generation.promptTokens) tokens read, \(generation.cachedTokens) of them before; first token after "
            + "\(first) s; \(generation.tokens.count) tokens, \(speed) tokens/s; \(generation.finishReason.rawValue)]"
    }

    private mutating func obey(_ line: String) async throws {
        let words = line.split(separator: " ", maxSplits: 1).map(String.init)
        switch (words[0], words.dropFirst().first) {
        case ("/clear", nil):
            await session.clear()
        case ("/save", let file?):
            try await save(to: URL(filePath: file))
        case ("/load", let file?):
            try await load(from: URL(filePath: file))
        case ("/quit", nil):
            exit(0)
        default:
            write(
                """
                /clear      forgets the conversation
                /save FILE  writes it to FILE as JSON, and what the model has read of it to FILE.session
                /load FILE  goes on with it
                /quit       ends; so does Ctrl-D
                Ctrl-C stops an answer; what was said until then stays.

                """)
        }
    }

    private func save(to file: URL) async throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .withoutEscapingSlashes]
        try encoder.encode(await session.messages).write(to: file, options: .atomic)
        try await session.generator.saveSession(to: file.appendingPathExtension("session"))
    }

    private mutating func load(from file: URL) async throws {
        let messages = try JSONDecoder().decode([ChatMessage].self, from: Data(contentsOf: file))
        let loaded = try ChatSession(model, history: messages, options: options)
        try await loaded.generator.setAdapter(adapter)
        session = loaded
        do {
            try await loaded.generator.loadSession(from: file.appendingPathExtension("session"))
        } catch {
            // Without it the conversation is read again, which only takes time.
            note("mcandle-chat: reading the conversation anew: \(error.localizedDescription)")
        }
    }
}
