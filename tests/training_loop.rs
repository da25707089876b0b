//! The loop of a training run: epochs, rates, losses, evaluations, and every optimizer.

#![cfg(feature = "training")]

mod common;

use common::rows;
use common::training::{
    assert_resumes, dora, full, is_close, logprobs, lora, losses, nll, options, reports, run,
    samples, small,
};
use metal_candle::training::{LrSchedule, MuonOptions, OptimizerOptions, StepReport};
use metal_candle::{Dataset, LoRATrainer, Model, TrainEvent, TrainOptions};
use std::ops::ControlFlow;

#[test]
fn epochs_are_passes_over_the_rows() {
    let model = small();
    for (epochs, gradient_accumulation, steps) in [(2.0, 1, 6), (1.5, 2, 3), (1.0, 3, 1)] {
        let options = TrainOptions {
            epochs: Some(epochs),
            gradient_accumulation,
            ..options(lora())
        };
        let mut trainer = LoRATrainer::new(&model, rows(10), None, options).unwrap();
        assert_eq!(trainer.total_steps(), steps);
        assert_eq!(trainer.info().batches_per_epoch, 3);
        let reports = run(&mut trainer);
        assert_eq!(reports.len(), steps);
        for report in &reports {
            assert_eq!(report.total_steps, steps);
            #[allow(clippy::cast_precision_loss, reason = "a few steps")]
            let seen = (report.step * gradient_accumulation) as f64 / 3.0;
            assert!((report.epoch - seen).abs() < 1e-9, "{report:?}");
        }
        let last = &reports[steps - 1];
        if steps != 3 {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "1 or 2"
            )]
            let passes = epochs as usize;
            assert_eq!(last.tokens_so_far, passes * rows(10).tokens());
        }
    }
}

#[test]
fn rates_rise_and_fall_down_to_their_floor() {
    let cosine = |k: f64| 0.002 + 0.008 * 0.5 * (1.0 + (std::f64::consts::PI * k / 4.0).cos());
    let step = LrSchedule::Step {
        step_size: 2,
        gamma: 0.05,
    };
    for (schedule, rates) in [
        (LrSchedule::Constant, [0.01; 4]),
        (LrSchedule::Linear, [0.01, 0.008, 0.006, 0.004]),
        (LrSchedule::Cosine, [0.0, 1.0, 2.0, 3.0].map(cosine)),
        (step, [0.01, 0.01, 0.002, 0.002]),
        (
            LrSchedule::Exponential { gamma: 0.5 },
            [0.01, 0.005, 0.0025, 0.002],
        ),
    ] {
        let options = TrainOptions {
            steps: 6,
            schedule,
            learning_rate: 0.01,
            min_learning_rate: 0.002,
            warmup_steps: 2,
            ..options(lora())
        };
        let found = reports(&small(), &rows(4), &options);
        let found: Vec<_> = found.iter().map(|report| report.learning_rate).collect();
        let expected = [&[0.0, 0.005], &rates[..]].concat();
        common::assert_close(schedule.name(), &found, &expected, 1e-12);
    }
}

/// Mean loss of the scored tokens, of which a share is spread over the vocabulary.
fn smoothed(model: &Model, rows: &Dataset, share: f64) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for sample in samples(rows) {
        let all = logprobs(model, None, &sample.input_ids);
        for i in sample.scored.iter().cloned().flatten() {
            let row = &all[i - 1];
            #[allow(clippy::cast_precision_loss, reason = "a small vocabulary")]
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            let target = row[sample.input_ids[i] as usize];
            sum -= (1.0 - share) * target + share * mean;
            count += 1.0;
        }
    }
    sum / count
}

