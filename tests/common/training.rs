//! What the tests of training share: runs, what they leave, and references from logits.

use super::{all_logits, fixture, load_f32, to_f64};
use candle_core::{DType, Device, Tensor};
use metal_candle::checkpoint::checkpoint_path;
use metal_candle::models::LayerSelection;
use metal_candle::training::{Row, Sample, StepReport, TrainMethod};
use metal_candle::{
    Dataset, LoRAAdapter, LoRAConfig, LoRAScale, LoRATrainer, Model, TrainEvent, TrainOptions,
};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::Path;

pub fn small() -> Model {
    load_f32(fixture("models/qwen2_tied"))
}

pub fn lora() -> LoRAConfig {
    LoRAConfig {
        rank: 2,
        scale: LoRAScale::Alpha(4.0),
        ..LoRAConfig::default()
    }
}

pub fn dora() -> LoRAConfig {
    LoRAConfig {
        use_dora: true,
        ..lora()
    }
}

pub fn full() -> TrainMethod {
    TrainMethod::Full {
        layers: LayerSelection::All,
    }
}

/// Rows of 5 to 12 tokens below 190 that every small fixture model has, some with a prompt.
pub fn rows(count: usize) -> Dataset {
    let mut state = 7_u32;
    let mut below = |bound: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % bound
    };
    let samples = (0..count).map(|row| {
        let ids = (0..5 + below(8)).map(|_| below(190)).collect();
        Sample::new(ids, row % 4)
    });
    Dataset::from_samples(samples.collect()).unwrap()
}

/// A short run without evaluations and checkpoints.
pub fn options(method: impl Into<TrainMethod>) -> TrainOptions {
    TrainOptions {
        method: method.into(),
        steps: 4,
        batch_size: 4,
        learning_rate: 5e-3,
        eval_every: 0,
        save_every: 0,
        ..TrainOptions::default()
    }
}

/// Trains to the end.
pub fn run(trainer: &mut LoRATrainer) -> Vec<StepReport> {
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

/// The reports of a new run.
pub fn reports(model: &Model, rows: &Dataset, options: &TrainOptions) -> Vec<StepReport> {
    run(&mut LoRATrainer::new(model, rows.clone(), None, options.clone()).unwrap())
}

pub fn losses(reports: &[StepReport]) -> Vec<f64> {
    reports.iter().map(|report| report.loss).collect()
}

/// Step, loss and gradient norm as bits.
pub fn trace(reports: &[StepReport]) -> Vec<(usize, u64, u64)> {
    let bits = |r: &StepReport| (r.step, r.loss.to_bits(), r.grad_norm.to_bits());
    reports.iter().map(bits).collect()
}

/// Asserts that two runs are the same but for rounding.
pub fn assert_same_run(what: &str, found: &[StepReport], expected: &[StepReport], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.target_tokens, expected.target_tokens, "{what}");
        for (name, a, b) in [
            ("loss", found.loss, expected.loss),
            ("gradient norm", found.grad_norm, expected.grad_norm),
        ] {
            let step = found.step;
            assert!(is_close(a, b, tolerance), "{what}, {name} {step}: {a} {b}");
        }
    }
}

pub fn is_close(found: f64, expected: f64, tolerance: f64) -> bool {
    (found - expected).abs() <= tolerance * expected.abs()
}

/// What is trained and the optimizer's state, as bytes of their files.
pub fn state(trainer: &LoRATrainer) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    trainer.save_checkpoint(&path).unwrap();
    let files = ["adapter_model.safetensors", "weights.safetensors"];
    let names = files.into_iter().chain(["optimizer.safetensors"]);
    names
        .filter_map(|name| std::fs::read(path.join(name)).ok())
        .collect()
}

