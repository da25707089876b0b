//! Streams a completion.
//!
//! `cargo run --release --example inference -- [PROMPT [MODEL [ADAPTER_DIR]]]`
//!
//! MODEL is a directory, or a name on the Hugging Face hub such as `Qwen/Qwen2.5-Coder-0.5B-Instruct`.

use metal_candle::{GenerateOptions, Generator, LoRAAdapter, ModelLoader, Result, SamplingOptions};
use std::io::Write;
use std::ops::ControlFlow;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let prompt = args
        .next()
        .unwrap_or_else(|| "pub fn max(a: i32, b: i32) -> i32 {\n".to_owned());
    let path = args
        .next()
        .unwrap_or_else(|| "assets/tiny-coder".to_owned());

    let model = ModelLoader::new().load(&path)?;
    let mut generator = Generator::new(&model);
    if let Some(adapter) = args.next() {
        generator.set_adapter(Some(LoRAAdapter::load(adapter, &model)?))?;
    }
    let options = GenerateOptions {
        max_tokens: 64,
        sampling: SamplingOptions {
            temperature: 0.2,
            top_p: 0.95,
            ..SamplingOptions::default()
        },
        ..GenerateOptions::default()
    };
    print!("{prompt}");
    let generation = generator.generate(&prompt, &options, |chunk| {
        print!("{}", chunk.text);
        match std::io::stdout().flush() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    println!(
        "\n\n{} + {} tokens, first after {:?}, {:.1} tokens/s, {:?}",
        generation.prompt_tokens,
        generation.tokens.len(),
        generation.time_to_first_token,
        generation.tokens_per_second,
        generation.finish_reason,
    );
    Ok(())
}
