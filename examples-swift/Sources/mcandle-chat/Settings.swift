import Arguments
import MetalCandle

extension Device: ArgumentValue {}

/// What the command line says.
struct Settings {
    var model = "../assets/tiny-coder"
    var adapter: String?
    var device = Device.auto
    var system: String?
    var prompt: String?
    var maxTokens = 512
    var temperature = 0.7
    var topP = 1.0
    var seed: UInt64 = 0
    var stop: [String] = []
    var jsonSchema: String?
    var stats = false

    static var parser: ArgumentParser<Settings> {
        ArgumentParser(
            "mcandle-chat", "A chat in the terminal, with a model that has a chat template.",
            [
                .option("--model", "PATH", "a directory or GGUF file (default ../assets/tiny-coder)", \.model),
                .option("--adapter", "DIR", "a LoRA adapter", \.adapter),
                .option("--device", "NAME", "auto, cpu, metal or cuda (default auto)", \.device),
                .option("--system", "TEXT", "instructions for the model", \.system),
                .option("--prompt", "TEXT", "answers this and ends", \.prompt),
                .option(
                    "--max-tokens", "N", "the longest answer (default 512)", \.maxTokens, where: { $0 > 0 }, "above 0"),
                .option(
                    "--temperature", "X", "0 for always the likeliest token (default 0.7)", \.temperature,
                    where: { $0 >= 0 }, "of at least 0"),
                .option(
                    "--top-p", "X", "the likeliest tokens with this probability together (default 1)", \.topP,
                    where: { $0 > 0 && $0 <= 1 }, "above 0 and at most 1"),
                .option("--seed", "N", "of sampling (default 0)", \.seed),
                .list("--stop", "TEXT", "ends an answer; may be repeated", \.stop),
                .option("--json-schema", "FILE", "answers are JSON that conforms to this schema", \.jsonSchema),
                .flag("--stats", "tells tokens and speed of each answer on standard error", \.stats),
            ],
            notes: """
                In the chat: /clear forgets the conversation, /save FILE and /load FILE keep it, /help tells more,
                Ctrl-D ends. Ctrl-C stops the answer.
                """)
    }
}
