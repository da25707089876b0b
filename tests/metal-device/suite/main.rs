//! What only a software device can show: its own checks, candle's traps, leaks, lost devices and counts.
//!
//! The tests change settings and read counters of the whole process, so one runs at a time.
#![cfg(all(feature = "metal", not(target_vendor = "apple")))]

mod checks;
mod counters;
mod decode;
mod failures;
mod leaks;
mod order;
mod traps;

use candle_core::{Device, Tensor};
use metal_candle::backend::{DTypePolicy, DeviceKind};
use metal_candle::training::Sample;
use metal_candle::{
    Dataset, GenerateOptions, Generator, LoRAConfig, LoRATrainer, Model, ModelLoader, Result,
    TrainEvent, TrainOptions,
};
use objc2::software::{Settings, settings};
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The device, for one test.
struct Exclusive {
    before: Settings,
    _turn: MutexGuard<'static, ()>,
}

fn exclusive() -> Exclusive {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Exclusive {
        before: settings().clone(),
        _turn: turn,
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        *settings() = self.before.clone();
    }
}

/// A device that no other test has.
fn metal() -> Device {
    Device::new_metal(0).unwrap()
}

/// A model of two layers, or another of the project's, on the device in f32.
fn model(path: &str) -> Model {
    ModelLoader::new()
        .with_device(DeviceKind::Metal)
        .with_dtype(DTypePolicy::F32)
        .load(path)
        .unwrap()
}

const TINY: &str = "tests/fixtures/models/qwen2_tied";

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

fn trainer(model: &Model, steps: usize) -> Result<LoRATrainer> {
    let sample = |row: u32| {
        let ids = (0..16).map(|place| (row * 31 + place * 7) % 190);
        Sample::new(ids.collect(), 0)
    };
    let rows = Dataset::from_samples((0..4).map(sample).collect()).unwrap();
    let options = TrainOptions {
        method: LoRAConfig {
            rank: 2,
            ..LoRAConfig::default()
        }
        .into(),
        steps,
        batch_size: 1,
        gradient_accumulation: 2,
        learning_rate: 5e-3,
        eval_every: 0,
        save_every: 0,
        ..TrainOptions::default()
    };
    LoRATrainer::new(model, rows, None, options)
}

/// What `read` gives at each token of a generation.
fn at_tokens<T>(model: &Model, prompt: &[u32], count: usize, read: impl Fn() -> T) -> Vec<T> {
    let mut seen = vec![];
    Generator::new(model)
        .generate_from_ids(prompt, &greedy(count), |_| {
            seen.push(read());
            ControlFlow::Continue(())
        })
        .unwrap();
    seen
}

/// What `read` gives after each step of a training run.
fn at_steps<T>(model: &Model, count: usize, read: impl Fn() -> T) -> Vec<T> {
    let mut seen = vec![];
    trainer(model, count)
        .unwrap()
        .train(|event| {
            if matches!(event, TrainEvent::Step(_)) {
                seen.push(read());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    seen
}

fn to_vec(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap();
    let tensor = tensor.to_dtype(candle_core::DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Numbers between -1 and 1, no two of 10,007 the same, on every device.
fn numbers(shape: &[usize], device: &Device) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values = (0..count).map(|index| (index * 7919 % 10_007) as f32 / 5003.5 - 1.0);
    Tensor::from_vec(values.collect(), shape, device).unwrap()
}
