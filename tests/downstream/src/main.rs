//! ```text
//! downstream generate-tests FILE   [--model DIR] [--adapter DIR] [--max-tokens N]
//! downstream generate-docs FILE    [--model DIR] [--adapter DIR] [--max-tokens N]
//! downstream fine-tune DATA OUT    [--model DIR] [--steps N]
//! ```

use downstream::metal_candle::{Chunk, ModelLoader};
use downstream::{Assistant, fine_tune};
use std::error::Error;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What was given after the command.
struct Arguments {
    paths: Vec<PathBuf>,
    model: PathBuf,
    adapter: Option<PathBuf>,
    max_tokens: usize,
    steps: usize,
}

impl Arguments {
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut arguments = Self {
            paths: vec![],
            model: PathBuf::from("assets/tiny-coder"),
            adapter: None,
            max_tokens: 64,
            steps: 40,
        };
        while let Some(argument) = given.next() {
            if !argument.starts_with("--") {
                arguments.paths.push(argument.into());
                continue;
            }
            let value = given.next().ok_or(format!("{argument} needs a value"))?;
            match argument.as_str() {
                "--model" => arguments.model = value.into(),
                "--adapter" => arguments.adapter = Some(value.into()),
                "--max-tokens" => arguments.max_tokens = value.parse()?,
                "--steps" => arguments.steps = value.parse()?,
                _ => return Err(format!("{argument} is no option").into()),
            }
        }
        Ok(arguments)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut given = std::env::args().skip(1);
    let command = given.next().unwrap_or_default();
    let arguments = Arguments::parse(given)?;
    let model = ModelLoader::new().load(&arguments.model)?;
    match (command.as_str(), arguments.paths.as_slice()) {
        ("generate-tests" | "generate-docs", [file]) => {
            let code = std::fs::read_to_string(file)?;
            let adapter = arguments.adapter.as_deref();
            let mut assistant = Assistant::new(&model, adapter, arguments.max_tokens)?;
            let generation = if command == "generate-tests" {
                assistant.tests(&code, print)?
            } else {
                assistant.docs(&code, print)?
            };
            println!();
            eprintln!("{} tokens", generation.tokens.len());
        }
        ("fine-tune", [data, output]) => train(&model, data, output, arguments.steps)?,
        _ => {
            return Err(
                "expected generate-tests FILE, generate-docs FILE or fine-tune DATA OUT".into(),
            );
        }
    }
    Ok(())
}

/// Shows a piece of text as it comes.
fn print(chunk: &Chunk) -> ControlFlow<()> {
    print!("{}", chunk.text);
    match std::io::stdout().flush() {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

fn train(
    model: &downstream::metal_candle::Model,
    data: &Path,
    output: &Path,
    steps: usize,
) -> downstream::metal_candle::Result<()> {
    fine_tune(model, data, output.to_owned(), steps, |step, loss| {
        if step % 10 == 0 {
            println!("step {step}  loss {loss:.3}");
        }
    })
}