/// Asserts that a run which is resumed after any of the steps is the same run, bit for bit. Gives its
/// losses.
pub fn assert_resumes(
    what: &str,
    model: &Model,
    rows: &Dataset,
    options: &TrainOptions,
    after: &[usize],
) -> Vec<f64> {
    let root = tempfile::tempdir().unwrap();
    let mut trainer = LoRATrainer::new(model, rows.clone(), None, options.clone()).unwrap();
    let mut whole = vec![];
    for step in 1..=trainer.total_steps() {
        whole.push(trainer.step().unwrap());
        if after.contains(&step) {
            let path = checkpoint_path(root.path(), step);
            trainer.save_checkpoint(&path).unwrap();
        }
    }
    let end = state(&trainer);
    assert_eq!(end.len(), 2, "{what}");
    for &step in after {
        let path = checkpoint_path(root.path(), step);
        let resumed = LoRATrainer::resume(model, rows.clone(), None, options.clone(), &path);
        let mut resumed = resumed.unwrap();
        assert_eq!(resumed.step_count(), step, "{what}");
        let rest = run(&mut resumed);
        assert_eq!(trace(&rest), trace(&whole[step..]), "{what}, after {step}");
        assert!(state(&resumed) == end, "{what}, after {step}");
    }
    losses(&whole)
}

/// The tensors of a file.
pub fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let file = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    file.into_iter().collect()
}

/// The weights of a model, as it saves them.
pub fn weights(model: &Model) -> BTreeMap<String, Tensor> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model.save(&path).unwrap();
    tensors(&path.join("model.safetensors"))
}

/// The adapter after a change of its tensors, by their names in the file.
pub fn edited(
    model: &Model,
    adapter: &LoRAAdapter,
    mut edit: impl FnMut(&str, &Tensor) -> Tensor,
) -> LoRAAdapter {
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path()).unwrap();
    let file = folder.path().join("adapter_model.safetensors");
    let parts = tensors(&file).into_iter();
    let parts: HashMap<_, _> = parts
        .map(|(name, tensor)| {
            let tensor = edit(&name, &tensor);
            (name, tensor)
        })
        .collect();
    candle_core::safetensors::save(&parts, &file).unwrap();
    LoRAAdapter::load(folder.path(), model).unwrap()
}

/// The tensors of an adapter by their names in the file.
pub fn parts(model: &Model, adapter: &LoRAAdapter) -> BTreeMap<String, Vec<f64>> {
    let mut parts = BTreeMap::new();
    edited(model, adapter, |name, tensor| {
        parts.insert(name.to_owned(), to_f64(tensor));
        tensor.clone()
    });
    parts
}

/// An adapter that changes something, as after some training; the seed decides what.
pub fn trained(model: &Model, config: LoRAConfig, seed: u32) -> LoRAAdapter {
    let adapter = LoRAAdapter::new(config, model, u64::from(seed)).unwrap();
    edited(model, &adapter, |name, tensor| {
        let count = u32::try_from(tensor.elem_count()).unwrap();
        let waves = Tensor::arange(seed, seed + count, &Device::Cpu).unwrap();
        let waves = waves.to_dtype(DType::F32).unwrap().sin().unwrap();
        let waves = waves.reshape(tensor.dims()).unwrap();
        if name.contains("lora_B") {
            (waves * 0.2).unwrap()
        } else if name.contains("magnitude") {
            (tensor * ((waves * 0.2).unwrap() + 1.0).unwrap()).unwrap()
        } else {
            tensor.clone()
        }
    })
}

/// The logarithm of the probability of every token of the vocabulary after each of the tokens.
pub fn logprobs(model: &Model, adapter: Option<&LoRAAdapter>, ids: &[u32]) -> Vec<Vec<f64>> {
    let logits = to_f64(&all_logits(model, ids, adapter));
    let rows = logits.chunks(logits.len() / ids.len());
    rows.map(|row| {
        let sum = row.iter().map(|x| x.exp()).sum::<f64>().ln();
        row.iter().map(|x| x - sum).collect()
    })
    .collect()
}

/// The summed negative log-likelihood of a sample's scored tokens, and their number.
pub fn nll(model: &Model, adapter: Option<&LoRAAdapter>, sample: &Sample) -> (f64, usize) {
    let logprobs = logprobs(model, adapter, &sample.input_ids);
    let scored = sample.scored.iter().cloned().flatten();
    let sum = scored.map(|i| -logprobs[i - 1][sample.input_ids[i] as usize]);
    (sum.sum(), sample.target_tokens())
}

/// The samples of a data set, two for a pair.
pub fn samples(rows: &Dataset) -> Vec<Sample> {
    let rows: Vec<_> = rows.rows().map(Result::unwrap).collect();
    rows.iter().flat_map(Row::samples).cloned().collect()
}
