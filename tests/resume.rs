//! Runs that are stopped and go on, in the same process or from a checkpoint.

#![cfg(feature = "training")]

mod common;

use common::{copy_of, edit_json, fixture, load_f32, rows};
use metal_candle::checkpoint::{checkpoint_path, latest};
use metal_candle::models::LoRATargets;
use metal_candle::training::{
    AdamWOptions, LrSchedule, OptimizerOptions, TrainMethod, TrainSummary,
};
use metal_candle::{
    Error, LoRAConfig, LoRAScale, LoRATrainer, Model, Projection, Result, TrainEvent, TrainOptions,
};
use serde_json::json;
use std::ops::ControlFlow;
use std::path::Path;

fn small() -> Model {
    load_f32(fixture("models/qwen2_tied"))
}

/// Everything that a resumed run must take up again: schedule, dropout, place in a shuffled epoch.
fn options(output: &Path) -> TrainOptions {
    TrainOptions {
        method: LoRAConfig {
            rank: 2,
            scale: LoRAScale::Alpha(4.0),
            dropout: 0.1,
            ..LoRAConfig::default()
        }
        .into(),
        steps: 6,
        batch_size: 2,
        gradient_accumulation: 2,
        learning_rate: 5e-3,
        schedule: LrSchedule::Cosine,
        warmup_steps: 2,
        eval_every: 0,
        save_every: 1,
        output_dir: Some(output.to_owned()),
        ..TrainOptions::default()
    }
}

fn lora(options: &mut TrainOptions) -> &mut LoRAConfig {
    match &mut options.method {
        TrainMethod::LoRA(config) => config,
        TrainMethod::Full { .. } => unreachable!(),
    }
}

/// Three batches to an epoch, so that six steps of two batches see four epochs.
const ROWS: usize = 5;

/// Step, loss and gradient norm as bits.
type Trace = Vec<(usize, u64, u64)>;

