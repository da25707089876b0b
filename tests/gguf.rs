//! Models saved as GGUF files and loaded from them: the same tokens, nearly the same numbers, and weights
//! that stay in their blocks while an adapter is trained beside them.

#![cfg(feature = "training")]

mod common;

use common::training::{
    assert_same_run, dora, full, lora, losses, options, reports, run, trained, weights,
};
use common::{
    TINY_CODER, all_logits, assert_close, copy_of, edit_json, expected, fixture, ids, load_as,
    load_f32, perplexity, rows, to_f64,
};
use metal_candle::backend::{DTypePolicy, DeviceKind};
use metal_candle::checkpoint::GgufType;
use metal_candle::models::{ChatOptions, KvCacheType, Quantization};
use metal_candle::{
    Error, GenerateOptions, Generator, LoRAAdapter, LoRATrainer, Model, ModelLoader, TrainOptions,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const IDS: [u32; 9] = [5, 17, 100, 42, 7, 60, 180, 3, 9];
/// What rounding activations to eight bits, where weights are in blocks, changes of logits, as a part of the
/// largest of them.
const EIGHT_BITS: f64 = 0.04;
const PROMPT: &str = "SELECT name FROM";

/// A GGUF file of a model, and the folder that it is in.
fn saved(model: &Model, kind: GgufType) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    model.save_gguf(&path, kind).unwrap();
    (folder, path)
}

/// A model by way of a GGUF file.
fn round_trip(model: &Model, kind: GgufType) -> Model {
    let (_folder, path) = saved(model, kind);
    load_f32(path)
}

/// The same numbers as plain weights, by way of a model directory.
fn dequantised(model: &Model) -> Model {
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    load_f32(folder.path())
}

fn logits(model: &Model, adapter: Option<&LoRAAdapter>) -> Vec<f64> {
    to_f64(&all_logits(model, &IDS, adapter))
}

/// The distance of two lists of numbers, as a part of the length of the second.
fn distance(found: &[f64], expected: &[f64]) -> f64 {
    let size: f64 = expected.iter().map(|x| x * x).sum();
    let off = found.iter().zip(expected).map(|(a, b)| (a - b).powi(2));
    assert!(size > 0.0 && found.len() == expected.len());
    (off.sum::<f64>() / size).sqrt()
}

fn greedy(model: &Model) -> String {
    let options = GenerateOptions {
        max_tokens: 16,
        ..GenerateOptions::default()
    };
    let mut generator = Generator::new(model);
    let generation = generator.generate(PROMPT, &options, |_| ControlFlow::Continue(()));
    generation.unwrap().text
}

/// Asserts that two models read and end texts alike.
fn assert_same_text(found: &Model, expected: &Model) {
    let (tokenizer, reference) = (found.tokenizer().unwrap(), expected.tokenizer().unwrap());
    for text in [
        PROMPT,
        "fn main() {\n\tprintln!(\"1 234 \u{e9}\u{4e16} \u{1f600}\");\n}\n\n  ",
        "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
        "",
    ] {
        for special in [false, true] {
            let ids = tokenizer.encode(text, special).unwrap();
            assert_eq!(ids, reference.encode(text, special).unwrap(), "{text:?}");
            let (found, expected) = (
                tokenizer.decode(&ids, special),
                reference.decode(&ids, special),
            );
            assert_eq!(found.unwrap(), expected.unwrap());
        }
    }
    let ends = |model: &Model| {
        model
            .eos_token_ids()
            .iter()
            .copied()
            .collect::<BTreeSet<_>>()
    };
    assert!(!ends(found).is_empty());
    assert_eq!(ends(found), ends(expected));
    assert_eq!(tokenizer.eos_token_id(), reference.eos_token_id());
    assert!(found.has_chat_template());
    let messages =
        json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]);
    let render = |model: &Model| {
        let template = model.chat_template().unwrap();
        template.render(&messages, &ChatOptions::default()).unwrap()
    };
    assert_eq!(render(found), render(expected));
}

#[test]
fn text_is_the_same_and_numbers_are_near() {
    let original = load_f32(TINY_CODER);
    let (expected, text) = (logits(&original, None), greedy(&original));
    for (kind, encoding, bound) in [
        (GgufType::F16, "F16", 1e-3),
        (GgufType::Q8_0, "Q8_0", 0.05),
        (GgufType::Q4K, "Q4_K", 0.3),
    ] {
        let (_folder, path) = saved(&original, kind);
        let info = ModelLoader::new().inspect(&path).unwrap();
        assert_eq!(info.format, "gguf");
        assert_eq!(info.parameter_count, original.parameter_count());
        assert_eq!(
            info.quantization(),
            (kind != GgufType::F16).then_some(encoding)
        );
        assert!(info.encodings[encoding].tensors > 0);

        let model = load_f32(&path);
        assert_eq!(model.is_quantized(), kind != GgufType::F16);
        assert_same_text(&model, &original);
        let off = distance(&logits(&model, None), &expected);
        assert!(off > 0.0 && off < bound, "{encoding}: {off}");
        if kind == GgufType::F16 {
            assert_eq!(greedy(&model), text);
        }
        // What is saved of it is the same model again.
        let saved = dequantised(&model);
        assert!(!saved.is_quantized());
        assert_same_text(&saved, &original);
        let tolerance = if model.is_quantized() {
            EIGHT_BITS
        } else {
            1e-4
        };
        let (of_saved, of_model) = (logits(&saved, None), logits(&model, None));
        assert_close(encoding, &of_saved, &of_model, tolerance);
        assert_eq!(saved.fingerprint().unwrap(), model.fingerprint().unwrap());
    }
}

