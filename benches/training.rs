//! LoRA steps of rank 8 on all projections at batch 4 × 256, their forward alone, and checkpoints.
//!
//! `cargo bench --bench training`. A step ends with the loss and the gradient norm on the host, the forward
//! with the loss: what a step takes beyond the forward is the backward and the optimizer. Checkpoints are of
//! a run with its optimizer; saving ends when they are in place.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use metal_candle::backend::{DTypePolicy, DeviceKind};
use metal_candle::training::Sample;
use metal_candle::{Dataset, LoRATrainer, Model, ModelLoader, TrainOptions};

const ROWS: usize = 4;
const LENGTH: u32 = 256;

fn model(dtype: &str) -> Model {
    ModelLoader::new()
        .with_device(DeviceKind::Cpu)
        .with_dtype(DTypePolicy::from_name(dtype).unwrap())
        .load("assets/tiny-coder")
        .unwrap()
}

fn rows(count: u32) -> Dataset {
    let row = |start: u32| {
        let ids = (0..LENGTH).map(|i| 100 + (start + i * 7) % 5000);
        Sample::new(ids.collect(), 0)
    };
    Dataset::from_samples((0..count).map(row).collect()).unwrap()
}

fn options(grad_checkpoint: bool) -> TrainOptions {
    TrainOptions {
        steps: usize::MAX,
        batch_size: ROWS,
        grad_checkpoint,
        ..TrainOptions::default()
    }
}

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("train");
    group.sample_size(10);
    group.throughput(Throughput::Elements(ROWS as u64 * u64::from(LENGTH)));
    for dtype in ["f32", "bf16"] {
        let model = model(dtype);
        for (name, grad_checkpoint) in [("step", false), ("step_checkpointing", true)] {
            let mut trainer =
                LoRATrainer::new(&model, rows(8), None, options(grad_checkpoint)).unwrap();
            group.bench_function(format!("{name}/{dtype}"), |b| {
                b.iter(|| trainer.step().unwrap());
            });
        }
        // Validation rows are as many as a batch has.
        let trainer = LoRATrainer::new(&model, rows(8), Some(rows(4)), options(false)).unwrap();
        group.bench_function(format!("forward/{dtype}"), |b| {
            b.iter(|| trainer.evaluate().unwrap().unwrap());
        });
    }
    group.finish();
}

fn checkpoints(c: &mut Criterion) {
    let mut group = c.benchmark_group("checkpoint");
    group.sample_size(10);
    let model = model("f32");
    let mut trainer = LoRATrainer::new(&model, rows(8), None, options(false)).unwrap();
    trainer.step().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    group.bench_function("save", |b| {
        b.iter(|| trainer.save_checkpoint(&path).unwrap());
    });
    group.bench_function("resume", |b| {
        b.iter(|| LoRATrainer::resume(&model, rows(8), None, options(false), &path).unwrap());
    });
    group.finish();
}

criterion_group!(benches, steps, checkpoints);
criterion_main!(benches);
