//! Fine-tunes a model with LoRA, and goes on where an earlier run was stopped.
//!
//! `cargo run --release --example train_lora -- [DATA_DIR [OUTPUT_DIR [MODEL]]]`
//!
//! MODEL is a directory, or a name on the Hugging Face hub such as `Qwen/Qwen2.5-Coder-0.5B-Instruct`.

use metal_candle::training::LrSchedule;
use metal_candle::{
    DataFolder, DatasetOptions, LoRATrainer, ModelLoader, Result, TrainEvent, TrainOptions,
    checkpoint,
};
use std::ops::ControlFlow;
use std::path::PathBuf;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let data = PathBuf::from(args.next().unwrap_or_else(|| "assets/sql".to_owned()));
    let output = PathBuf::from(
        args.next()
            .unwrap_or_else(|| "target/sql-adapter".to_owned()),
    );
    let path = args
        .next()
        .unwrap_or_else(|| "assets/tiny-coder".to_owned());

    let model = ModelLoader::new().load(&path)?;
    println!("{}", model.summary());
    let data = DataFolder::open(&data, &model, &DatasetOptions::default())?;
    let options = TrainOptions {
        steps: 250,
        batch_size: 8,
        learning_rate: 4e-3,
        schedule: LrSchedule::Cosine,
        warmup_steps: 10,
        eval_every: 50,
        save_every: 50,
        output_dir: Some(output.clone()),
        ..TrainOptions::default()
    };
    let mut trainer = match checkpoint::latest(&output)? {
        Some(checkpoint) => {
            println!("resuming from {}", checkpoint.display());
            LoRATrainer::resume(&model, data.train, data.validation, options, &checkpoint)?
        }
        None => LoRATrainer::new(&model, data.train, data.validation, options)?,
    };
    let summary = trainer.train(|event| {
        match event {
            TrainEvent::Step(step) if step.step % 10 == 0 => println!(
                "{:4}/{}  loss {:.4}  {:.0} tokens/s  {:.0?} left",
                step.step, step.total_steps, step.loss, step.tokens_per_second, step.remaining
            ),
            TrainEvent::Evaluation { step, loss, .. } => {
                println!("{step:4}  validation loss {loss:.4}");
            }
            TrainEvent::Checkpoint { path, .. } => println!("      {}", path.display()),
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    println!(
        "{} steps in {:.1?}; adapter in {}",
        summary.steps,
        summary.elapsed,
        output.display()
    );
    Ok(())
}