/// Read a few tokens at a time, and many.
#[test]
fn activations_in_eight_bits_keep_the_perplexity() {
    let original = load_f32(TINY_CODER);
    let ids = ids(&expected("tiny_coder")["perplexity"]["input_ids"]);
    for kind in [GgufType::Q8_0, GgufType::Q4K] {
        let model = round_trip(&original, kind);
        let dense = dequantised(&model);
        let perplexity = |model: &Model, chunk| perplexity(model, &ids, chunk, KvCacheType::Full).0;
        let exact = perplexity(&dense, 64);
        for chunk in [1, 5, 64] {
            let found = perplexity(&model, chunk);
            assert!(
                (found / exact - 1.0).abs() < 5e-3,
                "{chunk}: {found} {exact}"
            );
        }
        assert!(
            (perplexity(&model, 1) - exact).abs() > 0.0,
            "nothing was rounded"
        );
    }
}

/// The weights of the model have sixteen bits, so nothing is rounded.
#[test]
fn a_file_without_loss_is_the_same_model() {
    let original = load_f32(TINY_CODER);
    let model = round_trip(&original, GgufType::Bf16);
    assert_eq!(
        model.fingerprint().unwrap(),
        original.fingerprint().unwrap()
    );
    assert_eq!(logits(&model, None), logits(&original, None));
    assert_eq!(weights(&model).len(), weights(&original).len());
}

#[test]
fn adapters_are_trained_beside_blocks_as_beside_their_numbers() {
    let model = round_trip(&load_f32(TINY_CODER), GgufType::Q8_0);
    let dense = dequantised(&model);
    assert!(model.is_quantized() && !dense.is_quantized());
    for config in [lora(), dora()] {
        let options = TrainOptions {
            steps: 3,
            ..options(config)
        };
        let train = |model: &Model| {
            let mut trainer = LoRATrainer::new(model, rows(4), None, options.clone()).unwrap();
            let name = trainer.info().method;
            (name, run(&mut trainer), trainer.adapter().unwrap().clone())
        };
        let (name, found, adapter) = train(&model);
        let name = name.as_str();
        let (_, expected, of_dense) = train(&dense);
        assert!(name.starts_with('q'), "{name}");
        let losses = losses(&found);
        assert!(losses[2] < losses[0], "{losses:?}");
        assert_same_run(name, &found, &expected, 1e-3);

        // An adapter is of a shape, and goes with either.
        let folder = tempfile::tempdir().unwrap();
        adapter.save(folder.path()).unwrap();
        let loaded = LoRAAdapter::load(folder.path(), &dense).unwrap();
        let changed = logits(&model, Some(&adapter));
        assert!(distance(&changed, &logits(&model, None)) > 1e-3);
        assert_close(name, &logits(&dense, Some(&loaded)), &changed, EIGHT_BITS);
        of_dense.save(folder.path()).unwrap();
        LoRAAdapter::load(folder.path(), &model).unwrap();

        // Merged, what is adapted is dense, and the rest stays.
        let merged = model.merge(&adapter).unwrap();
        assert_close(name, &logits(&merged, None), &changed, EIGHT_BITS);
        let saved = dequantised(&merged);
        assert_close(name, &logits(&saved, None), &changed, EIGHT_BITS);
    }
    let error = LoRATrainer::new(&model, rows(4), None, options(full())).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
}

#[test]
fn an_adapter_of_a_model_of_another_shape_is_refused() {
    let model = round_trip(&load_f32(TINY_CODER), GgufType::Q8_0);
    let other = load_f32(fixture("models/qwen2_tied"));
    let folder = tempfile::tempdir().unwrap();
    let adapter = LoRAAdapter::new(lora(), &other, 1).unwrap();
    adapter.save(folder.path()).unwrap();
    let error = LoRAAdapter::load(folder.path(), &model)
        .unwrap_err()
        .to_string();
    assert!(error.contains("expected"), "{error}");
}

/// Blocks are decoded to `f32` and rounded where they meet the activations.
#[test]
fn blocks_compute_with_activations_of_sixteen_bits() {
    let (_folder, path) = saved(&load_f32(TINY_CODER), GgufType::Q4K);
    let expected = logits(&load_f32(&path), None);
    for (dtype, bound) in [(DTypePolicy::Bf16, 0.05), (DTypePolicy::F16, 0.01)] {
        let model = load_as(&path, dtype);
        assert!(model.is_quantized());
        let off = distance(&logits(&model, None), &expected);
        // On the CPU activations are `f32` whatever the dtype is.
        let is_exact = model.device().is_cpu();
        assert!((is_exact || off > 0.0) && off < bound, "{dtype:?}: {off}");
        let options = TrainOptions {
            steps: 3,
            ..options(lora())
        };
        let losses = losses(&reports(&model, &rows(4), &options));
        assert!(losses[2] < losses[0], "{dtype:?}: {losses:?}");
    }
}

