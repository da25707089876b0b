//! Asks a model for JSON that a schema describes, several answers at once.
//!
//! `cargo run --release --example structured -- [PROMPT [MODEL]]`
//!
//! MODEL is a directory, or a name on the Hugging Face hub such as `Qwen/Qwen2.5-Coder-0.5B-Instruct`.

use metal_candle::inference::{BatchGenerator, Grammar};
use metal_candle::{GenerateOptions, ModelLoader, Result, SamplingOptions};
use serde_json::json;
use std::ops::ControlFlow;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let prompt = args
        .next()
        .unwrap_or_else(|| "// An item of a crate, as JSON:\n".to_owned());
    let path = args
        .next()
        .unwrap_or_else(|| "assets/tiny-coder".to_owned());

    let schema = json!({
        "type": "object",
        "properties": {
            "kind": {"enum": ["fn", "struct", "enum"]},
            "name": {"type": "string", "pattern": "^[a-z_]{1,12}$"},
        },
        "required": ["kind", "name"],
        "additionalProperties": false,
    });
    let model = ModelLoader::new().load(&path)?;
    let mut batch = BatchGenerator::new(&model, 4)?;
    for seed in 0..4 {
        let options = GenerateOptions {
            grammar: Some(Grammar::JsonSchema(schema.clone())),
            sampling: SamplingOptions {
                temperature: 0.8,
                seed,
                ..SamplingOptions::default()
            },
            ..GenerateOptions::default()
        };
        batch.push(&prompt, &options)?;
    }
    for (sequence, answer) in batch.run(|_| ControlFlow::Continue(())) {
        println!("{sequence}: {}", answer?.text);
    }
    Ok(())
}
