//! Rows packed or sorted by length: the same learning with less padding.

#![cfg(feature = "training")]

mod common;

use common::training::{
    assert_resumes, assert_same_run, full, lora, losses, nll, options, reports, run, samples,
};
use common::{fixture, load_f32};
use metal_candle::training::{
    Batch, BatchLayout, BatchOrder, BatchOrderOptions, Batching, Row, Sample, StepReport,
};
use metal_candle::{Dataset, Error, LoRAConfig, LoRATrainer, Model, TrainOptions};

/// Rows of 3 to 27 tokens, some with a prompt: longer than the windows of the small models.
fn rows(count: u32) -> Dataset {
    let row = |row: u32| {
        let ids = (0..3 + row * 11 % 25).map(|i| (row * 37 + i * i * 5 + i) % 190);
        Sample::new(ids.collect(), row as usize % 3)
    };
    Dataset::from_samples((0..count).map(row).collect()).unwrap()
}

fn model(name: &str) -> Model {
    load_f32(fixture("models").join(name))
}

/// Packs of so many tokens.
fn packed(pack_length: usize, batch_size: usize) -> TrainOptions {
    TrainOptions {
        batching: Batching::Packed,
        pack_length,
        batch_size,
        ..options(lora())
    }
}

#[test]
fn a_pack_is_learned_as_its_rows_are() {
    // All rows are one pack.
    let rows = rows(8);
    for name in ["qwen2_tied", "mistral_sliding", "qwen2_sliding"] {
        let model = model(name);
        for (method, grad_checkpoint, label_smoothing) in [
            (lora().into(), false, 0.0),
            (lora().into(), true, 0.1),
            (full(), true, 0.0),
        ] {
            let train = |options: TrainOptions| {
                let options = TrainOptions {
                    method: method.clone(),
                    steps: 3,
                    label_smoothing,
                    ..options
                };
                reports(&model, &rows, &options)
            };
            let plain = train(TrainOptions {
                batch_size: 8,
                ..options(lora())
            });
            let options = TrainOptions {
                grad_checkpoint,
                ..packed(512, 1)
            };
            assert_same_run(name, &train(options), &plain, 1e-3);
        }
    }
}

#[test]
fn a_row_of_a_pack_sees_no_other() {
    let model = model("mistral_sliding");
    let rows = rows(6);
    let options = packed(512, 1);
    let mut trainer = LoRATrainer::new(&model, rows.clone(), None, options).unwrap();
    let report = trainer.step().unwrap();
    let sums = samples(&rows)
        .into_iter()
        .map(|row| nll(&model, None, &row));
    let (sum, targets) = sums.fold((0.0, 0), |(a, b), (c, d)| (a + c, b + d));
    assert_eq!(
        (report.target_tokens, report.tokens),
        (targets, rows.tokens())
    );
    #[allow(clippy::cast_precision_loss, reason = "a few tokens")]
    let mean = sum / targets as f64;
    assert!((report.loss / mean - 1.0).abs() < 1e-5, "{report:?} {mean}");
}

/// Sums over the reports of an epoch: tokens, targets and losses.
fn sums(reports: &[StepReport]) -> (usize, usize, f64) {
    #[allow(clippy::cast_precision_loss, reason = "a few tokens")]
    let loss = |r: &StepReport| r.loss * r.target_tokens as f64;
    (
        reports.iter().map(|r| r.tokens).sum(),
        reports.iter().map(|r| r.target_tokens).sum(),
        reports.iter().map(loss).sum(),
    )
}

