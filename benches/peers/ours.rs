//! This library's side of the comparison with other programs; `run.sh` beside it starts it.
//!
//! `peers save FORMAT FROM TO` makes the files that all programs read. Everything else is one measurement in
//! this process, given as one line of JSON:
//!
//! - `decode`: tokens per second after a prompt, one at a time, each chosen greedily, through
//!   [`Generator`], so with its log-probability, its text and the callback.
//! - `prefill`: tokens per second of a prompt, to the choice of the first token.
//! - `start`: seconds to load, and from there to the first token of a first prompt.
//! - `batch`: tokens per second of eight texts at once and of one, without their prompts.
//! - `train`: tokens per second of LoRA steps, and the peak of resident memory.
//!
//! Where there are rounds the median counts; the first one warms up and does not.

use metal_candle::backend::{DTypePolicy, DeviceKind, memory, threads};
use metal_candle::checkpoint::GgufType;
use metal_candle::inference::BatchGenerator;
use metal_candle::training::Sample;
use metal_candle::{
    Dataset, GenerateOptions, Generator, LoRATrainer, Model, ModelLoader, TrainOptions,
};
use std::collections::HashMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The arguments `--name value`.
struct Arguments(HashMap<String, String>);

impl Arguments {
    fn parse(arguments: &[String]) -> Result<Self> {
        let pair = |pair: &[String]| match pair {
            [name, value] if name.starts_with("--") => Ok((name[2..].to_owned(), value.clone())),
            other => Err(format!("expected --name value, found {other:?}")),
        };
        Ok(Self(
            arguments
                .chunks(2)
                .map(pair)
                .collect::<std::result::Result<_, _>>()?,
        ))
    }

    fn get<T: FromStr>(&self, name: &str) -> Result<T> {
        let value = self
            .0
            .get(name)
            .ok_or_else(|| format!("--{name} is missing"))?;
        value
            .parse()
            .map_err(|_| format!("--{name} {value}").into())
    }
}

fn load(arguments: &Arguments) -> Result<Model> {
    let loader = ModelLoader::new()
        .with_device(DeviceKind::from_name(&arguments.get::<String>("device")?)?)
        .with_dtype(DTypePolicy::from_name(&arguments.get::<String>("dtype")?)?);
    Ok(loader.load(arguments.get::<String>("model")?)?)
}

