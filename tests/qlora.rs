//! Adapters beside weights of a few bits.

#![cfg(feature = "training")]

mod common;

use common::training::{
    assert_resumes, assert_same_run, dora, full, lora, losses, options, reports, run, trained,
    weights,
};
use common::{all_logits, assert_close, fixture, load_f32, rows, to_f64};
use metal_candle::backend::ops::affine::AffineWeight;
use metal_candle::backend::{DType, DTypePolicy};
use metal_candle::inference::BatchGenerator;
use metal_candle::models::Quantization;
use metal_candle::{GenerateOptions, Generator, LoRATrainer, Model, ModelLoader, TrainOptions};
use std::ops::ControlFlow;
use tempfile::TempDir;

const IDS: [u32; 9] = [5, 17, 100, 42, 7, 60, 180, 3, 9];
const MODEL: &str = "models/qwen2_tied";

fn quantised(bits: usize) -> Model {
    let quantization = Quantization {
        bits,
        ..Quantization::default()
    };
    ModelLoader::new()
        .with_device(common::device())
        .with_dtype(DTypePolicy::F32)
        .with_quantization(Some(quantization))
        .load(fixture(MODEL))
        .unwrap()
}

/// The model with the weights that the codes stand for, and its folder.
fn dense(model: &Model) -> (Model, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let dense = load_f32(folder.path());
    assert_eq!(dense.quantization(), None);
    (dense, folder)
}

