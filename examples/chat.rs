//! A chat in the terminal, with a model that has a chat template.
//!
//! `cargo run --release --example chat -- [MODEL]`
//!
//! MODEL is a directory, or a name on the Hugging Face hub such as `Qwen/Qwen2.5-Coder-0.5B-Instruct`.

use metal_candle::models::ChatOptions;
use metal_candle::{GenerateOptions, Generator, ModelLoader, Result, SamplingOptions};
use serde_json::{Value, json};
use std::io::Write;
use std::ops::ControlFlow;

fn main() -> Result<()> {
    let path = std::env::args().nth(1);
    let model = ModelLoader::new().load(path.as_deref().unwrap_or("assets/tiny-coder"))?;
    let mut generator = Generator::new(&model);
    let options = GenerateOptions {
        sampling: SamplingOptions {
            temperature: 0.7,
            top_p: 0.9,
            ..SamplingOptions::default()
        },
        ..GenerateOptions::default()
    };
    let mut messages: Vec<Value> = vec![];
    for line in std::io::stdin().lines().map_while(std::result::Result::ok) {
        messages.push(json!({"role": "user", "content": line}));
        let chat = ChatOptions::default();
        let answer = generator.chat(&json!(messages), &chat, &options, |chunk| {
            print!("{}", chunk.text);
            match std::io::stdout().flush() {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        println!("\n[{} tokens known]", answer.cached_tokens);
        messages.push(json!({"role": "assistant", "content": answer.text}));
    }
    Ok(())
}