#[test]
fn smoothed_labels_count_in_training_only() {
    let model = small();
    let rows = rows(4);
    // Prompts of up to three tokens are masked.
    assert!(rows.target_tokens() < rows.tokens() - rows.len());
    let plain = smoothed(&model, &rows, 0.0);
    for (label_smoothing, method) in [(0.0, lora().into()), (0.2, lora().into()), (0.2, full())] {
        let options = TrainOptions {
            method,
            label_smoothing,
            ..options(lora())
        };
        let mut trainer =
            LoRATrainer::new(&model, rows.clone(), Some(rows.clone()), options).unwrap();
        let validation = trainer.evaluate().unwrap().unwrap();
        assert!(is_close(validation, plain, 1e-6), "{validation} {plain}");
        let found = trainer.step().unwrap().loss;
        let expected = smoothed(&model, &rows, label_smoothing);
        assert!(is_close(found, expected, 1e-6), "{found} {expected}");
        if label_smoothing > 0.0 {
            assert!(!is_close(expected, plain, 1e-3), "{expected} {plain}");
        }
    }
}

#[test]
fn evaluations_come_before_between_and_after() {
    let model = small();
    let validation = rows(6);
    let run = |eval_batches| {
        let options = TrainOptions {
            steps: 5,
            batch_size: 2,
            eval_every: 2,
            eval_batches,
            ..options(lora())
        };
        let validation = Some(validation.clone());
        let mut trainer = LoRATrainer::new(&model, rows(4), validation, options).unwrap();
        let mut found = vec![];
        let summary = trainer.train(|event| {
            if let TrainEvent::Evaluation {
                step,
                loss,
                perplexity,
                ..
            } = event
            {
                assert!(is_close(loss.exp(), *perplexity, 1e-12));
                found.push((*step, *loss));
            }
            ControlFlow::Continue(())
        });
        let summary = summary.unwrap();
        assert_eq!(summary.validation_loss, Some(found[3].1));
        let best = found.iter().map(|(_, loss)| *loss).fold(f64::MAX, f64::min);
        assert!((summary.best.unwrap().loss - best).abs() < 1e-15);
        found
    };
    for (eval_batches, rows) in [(0, 6), (25, 6), (2, 4)] {
        let found = run(eval_batches);
        let steps: Vec<_> = found.iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, [0, 2, 4, 5]);
        let sums = samples(&validation).into_iter().take(rows);
        let sums = sums.map(|sample| nll(&model, None, &sample));
        let (sum, count) = sums.fold((0.0, 0), |(a, b), (c, d)| (a + c, b + d));
        #[allow(clippy::cast_precision_loss, reason = "a few tokens")]
        let mean = sum / count as f64;
        assert!(is_close(found[0].1, mean, 1e-6), "{found:?} {mean}");
    }
}

#[test]
fn every_optimizer_trains_everything_and_goes_on() {
    let model = small();
    for name in ["adamw", "adam", "sgd", "adafactor", "muon"] {
        for (method, what) in [
            (lora().into(), "lora"),
            (dora().into(), "dora"),
            (full(), "full"),
        ] {
            let mut optimizer = OptimizerOptions::from_name(name).unwrap();
            if let OptimizerOptions::Muon(muon) = &mut optimizer {
                *muon = MuonOptions {
                    weight_decay: 0.0,
                    ..*muon
                };
            }
            let options = TrainOptions {
                optimizer,
                steps: 8,
                learning_rate: if name == "sgd" { 0.5 } else { 1e-2 },
                ..options(method)
            };
            let what = format!("{name} {what}");
            let losses = assert_resumes(&what, &model, &rows(4), &options, &[1, 5]);
            assert!(losses[7] < 0.97 * losses[0], "{what}: {losses:?}");
        }
    }
}

#[test]
fn gradients_are_clipped_to_their_norm() {
    let model = small();
    let train = |max_grad_norm| {
        let options = TrainOptions {
            optimizer: OptimizerOptions::from_name("sgd").unwrap(),
            learning_rate: 0.1,
            max_grad_norm,
            ..options(lora())
        };
        reports(&model, &rows(4), &options)
    };
    let whole = train(0.0);
    let norm = whole[0].grad_norm;
    assert_eq!(losses(&train(100.0 * norm)), losses(&whole));
    let clipped = train(norm / 4.0);
    // What is reported is the norm before clipping; the step is a quarter as long.
    let fall = |reports: &[StepReport]| reports[0].loss - reports[1].loss;
    assert!(is_close(clipped[0].grad_norm, norm, 1e-12));
    assert!(is_close(fall(&clipped), fall(&whole) / 4.0, 0.1));
}