/// Trains on and stops after `until` steps.
fn run(trainer: &mut LoRATrainer, until: usize) -> (Trace, TrainSummary) {
    let mut trace = vec![];
    let summary = trainer
        .train(|event| match event {
            TrainEvent::Step(report) => {
                trace.push((
                    report.step,
                    report.loss.to_bits(),
                    report.grad_norm.to_bits(),
                ));
                if report.step == until {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            }
            _ => ControlFlow::Continue(()),
        })
        .unwrap();
    (trace, summary)
}

fn weights(directory: &Path) -> Vec<u8> {
    std::fs::read(directory.join("adapter_model.safetensors")).unwrap()
}

/// To the last bit on every device: none adds in an order that depends on anything but shapes.
#[test]
fn a_run_resumed_at_any_step_is_the_same_run() {
    let model = small();
    let whole = tempfile::tempdir().unwrap();
    let mut trainer = LoRATrainer::new(&model, rows(ROWS), None, options(whole.path())).unwrap();
    let (expected, summary) = run(&mut trainer, usize::MAX);
    assert_eq!((expected.len(), summary.cancelled()), (6, false));
    assert_eq!(
        latest(whole.path()).unwrap(),
        Some(checkpoint_path(whole.path(), 5))
    );
    for step in 1..6 {
        let output = tempfile::tempdir().unwrap();
        let checkpoint = checkpoint_path(whole.path(), step);
        let options = options(output.path());
        let mut trainer =
            LoRATrainer::resume(&model, rows(ROWS), None, options, &checkpoint).unwrap();
        assert_eq!(trainer.step_count(), step);
        assert_eq!(run(&mut trainer, usize::MAX).0, expected[step..], "{step}");
        assert!(weights(output.path()) == weights(whole.path()), "{step}");
    }
}

#[test]
fn a_stopped_run_leaves_a_checkpoint_and_goes_on() {
    let model = small();
    let whole = tempfile::tempdir().unwrap();
    let mut trainer = LoRATrainer::new(&model, rows(ROWS), None, options(whole.path())).unwrap();
    let expected = run(&mut trainer, usize::MAX).0;

    let output = tempfile::tempdir().unwrap();
    let options = TrainOptions {
        save_every: 0,
        ..options(output.path())
    };
    let mut trainer = LoRATrainer::new(&model, rows(ROWS), None, options).unwrap();
    let (first, summary) = run(&mut trainer, 3);
    assert_eq!(first, expected[..3]);
    assert_eq!((summary.steps, summary.cancelled()), (3, true));
    assert_eq!(
        latest(output.path()).unwrap(),
        Some(checkpoint_path(output.path(), 3))
    );
    assert!(!output.path().join("adapter_model.safetensors").exists());

    let (second, summary) = run(&mut trainer, usize::MAX);
    assert_eq!(second, expected[3..]);
    assert_eq!((summary.steps, summary.cancelled()), (6, false));
    assert!(weights(output.path()) == weights(whole.path()));
}

#[test]
fn a_callback_that_breaks_in_the_first_evaluation_starts_nothing() {
    let output = tempfile::tempdir().unwrap();
    let options = TrainOptions {
        eval_every: 1,
        ..options(output.path())
    };
    let mut trainer = LoRATrainer::new(&small(), rows(ROWS), Some(rows(1)), options).unwrap();
    let summary = trainer.train(|_| ControlFlow::Break(())).unwrap();
    assert_eq!((summary.steps, summary.cancelled()), (0, true));
    assert!(summary.loss.is_nan());
    assert_eq!(latest(output.path()).unwrap(), None);
}

#[test]
fn another_thread_cancels() {
    let output = tempfile::tempdir().unwrap();
    let options = TrainOptions {
        save_every: 0,
        ..options(output.path())
    };
    let mut trainer = LoRATrainer::new(&small(), rows(ROWS), None, options).unwrap();
    let handle = trainer.cancel_handle();
    let summary = trainer
        .train(|event| {
            if matches!(event, TrainEvent::Step(report) if report.step == 2) {
                let handle = handle.clone();
                std::thread::spawn(move || handle.cancel()).join().unwrap();
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((summary.steps, summary.cancelled()), (2, true));
    assert!(checkpoint_path(output.path(), 2).is_dir());
    let summary = trainer.train(|_| ControlFlow::Continue(())).unwrap();
    assert_eq!((summary.steps, summary.cancelled()), (6, false));
}

/// A checkpoint after two steps.
fn checkpoint(model: &Model) -> tempfile::TempDir {
    let output = tempfile::tempdir().unwrap();
    let mut trainer = LoRATrainer::new(model, rows(ROWS), None, options(output.path())).unwrap();
    for _ in 0..2 {
        trainer.step().unwrap();
    }
    trainer
        .save_checkpoint(&checkpoint_path(output.path(), 2))
        .unwrap();
    copy_of(checkpoint_path(output.path(), 2))
}

fn resume(model: &Model, options: TrainOptions, checkpoint: &Path) -> Result<LoRATrainer> {
    LoRATrainer::resume(model, rows(ROWS), None, options, checkpoint)
}

#[test]
fn other_settings_are_incompatible() {
    let model = small();
    let saved = checkpoint(&model);
    let path = saved.path();
    let check = |field: &str, found: &str, expected: &str, change: fn(&mut TrainOptions)| {
        let mut options = options(path);
        change(&mut options);
        assert_error!(
            resume(&model, options, path).unwrap_err(),
            Error::Incompatible { .. },
            [
                path.to_str().unwrap(),
                &format!("`{field}` is {found}"),
                &format!("expected {expected}"),
            ]
        );
    };
    check("rank", "2", "3", |o| lora(o).rank = 3);
    check("alpha", "4.0", "5.0", |o| {
        lora(o).scale = LoRAScale::Alpha(5.0);
    });
    check("dropout", "0.1", "0.2", |o| lora(o).dropout = 0.2);
    check("use_rslora", "false", "true", |o| lora(o).use_rslora = true);
    check("target_modules", "[\"q_proj\",", "[\"k_proj\",", |o| {
        let mut targets = Projection::ALL.to_vec();
        targets.remove(0);
        lora(o).targets = LoRATargets::Projections(targets.into_iter().collect());
    });
    check("steps", "6", "7", |o| o.steps = 7);
    check("batch_size", "2", "3", |o| o.batch_size = 3);
    check("gradient_accumulation", "2", "1", |o| {
        o.gradient_accumulation = 1;
    });
    check("learning_rate", "0.005", "0.006", |o| {
        o.learning_rate = 6e-3;
    });
    check("schedule", "\"cosine\"", "\"linear\"", |o| {
        o.schedule = LrSchedule::Linear;
    });
    check("warmup_steps", "2", "1", |o| o.warmup_steps = 1);
    let [found, expected] =
        ["0.9", "0.8"].map(|beta| format!("{{\"name\":\"adamw\",\"beta1\":{beta}"));
    check("optimizer", &found, &expected, |o| {
        o.optimizer = OptimizerOptions::AdamW(AdamWOptions {
            beta1: 0.8,
            ..AdamWOptions::default()
        });
    });
    check("max_grad_norm", "1.0", "2.0", |o| o.max_grad_norm = 2.0);
    check("seed", "0", "1", |o| o.seed = 1);
    check("shuffle", "true", "false", |o| o.shuffle = false);

    let other = LoRATrainer::resume(&model, rows(ROWS + 1), None, options(path), path);
    assert_error!(
        other.unwrap_err(),
        Error::Incompatible { .. },
        [path.to_str().unwrap(), "`dataset`"]
    );
}

#[test]
fn what_does_not_change_the_losses_may_differ() {
    let model = small();
    let saved = checkpoint(&model);
    let options = TrainOptions {
        grad_checkpoint: true,
        eval_every: 3,
        eval_batches: 1,
        save_every: 0,
        output_dir: None,
        ..options(saved.path())
    };
    resume(&model, options, saved.path()).unwrap();
}

#[test]
fn settings_with_many_digits_survive_the_file() {
    let model = small();
    let output = tempfile::tempdir().unwrap();
    let path = checkpoint_path(output.path(), 0);
    for n in 1..40_u32 {
        // Thirds, sevenths and so on need all 17 digits.
        let options = TrainOptions {
            learning_rate: 1e-4 / f64::from(n),
            max_grad_norm: 100.0 / f64::from(n),
            method: LoRAConfig {
                rank: 1,
                scale: LoRAScale::Alpha(10.0 / f64::from(n)),
                targets: [Projection::Query].into(),
                ..LoRAConfig::default()
            }
            .into(),
            ..options(output.path())
        };
        let trainer = LoRATrainer::new(&model, rows(ROWS), None, options.clone()).unwrap();
        trainer.save_checkpoint(&path).unwrap();
        let resumed = resume(&model, options.clone(), &path).unwrap();
        assert_eq!(resumed.options().method, options.method);
        assert_eq!(
            TrainMethod::LoRA(resumed.adapter().unwrap().config().clone()),
            options.method
        );
    }
}

#[test]
fn damaged_checkpoints_name_the_file() {
    let model = small();
    let whole = checkpoint(&model);
    let state = "trainer_state.json";
    let optimizer = "optimizer.safetensors";
    let damaged = |file: &str, damage: &dyn Fn(&Path)| {
        let saved = copy_of(whole.path());
        damage(&saved.path().join(file));
        let error = resume(&model, options(saved.path()), saved.path()).unwrap_err();
        let file = saved.path().join(file);
        assert!(
            error.to_string().contains(file.to_str().unwrap()),
            "{error}"
        );
        error
    };
    for file in [
        state,
        optimizer,
        "adapter_config.json",
        "adapter_model.safetensors",
    ] {
        let missing = damaged(file, &|path| std::fs::remove_file(path).unwrap());
        assert!(matches!(missing, Error::FileNotFound { .. }), "{missing:?}");
        let cut = damaged(file, &|path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        });
        assert!(matches!(cut, Error::InvalidFormat { .. }), "{cut:?}");
    }
    for (key, value, expected) in [
        ("version", json!(2), "`version` is 2; expected 1"),
        (
            "progress",
            json!({"step": -1}),
            "`progress` is {\"step\":-1}",
        ),
        ("settings", json!([]), "`settings` is []"),
    ] {
        let error = damaged(state, &|path| edit_json(path, key, value.clone()));
        assert_error!(error, Error::InvalidConfig { .. }, [expected]);
    }
    let error = damaged(optimizer, &|path| {
        let file = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
        let first = file["first_moment"].clone();
        candle_core::safetensors::save(&[("first_moment", first)].into(), path).unwrap();
    });
    assert_error!(error, Error::MissingTensor { .. }, ["`second_moment`"]);
}
