//! Training on pairs of a better and a worse answer.

#![cfg(feature = "training")]

mod common;

use common::rows;
use common::training::{
    assert_resumes, assert_same_run, edited, full, is_close, lora, nll, options, parts, reports,
    run, samples, small, trained,
};
use metal_candle::training::{
    OptimizerOptions, PreferenceLoss, PreferencePair, Sample, SgdOptions, StepReport,
};
use metal_candle::{Dataset, Error, LoRAAdapter, LoRATrainer, Model, TrainOptions};
use std::f64::consts::LN_2;

const BETA: f64 = 0.3;
const LAMBDA: f64 = 0.4;

fn dpo() -> PreferenceLoss {
    PreferenceLoss::Dpo {
        beta: BETA,
        label_smoothing: 0.1,
    }
}

fn orpo() -> PreferenceLoss {
    PreferenceLoss::Orpo { lambda: LAMBDA }
}

/// Pairs of answers of 1 to 6 tokens after prompts of 2 to 4.
fn pairs(count: u32) -> Dataset {
    let pair = |row: u32| {
        let ids = |len: u32, by: u32| (0..len).map(move |i| (row * 41 + i * by + by) % 190);
        let prompt_len = 2 + row % 3;
        let sample = |len: u32, by: u32| {
            let ids = ids(prompt_len, 7).chain(ids(len, by)).collect();
            Sample::new(ids, prompt_len as usize)
        };
        PreferencePair {
            chosen: sample(1 + row * 2 % 6, 23),
            rejected: sample(1 + row * 5 % 6, 59),
        }
    };
    Dataset::from_pairs((0..count).map(pair).collect()).unwrap()
}

fn preferring(loss: PreferenceLoss) -> TrainOptions {
    TrainOptions {
        preference: Some(loss),
        shuffle: false,
        ..options(lora())
    }
}

fn softplus(x: f64) -> f64 {
    x.exp().ln_1p()
}

/// The loss of a pair from the summed negative log-likelihoods of its answers and their numbers of
/// tokens, for the model and for the reference.
fn formula(loss: PreferenceLoss, found: [(f64, usize); 2], reference: [(f64, usize); 2]) -> f64 {
    let [(chosen, chosen_tokens), (rejected, rejected_tokens)] = found;
    match loss {
        PreferenceLoss::Dpo {
            beta,
            label_smoothing,
        } => {
            let margin = beta * ((reference[0].0 - chosen) - (reference[1].0 - rejected));
            (1.0 - label_smoothing) * softplus(-margin) + label_smoothing * softplus(margin)
        }
        PreferenceLoss::Orpo { lambda } => {
            #[allow(clippy::cast_precision_loss, reason = "a few tokens")]
            let mean = |sum: f64, tokens: usize| sum / tokens as f64;
            let (chosen, rejected) = (mean(chosen, chosen_tokens), mean(rejected, rejected_tokens));
            let log_odds = |nll: f64| ((-nll).exp() / (1.0 - (-nll).exp())).ln();
            chosen + lambda * softplus(-(log_odds(chosen) - log_odds(rejected)))
        }
        other => panic!("{other:?}"),
    }
}

/// The mean loss of pairs by the formula, from logits.
fn expected(
    loss: PreferenceLoss,
    base: &Model,
    model: &Model,
    adapter: Option<&LoRAAdapter>,
    pairs: &Dataset,
) -> f64 {
    let samples = samples(pairs);
    let (pairs, _) = samples.as_chunks::<2>();
    let losses = pairs.iter().map(|pair| {
        let of = |model, adapter| [&pair[0], &pair[1]].map(|sample| nll(model, adapter, sample));
        formula(loss, of(model, adapter), of(base, None))
    });
    let count = u32::try_from(pairs.len()).unwrap();
    losses.sum::<f64>() / f64::from(count)
}

#[test]
fn the_first_loss_is_that_of_a_model_that_prefers_nothing_yet() {
    let model = small();
    let plain = PreferenceLoss::from_name("dpo").unwrap();
    for loss in [plain, dpo(), orpo()] {
        for method in [lora().into(), full()] {
            let options = TrainOptions {
                method,
                ..preferring(loss)
            };
            let first = &reports(&model, &pairs(4), &options)[0];
            let expected = expected(loss, &model, &model, None, &pairs(4));
            assert!(is_close(first.loss, expected, 1e-6), "{first:?} {expected}");
            if loss.has_reference() {
                assert!((first.loss - LN_2).abs() < 1e-6, "{first:?}");
                let margin = first.preference.unwrap().margin;
                assert!(margin.abs() < 1e-5, "{margin}");
            }
        }
    }
}