/// The ids that every program reads: of the vocabulary, and none of them special.
fn ids(start: usize, count: usize) -> Vec<u32> {
    let id = |i: usize| u32::try_from(100 + (start * 31 + i * 7) % 5000);
    (0..count).map(|i| id(i).unwrap_or_default()).collect()
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

/// Seconds to the first token, and tokens per second after it.
fn generate(model: &Model, prompt: usize, tokens: usize) -> Result<(f64, f64)> {
    let mut generator = Generator::new(model);
    let done = generator.generate_from_ids(&ids(0, prompt), &greedy(tokens), |_| {
        ControlFlow::Continue(())
    })?;
    if done.tokens.len() != tokens {
        return Err(format!("{} tokens instead of {tokens}", done.tokens.len()).into());
    }
    Ok((
        done.time_to_first_token.as_secs_f64(),
        done.tokens_per_second,
    ))
}

/// The median of what `rounds` calls give after a first one.
fn median(rounds: usize, mut call: impl FnMut() -> Result<f64>) -> Result<f64> {
    call()?;
    let mut values = (0..rounds).map(|_| call()).collect::<Result<Vec<_>>>()?;
    values.sort_by(f64::total_cmp);
    values
        .get(rounds / 2)
        .copied()
        .ok_or_else(|| "no round".into())
}

/// Tokens per second of so many texts at once, from the first token of the last of them on.
fn batch(model: &Model, texts: usize, prompt: usize, tokens: usize) -> Result<f64> {
    let mut batch = BatchGenerator::new(model, texts)?;
    for text in 0..texts {
        batch.push_ids(&ids(text, prompt), &greedy(tokens))?;
    }
    let (mut begun, mut start, mut timed) = (0, None, 0usize);
    let results = batch.run(|chunk| {
        if start.is_some() {
            timed += 1;
        }
        begun += usize::from(chunk.index == 0);
        if begun == texts && start.is_none() {
            start = Some(Instant::now());
        }
        ControlFlow::Continue(())
    });
    let seconds = start.ok_or("a text did not begin")?.elapsed().as_secs_f64();
    for (_, result) in results {
        result?;
    }
    #[allow(clippy::cast_precision_loss, reason = "a small number")]
    Ok(timed as f64 / seconds)
}

/// Tokens per second of LoRA steps of rank 8 on all projections.
fn train(model: &Model, arguments: &Arguments) -> Result<f64> {
    let (rows, length) = (arguments.get("rows")?, arguments.get("length")?);
    let samples = (0..2 * rows).map(|row| Sample::new(ids(row, length), 0));
    let options = TrainOptions {
        steps: usize::MAX,
        batch_size: rows,
        grad_checkpoint: arguments.get("checkpointing")?,
        ..TrainOptions::default()
    };
    let data = Dataset::from_samples(samples.collect())?;
    let mut trainer = LoRATrainer::new(model, data, None, options)?;
    median(arguments.get("rounds")?, || {
        let start = Instant::now();
        trainer.step()?;
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        Ok((rows * length) as f64 / start.elapsed().as_secs_f64())
    })
}

fn measure(what: &str, arguments: &Arguments) -> Result<serde_json::Value> {
    threads::set_count(arguments.get("threads")?)?;
    let start = Instant::now();
    let model = load(arguments)?;
    let loaded = start.elapsed().as_secs_f64();
    let rounds = arguments.get("rounds")?;
    let prompt = arguments.get("prompt")?;
    let tokens = arguments.get("tokens")?;
    let mut found = match what {
        "decode" => {
            let rate = median(rounds, || Ok(generate(&model, prompt, tokens)?.1))?;
            serde_json::json!({ "tokens_per_second": rate })
        }
        "prefill" => {
            let seconds = median(rounds, || Ok(generate(&model, prompt, 1)?.0))?;
            #[allow(clippy::cast_precision_loss, reason = "a small number")]
            let rate = prompt as f64 / seconds;
            serde_json::json!({ "tokens_per_second": rate })
        }
        "start" => {
            let start = Instant::now();
            generate(&model, prompt, 1)?;
            serde_json::json!({ "load_s": loaded, "first_token_s": start.elapsed().as_secs_f64() })
        }
        "batch" => {
            let one = median(rounds, || batch(&model, 1, prompt, tokens))?;
            let texts: usize = arguments.get("texts")?;
            let many = median(rounds, || batch(&model, texts, prompt, tokens))?;
            serde_json::json!({ "tokens_per_second": many, "one": one })
        }
        "train" => serde_json::json!({ "tokens_per_second": train(&model, arguments)? }),
        other => return Err(format!("no measure {other}").into()),
    };
    found["peak_bytes"] = memory::usage().peak.into();
    Ok(found)
}

/// Writes the model as a directory in a dtype, or as a GGUF file.
fn save(format: &str, from: &str, to: &str) -> Result<()> {
    let loader = ModelLoader::new().with_device(DeviceKind::Cpu);
    match GgufType::from_name(format) {
        Ok(kind) => loader
            .with_dtype(DTypePolicy::F32)
            .load(from)?
            .save_gguf(to, kind)?,
        Err(_) => loader
            .with_dtype(DTypePolicy::from_name(format)?)
            .load(from)?
            .save(to)?,
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [save_, format, from, to] if save_ == "save" => save(format, from, to),
        [what, rest @ ..] => {
            println!("{}", measure(what, &Arguments::parse(rest)?)?);
            Ok(())
        }
        [] => Err("expected what to measure".into()),
    }
}