#[test]
fn a_directory_with_one_file_is_that_model() {
    let original = load_f32(TINY_CODER);
    let (folder, path) = saved(&original, GgufType::Q8_0);
    std::fs::write(folder.path().join("README.md"), "A model.").unwrap();
    let of_directory = load_f32(folder.path());
    assert_eq!(logits(&of_directory, None), logits(&load_f32(&path), None));

    std::fs::copy(&path, folder.path().join("other.gguf")).unwrap();
    let error = ModelLoader::new().load(folder.path()).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::InvalidFormat { .. }), "{message}");
    for name in ["model.gguf", "other.gguf", "expected one GGUF file"] {
        assert!(message.contains(name), "{message}");
    }
}

/// As in many repositories on the hub: the files of the original, and what counts is in the GGUF file.
#[test]
fn files_beside_a_gguf_file_are_not_taken_for_its_own() {
    let original = load_f32(TINY_CODER);
    let (folder, _) = saved(&original, GgufType::Q8_0);
    std::fs::copy(
        Path::new(TINY_CODER).join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    let model = load_f32(folder.path());
    assert!(model.is_quantized());
    assert_same_text(&dequantised(&model), &original);
}

/// A model of another family, which has no tokenizer, with a small one.
fn with_tokenizer(name: &str) -> TempDir {
    let folder = copy_of(fixture("models").join(name));
    let tokenizer = json!({
        "version": "1.0", "normalizer": {"type": "NFC"},
        "added_tokens": [{"id": 4, "content": "<end>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u{120}": 3},
            "merges": [["a", "b"]]}
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    edit_json(&folder.path().join("config.json"), "eos_token_id", 4.into());
    folder
}

#[test]
fn other_families_round_trip() {
    for name in [
        "qwen3",
        "llama_plain",
        "llama3_scaled",
        "mistral_sliding",
        "qwen2_untied_gqa",
    ] {
        let folder = with_tokenizer(name);
        if name == "qwen2_untied_gqa" {
            let rope = json!({"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0});
            edit_json(&folder.path().join("config.json"), "rope_parameters", rope);
        }
        let original = load_f32(folder.path());
        let model = round_trip(&original, GgufType::F16);
        let (found, expected) = (model.config(), original.config());
        assert_eq!(found.architecture, expected.architecture);
        assert_eq!(found.rope_scaling, expected.rope_scaling);
        assert_eq!(found.sliding_windows, expected.sliding_windows);
        assert_eq!(model.eos_token_ids(), original.eos_token_ids());
        let encode = |model: &Model| model.tokenizer().unwrap().encode("ab a<end>", true);
        assert_eq!(encode(&model).unwrap(), encode(&original).unwrap());
        // Rows of queries and keys are in their own order again, which an adapter shows as well.
        let adapter = trained(&original, lora(), 3);
        for adapter in [None, Some(&adapter)] {
            let (found, expected) = (logits(&model, adapter), logits(&original, adapter));
            let off = distance(&found, &expected);
            assert!(off < 2e-3, "{name}: {off}");
        }
        let saved = dequantised(&model);
        assert_eq!(logits(&saved, None), logits(&model, None), "{name}");
    }
}

#[test]
fn only_what_is_not_in_blocks_is_quantised_at_load() {
    let folder = with_tokenizer("llama_plain");
    let original = load_f32(folder.path());
    let quantization = Quantization::default();
    for (kind, expected) in [(GgufType::F16, Some(quantization)), (GgufType::Q8_0, None)] {
        let (_folder, path) = saved(&original, kind);
        let loader = ModelLoader::new().with_quantization(Some(quantization));
        let model = loader.load(&path).unwrap();
        assert!(model.is_quantized());
        assert_eq!(model.quantization(), expected);
    }
}

#[test]
fn progress_counts_what_is_in_the_file() {
    use std::sync::{Arc, Mutex};
    let (_folder, path) = saved(&load_f32(TINY_CODER), GgufType::Q8_0);
    let seen = Arc::new(Mutex::new(vec![]));
    let log = Arc::clone(&seen);
    let loader = ModelLoader::new()
        .with_device(DeviceKind::Cpu)
        .with_progress(move |progress| {
            log.lock().unwrap().push(progress.clone());
            ControlFlow::Continue(())
        });
    let model = loader.load(&path).unwrap();
    let seen = seen.lock().unwrap();
    let (first, last) = (&seen[0], &seen[seen.len() - 1]);
    assert_eq!((first.loaded_tensors, first.loaded_bytes), (0, 0));
    assert_eq!(seen.len(), first.tensors + 1);
    assert_eq!(
        (last.loaded_tensors, last.loaded_bytes),
        (last.tensors, last.bytes)
    );
    assert_eq!(last.tensors, model.config().tensors().len());
    let size = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
    assert!(last.bytes < size && last.bytes > size / 2);
}
