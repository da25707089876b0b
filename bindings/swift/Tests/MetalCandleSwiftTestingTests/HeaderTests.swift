import Foundation
import TestSupport
import Testing

/// The functions of the C interface beside those that the package calls: none is forgotten.
struct HeaderTests {
    /// The functions that the package does not call, and why. A star stands for any end of a name.
    private static let leftOut = [
        // Options are structures, which go to the library as JSON.
        "mcandle_generate_options_*": "GenerateOptions goes to mcandle_generate_options_from_json()",
        "mcandle_dataset_options_*": "DatasetOptions goes to mcandle_dataset_options_from_json()",
        "mcandle_train_options_*": "TrainOptions goes to mcandle_train_options_from_json()",
        // What the library gives as JSON is decoded at once.
        "mcandle_adapter_list_*": "AdapterInfo is decoded from mcandle_adapter_list_json()",
        "mcandle_model_info_architecture": "ModelInfo is decoded from mcandle_model_info_json()",
        "mcandle_model_info_context_length": "ModelInfo is decoded from mcandle_model_info_json()",
        "mcandle_model_info_format": "ModelInfo is decoded from mcandle_model_info_json()",
        "mcandle_model_info_parameter_count": "ModelInfo is decoded from mcandle_model_info_json()",
        "mcandle_model_info_quantization": "ModelInfo is decoded from mcandle_model_info_json()",
        "mcandle_train_event_json": "TrainingEvent is made from its parts",
        "mcandle_train_event_summary": "the end of a run is told by its completion, with the summary",
        // What blocks its thread has a form that does not.
        "mcandle_model_load": "mcandle_model_load_async()",
        "mcandle_generator_generate": "mcandle_generator_generate_async()",
        "mcandle_generator_generate_from_ids": "mcandle_generator_generate_from_ids_async()",
        "mcandle_generator_chat": "mcandle_generator_chat_async()",
        "mcandle_generator_complete": "mcandle_generator_complete_async()",
        "mcandle_trainer_train": "mcandle_trainer_train_async()",
        // What another function does too, with more to say.
        "mcandle_adapter_save": "mcandle_adapter_save_as()",
        "mcandle_generator_new": "mcandle_generator_new_with_cache_type()",
        "mcandle_memory_current": "mcandle_memory_info_process_current()",
        "mcandle_memory_peak": "mcandle_memory_info_process_peak()",
        "mcandle_latest_checkpoint": "mcandle_checkpoint_list(), whose last is the latest",
        "mcandle_train_summary_cancelled": "mcandle_train_summary_stop_reason()",
        "mcandle_batch_push": "mcandle_batch_push_ids(), as prompts of all kinds become token ids",
        // A batch goes step by step, so that texts are added and handed over in between.
        "mcandle_batch_run": "mcandle_batch_step()",
        "mcandle_batch_run_async": "mcandle_batch_step()",
        // A case of MetalCandleError has its own name.
        "mcandle_status_name": "MetalCandleError.statusName",
    ]

    private static let sources = repository.appending(path: "bindings/swift/Sources/MetalCandle")

    /// The functions that the header declares.
    private func declared() throws -> Set<String> {
        let header = try String(contentsOf: repository.appending(path: "include/metal_candle.h"), encoding: .utf8)
        var declared: Set<String> = []
        for line in header.split(separator: "\n") where !line.contains(" * ") {
            // A name, and behind it its parameters.
            for part in line.split(separator: "(", omittingEmptySubsequences: false).dropLast() {
                declared.formUnion(Self.words(part).suffix(part.last.map(Self.isOfWord) == true ? 1 : 0))
            }
        }
        return declared.filter { $0.hasPrefix("mcandle_") }
    }

    /// The functions that the sources name, but for comments.
    private func used() throws -> Set<String> {
        let files = try #require(FileManager.default.enumerator(atPath: Self.sources.path(percentEncoded: false)))
        var used: Set<String> = []
        for case let file as String in files where file.hasSuffix(".swift") {
            let source = try String(contentsOf: Self.sources.appending(path: file), encoding: .utf8)
            for line in source.split(separator: "\n") where line.contains("mcandle_") {
                used.formUnion(Self.words(line.prefix(upTo: line.firstRange(of: "//")?.lowerBound ?? line.endIndex)))
            }
        }
        return used
    }

    private static func isOfWord(_ character: Character) -> Bool {
        character == "_" || character.isLetter || character.isNumber
    }

    private static func words(_ text: Substring) -> [String] {
        text.split { !isOfWord($0) }.map(String.init)
    }

    private static func matches(_ function: String, _ name: String) -> Bool {
        name.hasSuffix("*") ? function.hasPrefix(name.dropLast()) : function == name
    }

    @Test func everyFunctionIsCalledOrLeftOutForAReason() throws {
        let declared = try declared()
        #expect(declared.count > 300)
        let used = try used()
        let unused = declared.subtracting(used)
        let forgotten = unused.filter { function in
            !Self.leftOut.keys.contains { Self.matches(function, $0) }
        }
        #expect(forgotten.sorted() == [])
        // The table says nothing that is not so.
        for name in Self.leftOut.keys {
            #expect(unused.contains { Self.matches($0, name) }, "\(name) is not left out")
        }
    }
}
