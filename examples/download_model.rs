//! Downloads a model by its name on the Hugging Face hub, and says what it is.
//!
//! `cargo run --release --example download_model -- [OWNER/NAME[@REVISION]]`

use metal_candle::{Hub, ModelLoader, Result};
use std::io::Write;
use std::ops::ControlFlow;

fn main() -> Result<()> {
    let name = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "Qwen/Qwen2.5-Coder-0.5B".to_owned());
    let hub = Hub::new().with_progress(|progress| {
        let megabytes = |bytes| bytes / 1_000_000;
        print!(
            "\r{} of {} MB, {}\x1b[K",
            megabytes(progress.bytes),
            megabytes(progress.size),
            progress.file
        );
        match std::io::stdout().flush() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    let directory = hub.fetch(&name)?;
    println!("\r{}\x1b[K", directory.display());
    println!("{}", ModelLoader::new().load(&directory)?.summary());
    Ok(())
}