#[test]
fn a_step_has_the_loss_and_the_gradient_of_the_formula() {
    const RATE: f64 = 0.05;
    const STEP: f64 = 0.02;
    let model = small();
    for loss in [dpo(), orpo()] {
        let adapter = trained(&model, lora(), 3);
        let options = TrainOptions {
            optimizer: OptimizerOptions::Sgd(SgdOptions::default()),
            learning_rate: RATE,
            max_grad_norm: 0.0,
            ..preferring(loss)
        };
        let mut trainer =
            LoRATrainer::from_adapter(&model, pairs(4), None, options, adapter.clone()).unwrap();
        let report = trainer.step().unwrap();
        let at = |adapter| expected(loss, &model, &model, Some(adapter), &pairs(4));
        let reference = at(&adapter);
        assert!(
            is_close(report.loss, reference, 1e-5),
            "{report:?} {reference}"
        );

        // The step went against the gradient, by the rate.
        let start = parts(&model, &adapter);
        let end = parts(&model, trainer.adapter().unwrap());
        let part = |name: &str| {
            start[name]
                .iter()
                .zip(&end[name])
                .map(|(a, b)| (a - b) / RATE)
        };
        let square: f64 = start
            .keys()
            .flat_map(|name| part(name))
            .map(|x| x * x)
            .sum();
        let norm = square.sqrt();
        assert!(is_close(norm, report.grad_norm, 1e-3), "{norm} {report:?}");
        // Along a gradient a function grows by its length.
        let moved = |by: f64| {
            edited(&model, &adapter, |name, tensor| {
                let moves: Vec<_> = part(name).map(|x| x * by / norm).collect();
                let moves = candle_core::Tensor::new(moves, tensor.device()).unwrap();
                let moves = moves.reshape(tensor.dims()).unwrap();
                (tensor + moves.to_dtype(tensor.dtype()).unwrap()).unwrap()
            })
        };
        let slope = (at(&moved(STEP)) - at(&moved(-STEP))) / (2.0 * STEP);
        assert!(is_close(slope, norm, 1e-2), "{loss:?}: {slope} {norm}");
    }
}

#[test]
fn what_is_preferred_becomes_likelier() {
    let model = small();
    for loss in [PreferenceLoss::from_name("dpo").unwrap(), orpo()] {
        for method in [lora().into(), full()] {
            let options = TrainOptions {
                method,
                steps: 20,
                learning_rate: 1e-2,
                ..preferring(loss)
            };
            let mut trainer = LoRATrainer::new(&model, pairs(4), Some(pairs(3)), options).unwrap();
            assert_eq!(trainer.info().objective, loss.name());
            let reports = run(&mut trainer);
            let preference = |report: &StepReport| report.preference.unwrap();
            let (first, last) = (preference(&reports[0]), preference(&reports[19]));
            assert!(last.margin > first.margin + 0.05, "{first:?} {last:?}");
            assert!(last.accuracy >= first.accuracy, "{first:?} {last:?}");
            assert!((last.accuracy - 1.0).abs() < f64::EPSILON, "{last:?}");
            let margin = last.reward_chosen - last.reward_rejected;
            assert!((last.margin - margin).abs() < 1e-9, "{last:?}");
            assert!(reports[19].loss < 0.9 * reports[0].loss);

            // The reference is the model before training, whatever is trained.
            let found = trainer.evaluate().unwrap().unwrap();
            let now = trainer.trained_model().unwrap();
            let expected = expected(loss, &model, &now, None, &pairs(3));
            let off = (found - expected).abs();
            assert!(off < 2e-5, "{found} {expected}");
        }
    }
}

#[test]
fn pairs_count_alike_however_they_are_batched() {
    let model = small();
    for loss in [dpo(), orpo()] {
        let train = |batch_size, gradient_accumulation, grad_checkpoint| {
            let options = TrainOptions {
                batch_size,
                gradient_accumulation,
                grad_checkpoint,
                ..preferring(loss)
            };
            reports(&model, &pairs(16), &options)
        };
        let whole = train(8, 1, false);
        assert_same_run("2 x 4", &train(2, 4, false), &whole, 1e-4);
        assert_same_run("recomputed", &train(4, 2, true), &whole, 1e-4);
    }
}

#[test]
fn a_resumed_run_is_the_same_run() {
    let model = small();
    for (loss, method) in [
        (dpo(), lora().into()),
        (orpo(), lora().into()),
        (dpo(), full()),
    ] {
        let options = TrainOptions {
            method,
            batch_size: 2,
            gradient_accumulation: 2,
            shuffle: true,
            ..preferring(loss)
        };
        assert_resumes(loss.name(), &model, &pairs(5), &options, &[1, 3]);
    }
}

#[test]
fn rows_of_the_wrong_kind_are_refused() {
    let model = small();
    let texts = options(lora());
    assert_error!(
        LoRATrainer::new(&model, pairs(4), None, texts.clone()).unwrap_err(),
        Error::InvalidOption { .. },
        ["`train`", "rows of preferences", "`dpo` or `orpo`"]
    );
    assert_error!(
        LoRATrainer::new(&model, rows(4), Some(pairs(4)), texts).unwrap_err(),
        Error::InvalidOption { .. },
        ["`validation`", "rows of preferences"]
    );
    assert_error!(
        LoRATrainer::new(&model, rows(4), None, preferring(dpo())).unwrap_err(),
        Error::InvalidOption { .. },
        ["`train`", "rows of texts for dpo", "`chosen`"]
    );
    assert_error!(
        LoRATrainer::new(&model, pairs(4), Some(rows(4)), preferring(orpo())).unwrap_err(),
        Error::InvalidOption { .. },
        ["`validation`", "rows of texts for orpo"]
    );
}
