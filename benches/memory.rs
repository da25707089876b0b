//! Peak memory of training at batch 8 × 512, with and without gradient checkpointing.
//!
//! `cargo bench --bench memory`. The peak of a process never falls, so each case runs in a process
//! of its own.

use metal_candle::backend::memory;
use metal_candle::training::Sample;
use metal_candle::{Dataset, LoRATrainer, ModelLoader, TrainOptions};
use std::process::Command;

const CASE: &str = "METAL_CANDLE_MEMORY_CASE";

/// Trains two steps; gives the peak before them and after them, in bytes.
fn measure(grad_checkpoint: bool) -> (u64, u64) {
    let model = ModelLoader::new().load("assets/tiny-coder").unwrap();
    let row = |start: u32| {
        let ids = (0..512).map(|i| 100 + (start + i * 7) % 5000);
        Sample::new(ids.collect(), 0)
    };
    let options = TrainOptions {
        batch_size: 8,
        grad_checkpoint,
        ..TrainOptions::default()
    };
    let rows = Dataset::from_samples((0..8).map(row).collect()).unwrap();
    let mut trainer = LoRATrainer::new(&model, rows, None, options).unwrap();
    let before = memory::usage().peak;
    trainer.step().unwrap();
    trainer.step().unwrap();
    (before, memory::usage().peak)
}

fn main() {
    if let Ok(case) = std::env::var(CASE) {
        let (before, after) = measure(case == "grad_checkpoint");
        println!(
            "{case}: {} MB loaded, {} MB at the peak",
            before / 1_000_000,
            after / 1_000_000
        );
        return;
    }
    let program = std::env::current_exe().unwrap();
    for case in ["plain", "grad_checkpoint"] {
        let status = Command::new(&program).env(CASE, case).status().unwrap();
        assert!(status.success(), "{case} failed");
    }
}