fn greedy() -> GenerateOptions {
    GenerateOptions {
        max_tokens: 6,
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

fn tokens(model: &Model, prompt: &[u32]) -> Vec<u32> {
    let mut generator = Generator::new(model);
    let generation = generator.generate_from_ids(prompt, &greedy(), |_| ControlFlow::Continue(()));
    generation.unwrap().tokens
}

#[test]
fn codes_compute_what_their_weights_do() {
    let original = to_f64(&all_logits(&load_f32(fixture(MODEL)), &IDS, None));
    let mut errors = vec![];
    for bits in [4, 8] {
        let model = quantised(bits);
        let (dense, _folder) = dense(&model);
        let logits = to_f64(&all_logits(&model, &IDS, None));
        let reference = to_f64(&all_logits(&dense, &IDS, None));
        assert_close("logits", &logits, &reference, 1e-5);
        let off = logits.iter().zip(&original).map(|(a, b)| (a - b).powi(2));
        errors.push(off.sum::<f64>());
        for config in [lora(), dora()] {
            let adapter = trained(&dense, config, 3);
            let logits = to_f64(&all_logits(&model, &IDS, Some(&adapter)));
            let reference = to_f64(&all_logits(&dense, &IDS, Some(&adapter)));
            assert_close("with an adapter", &logits, &reference, 1e-5);
        }
    }
    // Four bits round more than eight, and both do.
    assert!(
        errors[0] > 50.0 * errors[1] && errors[1] > 0.0,
        "{errors:?}"
    );
}

#[test]
fn embedding_norms_and_biases_stay_and_weights_are_those_of_the_operation() {
    for bits in [4, 8] {
        let original = weights(&load_f32(fixture(MODEL)));
        for (name, found) in weights(&quantised(bits)) {
            let original = &original[&name];
            let expected = if name.ends_with("proj.weight") {
                let weight = AffineWeight::quantize(original, bits, 64, DType::F32).unwrap();
                // Codes, and a scale and a bias of four bytes for 64 of them.
                let count = original.elem_count();
                assert_eq!(weight.size_in_bytes(), count * bits / 8 + count / 64 * 8);
                weight.dequantize(DType::F32).unwrap()
            } else {
                original.clone()
            };
            assert_eq!(to_f64(&found), to_f64(&expected), "{name}");
        }
    }
}

#[test]
fn adapters_learn_as_beside_the_weights_of_the_codes() {
    for (bits, config, method) in [
        (4, lora(), "qlora"),
        (8, lora(), "qlora"),
        (4, dora(), "qdora"),
        (8, dora(), "qdora"),
    ] {
        let model = quantised(bits);
        let before = to_f64(&all_logits(&model, &IDS, None));
        let options = TrainOptions {
            steps: 10,
            learning_rate: 1e-2,
            ..options(config)
        };
        let mut trainer = LoRATrainer::new(&model, rows(4), None, options.clone()).unwrap();
        assert_eq!(trainer.info().method, method);
        let found = run(&mut trainer);
        let all = losses(&found);
        assert!(all[9] < 0.9 * all[0], "{bits} {method}: {all:?}");
        assert_eq!(to_f64(&all_logits(&model, &IDS, None)), before);
        let reference = reports(&dense(&model).0, &rows(4), &options);
        assert_same_run(method, &found, &reference, 2e-3);
        // The first step has seen no rounding of another.
        assert_same_run(method, &found[..1], &reference[..1], 2e-5);
    }
}

/// What mlx-lm quantised, of which the embedding, which is the head as well, is in codes too.
#[test]
fn adapters_learn_beside_an_embedding_of_codes() {
    for (name, config) in [("mlx/q4", lora()), ("mlx/q8", dora())] {
        let model = load_f32(fixture(name));
        let options = options(config);
        let found = reports(&model, &rows(4), &options);
        assert!(found[3].loss < found[0].loss, "{name}");
        let reference = reports(&dense(&model).0, &rows(4), &options);
        assert_same_run(name, &found, &reference, 1e-3);
    }
}

#[test]
fn a_resumed_run_is_the_same_run() {
    for (bits, config) in [(4, lora()), (8, dora())] {
        let options = TrainOptions {
            grad_checkpoint: true,
            ..options(config)
        };
        assert_resumes("qlora", &quantised(bits), &rows(5), &options, &[1, 3]);
    }
}

#[test]
fn a_merged_model_has_plain_weights() {
    for (bits, config) in [(4, lora()), (8, dora())] {
        let model = quantised(bits);
        let mut trainer = LoRATrainer::new(&model, rows(4), None, options(config)).unwrap();
        run(&mut trainer);
        let adapter = trainer.adapter().unwrap();
        let merged = trainer.trained_model().unwrap();
        let (dense, _folder) = dense(&model);
        let reference = weights(&dense.merge(adapter).unwrap());
        for (name, found) in weights(&merged) {
            assert_eq!(to_f64(&found), to_f64(&reference[&name]), "{name}");
        }
        let beside = to_f64(&all_logits(&model, &IDS, Some(adapter)));
        assert_close(
            "merged",
            &to_f64(&all_logits(&merged, &IDS, None)),
            &beside,
            1e-4,
        );
        // All of it is plain now, and can be trained as such.
        assert_eq!(merged.quantization(), None);
        LoRATrainer::new(&merged, rows(4), None, options(full())).unwrap();

        let folder = tempfile::tempdir().unwrap();
        merged.save(folder.path()).unwrap();
        let loaded = load_f32(folder.path());
        assert_eq!(tokens(&loaded, &IDS), tokens(&merged, &IDS));
    }
}

#[test]
fn a_model_of_which_a_part_is_merged_is_still_quantised() {
    let model = quantised(4);
    let config = metal_candle::LoRAConfig {
        targets: [metal_candle::Projection::Query].into(),
        ..lora()
    };
    let adapter = trained(&model, config, 3);
    let merged = model.merge(&adapter).unwrap();
    assert_eq!(merged.quantization(), model.quantization());
    let beside = to_f64(&all_logits(&model, &IDS, Some(&adapter)));
    let found = to_f64(&all_logits(&merged, &IDS, None));
    assert_close("merged", &found, &beside, 1e-4);
}

#[test]
fn texts_are_those_of_the_weights_of_the_codes() {
    for bits in [4, 8] {
        let model = quantised(bits);
        let (dense, _folder) = dense(&model);
        let prompts: Vec<Vec<u32>> = (0..12_u32)
            .map(|row| {
                (0..3 + row)
                    .map(|i| (row * 31 + i * 17 + 5) % 190)
                    .collect()
            })
            .collect();
        let alone: Vec<_> = prompts.iter().map(|p| tokens(&model, p)).collect();
        let expected: Vec<_> = prompts.iter().map(|p| tokens(&dense, p)).collect();
        assert_eq!(alone, expected, "{bits}");
        let mut batch = BatchGenerator::new(&model, prompts.len()).unwrap();
        for prompt in &prompts {
            batch.push_ids(prompt, &greedy()).unwrap();
        }
        let mut found = batch.run(|_| ControlFlow::Continue(()));
        found.sort_by_key(|(sequence, _)| *sequence);
        let found: Vec<_> = found.into_iter().map(|(_, r)| r.unwrap().tokens).collect();
        assert_eq!(found, expected, "{bits}");
    }
}
