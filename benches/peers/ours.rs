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
//! Where there are rounds the median counts; the first one warms up and does not. The clock is that of the wall
//! or, for one thread on a busy machine, the CPU time of the process.

use metal_candle::backend::{DTypePolicy, DeviceKind, memory, threads};
use metal_candle::checkpoint::GgufType;
use metal_candle::inference::BatchGenerator;
use metal_candle::training::Sample;
use metal_candle::{
    Dataset, GenerateOptions, Generator, LoRATrainer, Model, ModelLoader, TrainOptions,
};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::collections::HashMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

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

/// Seconds by the clock that was asked for.
fn now(arguments: &Arguments) -> Result<f64> {
    static START: OnceLock<Instant> = OnceLock::new();
    if arguments.get::<String>("clock")? == "wall" {
        return Ok(START.get_or_init(Instant::now).elapsed().as_secs_f64());
    }
    let used = getrusage(UsageWho::RUSAGE_SELF)?;
    let microseconds = used.user_time().num_microseconds() + used.system_time().num_microseconds();
    Ok(Duration::from_micros(microseconds.try_into()?).as_secs_f64())
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

/// Generates, and gives the seconds to the first token and the tokens per second after it.
fn generate(model: &Model, arguments: &Arguments, tokens: usize) -> Result<(f64, f64)> {
    let prompt = ids(0, arguments.get("prompt")?);
    let start = now(arguments)?;
    let mut first = None;
    let done = Generator::new(model).generate_from_ids(&prompt, &greedy(tokens), |_| {
        first.get_or_insert_with(|| now(arguments));
        ControlFlow::Continue(())
    })?;
    if done.tokens.len() != tokens {
        return Err(format!("{} tokens instead of {tokens}", done.tokens.len()).into());
    }
    let first = first.ok_or("no token")??;
    #[allow(clippy::cast_precision_loss, reason = "a small number")]
    Ok((
        first - start,
        (tokens - 1) as f64 / (now(arguments)? - first),
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
fn batch(model: &Model, arguments: &Arguments, texts: usize) -> Result<f64> {
    let (prompt, tokens) = (arguments.get("prompt")?, arguments.get("tokens")?);
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
            start = Some(now(arguments));
        }
        ControlFlow::Continue(())
    });
    let seconds = now(arguments)? - start.ok_or("a text did not begin")??;
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
        let start = now(arguments)?;
        trainer.step()?;
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        Ok((rows * length) as f64 / (now(arguments)? - start))
    })
}

fn measure(what: &str, arguments: &Arguments) -> Result<serde_json::Value> {
    threads::set_count(arguments.get("threads")?)?;
    let start = now(arguments)?;
    let model = load(arguments)?;
    let loaded = now(arguments)? - start;
    let rounds = arguments.get("rounds")?;
    let prompt: usize = arguments.get("prompt")?;
    let tokens = arguments.get("tokens")?;
    let mut found = match what {
        "decode" => {
            let rate = median(rounds, || Ok(generate(&model, arguments, tokens)?.1))?;
            serde_json::json!({ "tokens_per_second": rate })
        }
        "prefill" => {
            let seconds = median(rounds, || Ok(generate(&model, arguments, 1)?.0))?;
            #[allow(clippy::cast_precision_loss, reason = "a small number")]
            let rate = prompt as f64 / seconds;
            serde_json::json!({ "tokens_per_second": rate })
        }
        "start" => {
            let (first, _) = generate(&model, arguments, 1)?;
            serde_json::json!({ "load_s": loaded, "first_token_s": first })
        }
        "batch" => {
            let one = median(rounds, || batch(&model, arguments, 1))?;
            let texts: usize = arguments.get("texts")?;
            let many = median(rounds, || batch(&model, arguments, texts))?;
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
