//! One LoRA step, rank 8 on all projections, at batch 4 × 256, with and without gradient
//! checkpointing.
//!
//! `cargo bench --bench training`. A step ends with the loss and the gradient norm on the host.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use metal_candle::training::Sample;
use metal_candle::{Dataset, LoRATrainer, ModelLoader, TrainOptions};

const ROWS: usize = 4;
const LENGTH: u32 = 256;

fn train_step(c: &mut Criterion) {
    let model = ModelLoader::new().load("assets/tiny-coder").unwrap();
    let row = |start: u32| {
        let ids = (0..LENGTH).map(|i| 100 + (start + i * 7) % 5000);
        Sample::new(ids.collect(), 0)
    };
    let rows: Vec<_> = (0..8).map(row).collect();
    let mut group = c.benchmark_group("train_step");
    group.sample_size(10);
    group.throughput(Throughput::Elements(ROWS as u64 * u64::from(LENGTH)));
    for (name, grad_checkpoint) in [("plain", false), ("grad_checkpoint", true)] {
        let options = TrainOptions {
            steps: usize::MAX,
            batch_size: ROWS,
            grad_checkpoint,
            ..TrainOptions::default()
        };
        let rows = Dataset::from_samples(rows.clone()).unwrap();
        let mut trainer = LoRATrainer::new(&model, rows, None, options).unwrap();
        group.bench_function(name, |b| b.iter(|| trainer.step().unwrap()));
    }
    group.finish();
}

criterion_group!(benches, train_step);
criterion_main!(benches);
