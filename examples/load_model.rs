//! Loads a model and says what it is.
//!
//! `cargo run --release --example load_model -- [MODEL]`
//!
//! MODEL is a directory, or a name on the Hugging Face hub such as `Qwen/Qwen2.5-Coder-0.5B-Instruct`.

use metal_candle::backend::{device, memory};
use metal_candle::{ModelLoader, Result};

fn main() -> Result<()> {
    let path = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "assets/tiny-coder".to_owned());
    let model = ModelLoader::new().load(&path)?;
    println!("{path}: {}", model.summary());
    println!("device: {}", device::describe(model.device()));
    println!("ends of text: {:?}", model.eos_token_ids());
    let text = "fn main() {}";
    let ids = model.tokenizer()?.encode(text, true)?;
    println!("{text:?} is {ids:?}");
    println!(
        "resident memory: {} MB",
        memory::usage().current / 1_000_000
    );
    Ok(())
}
