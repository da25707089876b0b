import Arguments
import Foundation
import MetalCandle

extension Device: ArgumentValue {}
extension DType: ArgumentValue {}

/// The schedules that have no settings of their own.
enum Schedule: String, CaseIterable, ArgumentValue {
    case constant, linear, cosine
}

/// Projections as a command line has them: their names between commas.
struct Projections: ArgumentValue {
    static let expected = LoRAOptions.Projection.allCases.map(\.rawValue).joined(separator: ", ")
    let set: Set<LoRAOptions.Projection>

    init?(argument: String) {
        let names = argument.split(separator: ",").map { LoRAOptions.Projection(rawValue: String($0)) }
        if names.isEmpty || names.contains(nil) {
            return nil
        }
        set = Set(names.compactMap(\.self))
    }
}

/// What the command line says.
struct Settings {
    var data = ""
    var output = ""
    var model = "../assets/tiny-coder"
    var load = ModelOptions()
    var rows = DatasetOptions()
    var train = TrainOptions()
    var lora = LoRAOptions()
    var alpha = 16.0
    var targets: Projections?
    var schedule = Schedule.constant
    var resume = false
    var prompt: String?

    /// The options of the run, put together.
    var trainOptions: TrainOptions {
        var lora = lora
        lora.scale = .alpha(alpha)
        if let targets {
            lora.targets = .projections(targets.set)
        }
        var options = train
        options.method = .lora(lora)
        options.schedule =
            switch schedule {
            case .constant: .constant
            case .linear: .linear
            case .cosine: .cosine
            }
        options.outputDirectory = URL(filePath: output)
        return options
    }

    static var parser: ArgumentParser<Settings> {
        ArgumentParser(
            "mcandle-finetune", "Trains a LoRA adapter on a folder of JSONL files.",
            [
                .positional("DATA", "the folder with train.jsonl, and perhaps valid.jsonl", \.data),
                .positional("OUTPUT", "the folder for checkpoints and the adapter", \.output),
                .option("--model", "PATH", "a directory or GGUF file (default ../assets/tiny-coder)", \.model),
                .option("--device", "NAME", "auto, cpu, metal or cuda (default auto)", \.load.device),
                .option("--dtype", "NAME", "auto, f32, f16 or bf16 (default auto)", \.load.dtype),
                .option("--steps", "N", "optimizer steps (default 1000)", \.train.steps, where: { $0 > 0 }, "above 0"),
                .option("--epochs", "X", "passes over the rows, in the place of steps", \.train.epochs),
                .option("--batch-size", "N", "rows of a batch (default 4)", \.train.batchSize),
                .option("--accumulation", "N", "batches of a step (default 1)", \.train.gradientAccumulation),
                .option("--learning-rate", "X", "the highest (default 1e-4)", \.train.learningRate),
                .option("--schedule", "NAME", "constant, linear or cosine (default constant)", \.schedule),
                .option("--warmup", "N", "steps of rising learning rate (default 0)", \.train.warmupSteps),
                .option("--rank", "N", "rank of the adapter (default 8)", \.lora.rank),
                .option("--alpha", "X", "strength of the adapter (default 16)", \.alpha),
                .option("--dropout", "X", "of the adapter's inputs (default 0)", \.lora.dropout),
                .option("--targets", "NAMES", "projections, such as q_proj,v_proj (default all)", \.targets),
                .option("--max-seq-length", "N", "most tokens of a row (default 2048)", \.rows.maxSeqLength),
                .option("--eval-every", "N", "steps between evaluations, 0 for none (default 200)", \.train.evalEvery),
                .option(
                    "--patience", "N", "evaluations without a better loss that end it, 0 for none (default 0)",
                    \.train.earlyStoppingPatience),
                .option("--save-every", "N", "steps between checkpoints, 0 for none (default 100)", \.train.saveEvery),
                .option("--seed", "N", "of weights, order and dropout (default 0)", \.train.seed),
                .flag("--grad-checkpoint", "less memory, a third slower", \.train.gradCheckpoint),
                .flag("--resume", "goes on from the newest checkpoint in OUTPUT", \.resume),
                .option("--prompt", "TEXT", "what the adapted model goes on from at the end", \.prompt),
            ],
            notes: """
                Rows are {"text": ...}, {"prompt": ..., "completion": ...} or {"messages": [...]}. Ctrl-C leaves a
                checkpoint, from which --resume goes on; a second one ends at once.
                """)
    }
}
