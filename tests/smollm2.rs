//! A real model in a GGUF file, SmolLM2-135M-Instruct in `Q4_1`, against transformers' outputs.
//!
//! The file has 98 MB and is not in the repository; `tests/smollm2.sh` fetches it and runs these.

mod common;

use common::{all_logits, assert_close, ids, load_f32, numbers, read_json, to_f64};
use metal_candle::backend::{DTypePolicy, DeviceKind};
use metal_candle::inference::FinishReason;
use metal_candle::models::ChatOptions;
use metal_candle::{GenerateOptions, Generator, Model, ModelLoader};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn path() -> PathBuf {
    std::env::var_os("METAL_CANDLE_SMOLLM2").unwrap().into()
}

fn runs() -> Value {
    let file = Path::new("tests/fixtures/smollm2-reference.json");
    let runs = read_json(file)["runs"]["f32"].clone();
    assert_eq!(runs.as_object().unwrap().len(), 3);
    runs
}

/// The logits behind a prompt.
fn last_logits(model: &Model, prompt: &[u32]) -> Vec<f64> {
    to_f64(
        &all_logits(model, prompt, None)
            .get(prompt.len() - 1)
            .unwrap(),
    )
}

/// The model with the weights of the reference, which rounded the dequantised ones to `bf16` before it computed in
/// `f32`, and its folder.
fn rounded() -> (Model, TempDir) {
    let loader = ModelLoader::new().with_device(DeviceKind::Cpu);
    let rounded = loader.with_dtype(DTypePolicy::Bf16).load(path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    rounded.save(folder.path()).unwrap();
    let rounded = load_f32(folder.path());
    assert!(!rounded.is_quantized());
    (rounded, folder)
}

#[test]
#[ignore = "needs the model, which tests/smollm2.sh fetches"]
fn tokens_are_those_of_the_reference() {
    let (model, _folder) = rounded();
    for (name, run) in runs().as_object().unwrap() {
        let prompt = run["prompt"].as_str().unwrap();
        let options = GenerateOptions {
            max_tokens: 48,
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        assert_eq!(
            model.tokenizer().unwrap().encode(prompt, false).unwrap(),
            ids(&run["prompt_ids"]),
            "{name}"
        );
        let generation = Generator::new(&model)
            .generate(prompt, &options, |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(generation.tokens, ids(&run["new_ids"]), "{name}");
        assert_eq!(generation.text, run["new_text"], "{name}");
    }
}

/// Beside blocks activations may have eight bits, which decides where tokens are nearly as likely as others.
#[test]
#[ignore = "needs the model, which tests/smollm2.sh fetches"]
fn beside_blocks_tokens_of_the_reference_are_the_best_or_nearly() {
    let model = load_f32(path());
    assert!(model.is_quantized());
    for (name, run) in runs().as_object().unwrap() {
        let (prompt, new) = (ids(&run["prompt_ids"]), ids(&run["new_ids"]));
        let logits = all_logits(&model, &[&prompt[..], &new[..]].concat(), None);
        let mut best = 0;
        for (index, &id) in new.iter().enumerate() {
            let logits = to_f64(&logits.get(prompt.len() + index - 1).unwrap());
            let largest = logits.iter().copied().fold(f64::MIN, f64::max);
            let off = largest - logits[id as usize];
            assert!(off < 0.5, "{name}, token {index}: {off}");
            best += usize::from(off == 0.0);
        }
        assert!(10 * best >= 9 * new.len(), "{name}: {best}");
    }
}

#[test]
#[ignore = "needs the model, which tests/smollm2.sh fetches"]
fn dequantised_logits_are_those_of_the_reference() {
    let blocks = load_f32(path());
    let (rounded, _folder) = rounded();
    for (name, run) in runs().as_object().unwrap() {
        let prompt = ids(&run["prompt_ids"]);
        for (model, tolerance) in [(&rounded, 1e-3), (&blocks, 0.2)] {
            let logits = last_logits(model, &prompt);
            let first = numbers(&run["last_prompt_logits_first8"]);
            assert_close(name, &logits[..8], &first, tolerance);
            let top: Vec<_> = ids(&run["last_prompt_top10_ids"])
                .iter()
                .map(|&id| logits[id as usize])
                .collect();
            let expected = numbers(&run["last_prompt_top10_logits"]);
            assert_close(name, &top, &expected, tolerance);
        }
    }
}

#[test]
#[ignore = "needs the model, which tests/smollm2.sh fetches"]
fn it_chats() {
    let info = ModelLoader::new().inspect(path()).unwrap();
    assert_eq!((info.format, info.quantization()), ("gguf", Some("Q4_1")));
    assert_eq!(info.parameter_count, 134_515_008);
    let model = load_f32(path());
    let render = |question: &str| {
        let messages = json!([{"role": "user", "content": question}]);
        let template = model.chat_template().unwrap();
        template.render(&messages, &ChatOptions::default()).unwrap()
    };
    assert_eq!(render("What is a Rust trait?"), runs()["chat"]["prompt"]);
    let options = GenerateOptions {
        max_tokens: 64,
        ..GenerateOptions::default()
    };
    let answer = Generator::new(&model)
        .generate(&render("What is the capital of France?"), &options, |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(answer.text.contains("Paris"), "{}", answer.text);
    assert_eq!(answer.finish_reason, FinishReason::Stop, "{}", answer.text);
}
