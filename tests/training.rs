//! Training runs: what they change, what they tell, how they end.

#![cfg(feature = "training")]

mod common;

use common::{all_logits, fixture, load_as, load_f32, read_json, rows, to_f64};
use metal_candle::backend::DTypePolicy;
use metal_candle::training::{Sample, StepReport, TrainMethod};
use metal_candle::{
    Dataset, Error, LoRAAdapter, LoRAConfig, LoRAScale, LoRATrainer, Model, Projection, TrainEvent,
    TrainOptions,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

fn small() -> Model {
    load_f32(fixture("models/qwen2_tied"))
}

fn options() -> TrainOptions {
    TrainOptions {
        method: LoRAConfig {
            rank: 2,
            scale: LoRAScale::Alpha(4.0),
            ..LoRAConfig::default()
        }
        .into(),
        steps: 4,
        batch_size: 2,
        learning_rate: 5e-3,
        eval_every: 0,
        save_every: 0,
        ..TrainOptions::default()
    }
}

/// Trains to the end.
fn run(trainer: &mut LoRATrainer) -> Vec<StepReport> {
    let mut reports = vec![];
    trainer
        .train(|event| {
            if let TrainEvent::Step(report) = event {
                reports.push(report.clone());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    reports
}

fn losses(reports: &[StepReport]) -> Vec<f64> {
    reports.iter().map(|report| report.loss).collect()
}

/// The adapter's tensors by their names in the file.
fn tensors(adapter: &LoRAAdapter) -> BTreeMap<String, Vec<f64>> {
    let directory = tempfile::tempdir().unwrap();
    adapter.save(directory.path()).unwrap();
    let path = directory.path().join("adapter_model.safetensors");
    candle_core::safetensors::load(path, &candle_core::Device::Cpu)
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| (name, to_f64(&tensor)))
        .collect()
}

#[test]
fn every_matrix_moves_and_the_model_does_not() {
    let model = small();
    let ids: Vec<u32> = (0..190).collect();
    let before = to_f64(&all_logits(&model, &ids, None));
    let mut trainer = LoRATrainer::new(&model, rows(8), None, options()).unwrap();
    let start = tensors(trainer.adapter().unwrap());
    run(&mut trainer);
    assert_eq!(to_f64(&all_logits(&model, &ids, None)), before);
    let adapted = to_f64(&all_logits(&model, &ids, trainer.adapter()));
    assert_ne!(adapted, before);
    let end = tensors(trainer.adapter().unwrap());
    assert_eq!(end.len(), 2 * 7 * 2);
    for (name, values) in &end {
        assert_ne!(*values, start[name], "{name}");
    }
}

#[test]
fn only_the_targets_are_trained() {
    let model = small();
    let mut options = options();
    let TrainMethod::LoRA(lora) = &mut options.method else {
        unreachable!()
    };
    lora.targets = [Projection::Query, Projection::Value].into();
    let mut trainer = LoRATrainer::new(&model, rows(8), None, options).unwrap();
    // Rank 2, two layers: q maps 64 to 64, v maps 64 to two heads of 16.
    assert_eq!(
        trainer.adapter().unwrap().parameter_count(),
        2 * 2 * ((64 + 64) + (64 + 32))
    );
    let start = tensors(trainer.adapter().unwrap());
    run(&mut trainer);
    let end = tensors(trainer.adapter().unwrap());
    assert_eq!(end.len(), 2 * 2 * 2);
    for (name, values) in &end {
        assert!(name.contains("q_proj") || name.contains("v_proj"), "{name}");
        assert_ne!(*values, start[name], "{name}");
    }
}

#[test]
fn accumulation_equals_a_larger_batch() {
    let model = small();
    let train = |batch_size, gradient_accumulation, grad_checkpoint| {
        let options = TrainOptions {
            batch_size,
            gradient_accumulation,
            grad_checkpoint,
            shuffle: false,
            ..options()
        };
        run(&mut LoRATrainer::new(&model, rows(24), None, options).unwrap())
    };
    let whole = train(8, 1, false);
    for parts in [train(2, 4, false), train(2, 4, true), train(4, 2, false)] {
        for (part, whole) in parts.iter().zip(&whole) {
            assert_eq!(part.target_tokens, whole.target_tokens);
            assert_eq!(part.tokens, whole.tokens);
            let close = |a: f64, b: f64, tolerance| (a / b - 1.0).abs() < tolerance;
            assert!(close(part.loss, whole.loss, 1e-6), "{part:?} {whole:?}");
            assert!(
                close(part.grad_norm, whole.grad_norm, 1e-4),
                "{part:?} {whole:?}"
            );
        }
    }
    assert_ne!(whole[0].target_tokens, whole[1].target_tokens);
}

#[test]
fn the_loss_falls_on_rows_seen_again() {
    let model = small();
    let options = TrainOptions {
        steps: 40,
        batch_size: 4,
        learning_rate: 2e-2,
        eval_every: 10,
        ..options()
    };
    let mut trainer = LoRATrainer::new(&model, rows(4), Some(rows(4)), options).unwrap();
    let mut evaluations = vec![];
    let summary = trainer
        .train(|event| {
            if let TrainEvent::Evaluation { step, loss, .. } = event {
                evaluations.push((*step, *loss));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let steps: Vec<_> = evaluations.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [0, 10, 20, 30, 40]);
    let (first, last) = (evaluations[0].1, evaluations[4].1);
    assert!(last < 0.7 * first, "{evaluations:?}");
    assert_eq!(summary.validation_loss, Some(last));
    assert_eq!(trainer.evaluate().unwrap(), Some(last));
}

#[test]
fn sixteen_bit_models_train() {
    let path = fixture("models/qwen2_untied_gqa");
    let train = |dtype| {
        let model = load_as(&path, dtype);
        let options = TrainOptions {
            steps: 10,
            batch_size: 4,
            learning_rate: 1e-2,
            ..options()
        };
        let mut trainer = LoRATrainer::new(&model, rows(4), None, options).unwrap();
        let reports = run(&mut trainer);
        let directory = tempfile::tempdir().unwrap();
        trainer.adapter().unwrap().save(directory.path()).unwrap();
        let file = directory.path().join("adapter_model.safetensors");
        let saved = metal_candle::models::SafetensorsCheckpoint::open_file(&file).unwrap();
        for name in saved.names() {
            assert_eq!(saved.dtype(name), Some(candle_core::DType::F32));
        }
        losses(&reports)
    };
    let reference = train(DTypePolicy::F32);
    for dtype in [DTypePolicy::Bf16, DTypePolicy::F16] {
        let found = train(dtype);
        for (found, reference) in found.iter().zip(&reference) {
            assert!(
                (found / reference - 1.0).abs() < 0.05,
                "{dtype:?}: {found} {reference}"
            );
        }
        assert_ne!(found, reference);
        assert!(found[9] < 0.95 * found[0], "{dtype:?}: {found:?}");
    }
}

#[test]
fn a_run_that_diverges_stops_with_the_last_good_adapter() {
    let options = TrainOptions {
        steps: 10,
        learning_rate: 1e30,
        ..options()
    };
    let mut trainer = LoRATrainer::new(&small(), rows(8), None, options).unwrap();
    let mut last = tensors(trainer.adapter().unwrap());
    let error = loop {
        match trainer.step() {
            Ok(report) => assert!(report.loss.is_finite() && report.step < 10),
            Err(error) => break error,
        }
        last = tensors(trainer.adapter().unwrap());
    };
    let done = trainer.step_count();
    assert!(
        matches!(&error, Error::NonFinite { what: "loss" | "gradient norm", step, .. } if *step == done),
        "{error:?}"
    );
    assert!(error.to_string().contains("learning rate"), "{error}");
    assert_eq!(tensors(trainer.adapter().unwrap()), last);
    assert!(last.values().flatten().all(|weight| weight.is_finite()));
}

/// What a callback was told, in short.
fn name(event: &TrainEvent, root: &Path) -> String {
    match event {
        TrainEvent::Step(report) => format!("step {}", report.step),
        TrainEvent::Start(info) => format!("start {}", info.steps),
        TrainEvent::Evaluation { step, best, .. } => format!("evaluation {step} {best}"),
        TrainEvent::Checkpoint { step, path, best } => {
            assert!(path.join("optimizer.safetensors").is_file());
            let path = path.strip_prefix(root).unwrap();
            format!("{} {step} {best}", path.display())
        }
        TrainEvent::End(summary) => format!("end {}", summary.steps),
        other => panic!("{other:?}"),
    }
}

#[test]
fn events_come_in_order_and_files_are_there() {
    let output = tempfile::tempdir().unwrap();
    let options = TrainOptions {
        steps: 5,
        eval_every: 3,
        save_every: 2,
        output_dir: Some(output.path().to_owned()),
        ..options()
    };
    let model = small();
    let mut trainer = LoRATrainer::new(&model, rows(8), Some(rows(3)), options).unwrap();
    let mut events = vec![];
    let summary = trainer
        .train(|event| {
            events.push(name(event, output.path()));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(
        events,
        [
            "start 5",
            "evaluation 0 true",
            "step 1",
            "step 2",
            "checkpoint-000002 2 false",
            "step 3",
            "evaluation 3 true",
            "checkpoint-000003 3 true",
            "step 4",
            "checkpoint-000004 4 false",
            "step 5",
            "evaluation 5 true",
            "checkpoint-000005 5 true",
            "end 5",
        ]
    );
    assert!(!summary.cancelled() && summary.steps == 5 && summary.loss.is_finite());

    let saved = LoRAAdapter::load(output.path(), &model).unwrap();
    assert_eq!(tensors(&saved), tensors(trainer.adapter().unwrap()));
    let config = read_json(&output.path().join("adapter_config.json"));
    let base = config["base_model_name_or_path"].as_str().unwrap();
    assert!(base.ends_with("qwen2_tied"), "{base}");
    let mut names: Vec<_> = std::fs::read_dir(output.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "adapter_config.json",
            "adapter_model.safetensors",
            "best.json",
            "checkpoint-000002",
            "checkpoint-000003",
            "checkpoint-000004",
            "checkpoint-000005",
            "loss.svg",
            "metrics.jsonl",
        ]
    );
}

#[test]
fn rows_that_the_model_cannot_take() {
    let model = small();
    let refused = |input_ids: Vec<u32>| {
        let sample = Sample::new(input_ids, 0);
        let rows = Dataset::from_samples(vec![sample]).unwrap();
        let train = LoRATrainer::new(&model, rows.clone(), None, options()).unwrap_err();
        let validation =
            LoRATrainer::new(&model, self::rows(2), Some(rows), options()).unwrap_err();
        let validation = validation.to_string();
        assert_eq!(
            train.to_string(),
            validation.replace("`validation`", "`train`")
        );
        train
    };
    assert_error!(
        refused(vec![1, 208]),
        Error::InvalidOption { .. },
        [
            "`train`",
            "token id 208",
            "below the vocabulary size of 208"
        ]
    );
    assert_error!(
        refused(vec![1; 513]),
        Error::ContextFull { .. },
        ["513 tokens", "512 tokens"]
    );
}
