//! Adapters and training against PEFT's outputs in tests/fixtures.

#![cfg(feature = "training")]

mod common;

use common::{
    TINY_CODER, affordable, all_logits, assert_extract, expected, fixture, ids, load_f32,
    read_json, to_f64,
};
use metal_candle::training::{AdamWOptions, LrSchedule, OptimizerOptions, Sample};
use metal_candle::{
    Dataset, GenerateOptions, Generator, LoRAAdapter, LoRAConfig, LoRATrainer, Model, TrainOptions,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

#[test]
fn adapted_and_merged_logits_agree() {
    let model = load_f32(TINY_CODER);
    for name in ["init", "nonzero_b", "small_rslora", "small_dora"] {
        let reference = expected(&format!("lora/{name}"));
        let adapter = LoRAAdapter::load(fixture("lora").join(name), &model).unwrap();
        let scaling = reference["scaling"].as_f64().unwrap();
        assert!((adapter.config().scaling() - scaling).abs() < 1e-6);
        let merged = model.merge(&adapter).unwrap();
        let last = |model: &Model, input: &[u32], adapter| {
            to_f64(
                &all_logits(model, input, adapter)
                    .get(input.len() - 1)
                    .unwrap(),
            )
        };
        for prompt in reference["prompts"].as_array().unwrap() {
            let input = ids(&prompt["input_ids"]);
            let found = last(&model, &input, Some(&adapter));
            assert_extract(name, &found, &prompt["adapter_logits"], 1e-4);
            if prompt["merged_logits"].is_object() {
                assert_extract(
                    name,
                    &last(&merged, &input, None),
                    &prompt["merged_logits"],
                    1e-4,
                );
                assert_extract(
                    name,
                    &last(&model, &input, None),
                    &prompt["base_logits"],
                    1e-4,
                );
            }
            if prompt["merged_greedy16"].is_array() {
                let options = GenerateOptions {
                    max_tokens: 16,
                    ignore_eos: true,
                    ..GenerateOptions::default()
                };
                let mut beside = Generator::new(&model);
                beside.set_adapter(Some(adapter.clone())).unwrap();
                for generator in [&mut beside, &mut Generator::new(&merged)] {
                    let found = generator
                        .generate_from_ids(&input, &options, |_| ControlFlow::Continue(()))
                        .unwrap();
                    assert_eq!(found.tokens, ids(&prompt["merged_greedy16"]), "{name}");
                }
            }
        }
    }
}

#[test]
fn logits_agree_with_mlx_lm() {
    let model = load_f32(TINY_CODER);
    let reference = expected("mlx/lora_adapter");
    let adapter = LoRAAdapter::load(fixture("mlx/lora_adapter"), &model).unwrap();
    let scale = reference["scale"].as_f64().unwrap();
    assert!((adapter.config().scaling() - scale).abs() < 1e-12);
    let merged = model.merge(&adapter).unwrap();
    for prompt in reference["prompts"].as_array().unwrap() {
        let input = ids(&prompt["input_ids"]);
        for (model, adapter) in [(&model, Some(&adapter)), (&merged, None)] {
            let logits = all_logits(model, &input, adapter);
            let found = to_f64(&logits.get(input.len() - 1).unwrap());
            assert_extract("mlx", &found, &prompt["adapter_logits"], 1e-4);
        }
    }
}

/// The rows of a fixture's batches, in order. Labels are -100 on the prompt and on the padding.
fn samples(kind: &str) -> Vec<Sample> {
    let batches = read_json(&fixture("lora/batches.json"));
    let mut samples = vec![];
    for batch in batches[kind].as_array().unwrap() {
        for (row, input) in batch["input_ids"].as_array().unwrap().iter().enumerate() {
            let mut input_ids = ids(input);
            let mut prompt_len = 0;
            if let Some(mask) = batch["attention_mask"].get(row) {
                input_ids.truncate(ids(mask).iter().filter(|&&m| m == 1).count());
                let labels = batch["labels"][row].as_array().unwrap();
                prompt_len = labels
                    .iter()
                    .take_while(|l| l.as_i64() == Some(-100))
                    .count();
            }
            samples.push(Sample::new(input_ids, prompt_len));
        }
    }
    samples
}

fn options(reference: &Value) -> TrainOptions {
    let hyper = &reference["hyper"];
    let number = |value: &Value| value.as_f64().unwrap();
    let count = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
    let schedule = &reference["schedule"];
    let cosine = schedule["name"] == "cosine_with_warmup";
    TrainOptions {
        steps: count(&reference["steps"]),
        batch_size: count(&reference["batch_size"]),
        gradient_accumulation: count(&reference["accumulation"]),
        learning_rate: number(&hyper["base_lr"]),
        schedule: if cosine {
            LrSchedule::Cosine
        } else {
            LrSchedule::Constant
        },
        warmup_steps: if cosine {
            count(&schedule["warmup_steps"])
        } else {
            0
        },
        optimizer: OptimizerOptions::AdamW(AdamWOptions {
            beta1: number(&hyper["betas"][0]),
            beta2: number(&hyper["betas"][1]),
            eps: number(&hyper["eps"]),
            weight_decay: number(&hyper["weight_decay"]),
            ..AdamWOptions::default()
        }),
        max_grad_norm: number(&hyper["max_grad_norm"]),
        shuffle: false,
        ..TrainOptions::default()
    }
}

/// Loads the adapter that all runs start from, as rsLoRA or `DoRA` where the run is.
fn start(reference: &Value, model: &Model) -> LoRAAdapter {
    let from = fixture(reference["start"].as_str().unwrap());
    let to = tempfile::tempdir().unwrap();
    let mut config = read_json(&from.join("adapter_config.json"));
    config["use_rslora"] = reference["use_rslora"].clone();
    std::fs::write(to.path().join("adapter_config.json"), config.to_string()).unwrap();
    let weights = "adapter_model.safetensors";
    std::fs::copy(from.join(weights), to.path().join(weights)).unwrap();
    if reference["use_dora"] == true {
        // The magnitudes of a new adapter, beside the same A and B.
        let lora = LoRAAdapter::load(to.path(), model).unwrap();
        let config = LoRAConfig {
            use_dora: true,
            ..lora.config().clone()
        };
        let dora = LoRAAdapter::new(config, model, 0).unwrap();
        dora.save(to.path()).unwrap();
        let load = |path| candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
        let mut tensors = load(to.path().join(weights));
        tensors.extend(load(from.join(weights)));
        candle_core::safetensors::save(&tensors, to.path().join(weights)).unwrap();
    }
    LoRAAdapter::load(to.path(), model).unwrap()
}

/// L2 norms of an adapter's tensors by their names in PEFT's file.
fn norms(adapter: &LoRAAdapter) -> BTreeMap<String, f64> {
    let directory = tempfile::tempdir().unwrap();
    adapter.save(directory.path()).unwrap();
    tensors(&directory.path().join("adapter_model.safetensors"))
        .into_iter()
        .map(|(name, values)| (name, values.iter().map(|x| x * x).sum::<f64>().sqrt()))
        .collect()
}

fn tensors(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    tensors
        .into_iter()
        .map(|(name, tensor)| (name, to_f64(&tensor)))
        .collect()
}

/// The adapter at the end of the run, where all of its steps are affordable.
fn assert_training_agrees(name: &str, grad_checkpoint: bool) -> Option<LoRAAdapter> {
    let model = load_f32(TINY_CODER);
    let reference = expected(&format!("lora/{name}"));
    let rows = Dataset::from_samples(samples(reference["batches"].as_str().unwrap())).unwrap();
    let options = TrainOptions {
        grad_checkpoint,
        ..options(&reference)
    };
    let adapter = start(&reference, &model);
    let mut trainer =
        LoRATrainer::from_adapter(&model, rows, None, options.clone(), adapter).unwrap();
    let steps = affordable(options.steps);
    for step in 0..steps {
        let report = trainer.step().unwrap();
        let expect = |key: &str| reference[key][step].as_f64().unwrap();
        let what = format!("{name}, step {step}");
        assert!(
            (report.loss - expect("loss")).abs() < 5e-5,
            "{what}: {report:?}"
        );
        let norm = expect("grad_norm");
        assert!(
            (report.grad_norm / norm - 1.0).abs() < 1e-4,
            "{what}: {report:?} {norm}"
        );
        assert!(
            (report.learning_rate - expect("lr")).abs() < 1e-12,
            "{what}"
        );
        assert_eq!(
            report.target_tokens as u64, reference["target_tokens"][step],
            "{what}"
        );
    }
    if steps < options.steps {
        return None;
    }
    let found = norms(trainer.adapter().unwrap());
    let expected = reference["final_tensor_l2"].as_object().unwrap();
    assert_eq!(found.len(), expected.len());
    let mut off: Vec<f64> = expected
        .iter()
        .map(|(name, norm)| (found[name] / norm.as_f64().unwrap() - 1.0).abs())
        .collect();
    off.sort_by(f64::total_cmp);
    // Catches a missing weight decay.
    assert!(off[off.len() / 2] < 5e-5, "{name}: {}", off[off.len() / 2]);
    trainer.adapter().cloned()
}

// Checkpointing gives the same bits, so each run is compared with it or without it.

#[test]
fn training_agrees_on_plain_rows() {
    if let Some(adapter) = assert_training_agrees("train_plain", false) {
        assert_final_adapter_agrees(&adapter, "train_plain");
    }
}

#[test]
fn training_agrees_on_masked_rows() {
    assert_training_agrees("train_masked", true);
}

#[test]
fn training_agrees_with_accumulation() {
    assert_training_agrees("train_accum", false);
}

#[test]
fn training_agrees_with_accumulation_of_masked_rows() {
    assert_training_agrees("train_accum_masked", true);
}

#[test]
fn training_agrees_with_a_cosine_schedule() {
    assert_training_agrees("train_cosine", false);
}

#[test]
fn training_agrees_with_rslora() {
    assert_training_agrees("train_rslora", false);
}

#[test]
fn training_agrees_with_dora() {
    assert_training_agrees("train_dora", true);
}

/// Compares an adapter with the one that PEFT saved at the end of the run.
fn assert_final_adapter_agrees(adapter: &LoRAAdapter, name: &str) {
    let directory = tempfile::tempdir().unwrap();
    adapter.save(directory.path()).unwrap();
    let file = "adapter_model.safetensors";
    let found = tensors(&directory.path().join(file));
    let expected = tensors(&fixture("lora").join(name).join(file));
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    let (mut difference, mut size) = (0.0, 0.0);
    for (name, expected) in &expected {
        for (a, b) in found[name].iter().zip(expected) {
            difference += (a - b) * (a - b);
            size += b * b;
        }
    }
    let relative = (difference / size).sqrt();
    assert!(relative < 1e-3, "{relative}");
}