#[test]
fn every_row_comes_once_in_an_epoch() {
    let model = model("qwen2_tied");
    let rows = rows(23);
    let mut found = vec![];
    for options in [
        options(lora()),
        packed(40, 2),
        TrainOptions {
            batching: Batching::LengthBuckets,
            ..options(lora())
        },
    ] {
        // So slow that the model stays as it is, and all losses are comparable.
        let options = TrainOptions {
            epochs: Some(2.0),
            learning_rate: 1e-30,
            ..options
        };
        let mut trainer = LoRATrainer::new(&model, rows.clone(), None, options).unwrap();
        let info = trainer.info();
        let reports = run(&mut trainer);
        assert_eq!(reports.len(), 2 * info.batches_per_epoch);
        assert!((reports[reports.len() - 1].epoch - 2.0).abs() < 1e-9);
        let (first, second) = reports.split_at(info.batches_per_epoch);
        for epoch in [first, second] {
            let (tokens, targets, loss) = sums(epoch);
            assert_eq!((tokens, targets), (rows.tokens(), rows.target_tokens()));
            found.push(loss);
        }
        // In another order.
        assert_ne!(losses(first), losses(second));
    }
    for loss in &found {
        assert!((loss / found[0] - 1.0).abs() < 1e-5, "{found:?}");
    }
}

/// Tokens of an epoch with padding, and batches.
fn laid_out(rows: &Dataset, batching: Batching, layout: BatchLayout) -> (usize, usize) {
    let options = BatchOrderOptions {
        batching,
        batch_size: if batching == Batching::Packed { 2 } else { 4 },
        max_seq_length: 40,
        ..BatchOrderOptions::default()
    };
    let mut order = BatchOrder::new(&rows.lengths(), options).unwrap();
    let batches = order.batches_per_epoch();
    let tokens = (0..batches).map(|number| {
        let rows: Vec<Row> = order
            .indices(number)
            .iter()
            .map(|&i| rows.row(i).unwrap())
            .collect();
        let samples: Vec<_> = rows.iter().flat_map(Row::samples).collect();
        Batch::new(&samples, layout).unwrap().input_ids.len()
    });
    (tokens.sum(), batches)
}

#[test]
fn there_is_less_padding() {
    let rows = rows(60);
    let (plain, plain_batches) = laid_out(&rows, Batching::Plain, BatchLayout::Padded);
    let (sorted, _) = laid_out(&rows, Batching::LengthBuckets, BatchLayout::Padded);
    let (packed, batches) = laid_out(&rows, Batching::Packed, BatchLayout::Packed);
    assert_eq!(packed, rows.tokens());
    assert!(
        packed < sorted && sorted < plain,
        "{packed} {sorted} {plain}"
    );
    assert!(batches < plain_batches, "{batches} {plain_batches}");
    let options = self::packed(40, 2);
    let model = model("qwen2_tied");
    let info = LoRATrainer::new(&model, rows.clone(), None, options)
        .unwrap()
        .info();
    assert_eq!(info.batches_per_epoch, batches);
    let efficiency = info.pack_efficiency.unwrap();
    assert!(efficiency > 0.8 && efficiency <= 1.0, "{efficiency}");
}

#[test]
fn packs_learn_with_dropout_and_go_on() {
    for name in ["qwen2_tied", "qwen2_sliding"] {
        let model = model(name);
        let dropout = LoRAConfig {
            dropout: 0.2,
            ..lora()
        };
        let options = TrainOptions {
            method: dropout.into(),
            steps: 8,
            gradient_accumulation: 2,
            learning_rate: 1e-2,
            ..packed(40, 1)
        };
        let found = assert_resumes(name, &model, &rows(9), &options, &[3, 6]);
        assert!(found.iter().all(|loss| loss.is_finite()), "{found:?}");
        let recomputed = TrainOptions {
            grad_checkpoint: true,
            ..options.clone()
        };
        assert_eq!(losses(&reports(&model, &rows(9), &recomputed)), found);
        let dry = TrainOptions {
            method: lora().into(),
            ..options
        };
        assert_ne!(losses(&reports(&model, &rows(9), &dry)), found);
    }
}

#[test]
fn a_row_longer_than_a_pack_is_refused() {
    let error = LoRATrainer::new(&model("qwen2_tied"), rows(9), None, packed(20, 1));
    assert_error!(
        error.unwrap_err(),
        Error::InvalidOption { .. },
        ["`pack_length` is 20", "at least 25"]
    );
}
