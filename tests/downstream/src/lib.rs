//! A code assistant in one binary: it writes tests and documentation for a source file, and learns
//! from examples how they should look.

pub use metal_candle;

use metal_candle::models::{ChatOptions, FimContext};
use metal_candle::{
    Chunk, Dataset, DatasetOptions, GenerateOptions, Generation, Generator, LoRAAdapter,
    LoRAConfig, LoRAScale, LoRATrainer, Model, Result, TrainEvent, TrainOptions,
};
use serde_json::json;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Writes tests and documentation with a model, as an adapter has taught it if there is one.
pub struct Assistant {
    generator: Generator,
    options: GenerateOptions,
}

impl Assistant {
    pub fn new(model: &Model, adapter: Option<&Path>, max_tokens: usize) -> Result<Self> {
        let mut generator = Generator::new(model);
        if let Some(directory) = adapter {
            generator.set_adapter(Some(LoRAAdapter::load(directory, model)?))?;
        }
        let options = GenerateOptions {
            max_tokens,
            ..GenerateOptions::default()
        };
        Ok(Self { generator, options })
    }

    /// Asks for tests of the code, as a user asks in a chat.
    pub fn tests(
        &mut self,
        code: &str,
        on_chunk: impl FnMut(&Chunk) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let request = format!("Write unit tests for this code.\n\n```\n{code}\n```");
        let messages = json!([
            {"role": "system", "content": "You write tests. Answer with code only."},
            {"role": "user", "content": request},
        ]);
        self.generator
            .chat(&messages, &ChatOptions::default(), &self.options, on_chunk)
    }

    /// Fills in a comment before the first public function of the code.
    pub fn docs(
        &mut self,
        code: &str,
        on_chunk: impl FnMut(&Chunk) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let start = code.find("pub fn").unwrap_or(0);
        let (before, function) = code.split_at(start);
        let context = FimContext::default();
        self.generator
            .complete(before, function, &context, &self.options, on_chunk)
    }
}

/// Trains an adapter on the rows of a JSONL file and leaves it in `output`; `report` gets each step
/// with its loss.
pub fn fine_tune(
    model: &Model,
    data: &Path,
    output: PathBuf,
    steps: usize,
    mut report: impl FnMut(usize, f64),
) -> Result<()> {
    let rows = Dataset::from_jsonl(data, model, &DatasetOptions::default())?;
    let lora = LoRAConfig {
        rank: 8,
        scale: LoRAScale::Alpha(16.0),
        ..LoRAConfig::default()
    };
    let options = TrainOptions {
        method: lora.into(),
        steps,
        learning_rate: 4e-3,
        save_every: 0,
        output_dir: Some(output),
        ..TrainOptions::default()
    };
    let mut trainer = LoRATrainer::new(model, rows, None, options)?;
    trainer.train(|event| {
        if let TrainEvent::Step(step) = event {
            report(step.step, step.loss);
        }
        ControlFlow::Continue(())
    })?;
    Ok(())
}
