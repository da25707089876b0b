//! How the cost of a token grows with its context, that of training with the length of rows, and memory with
//! the size of the model; `run.sh` beside it draws what this prints, which is JSON.
//!
//! Models have random weights, of which speed does not depend. Times are medians, and end with numbers on
//! the host. The peak of a process never falls, so each model has one of its own.

use candle_core::{DType, Device, Tensor};
use metal_candle::backend::{DTypePolicy, DeviceKind, memory};
use metal_candle::models::{KvCache, ModelConfig};
use metal_candle::training::Sample;
use metal_candle::{Dataset, LoRATrainer, Model, ModelLoader, TrainOptions};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PART: &str = "METAL_CANDLE_SCALING_PART";
const CONTEXT: usize = 8192;
const CHUNK: usize = 512;
/// Hidden size and layers, from 3 to 150 million parameters.
const SHAPES: [(usize, usize); 5] = [(128, 4), (256, 6), (384, 12), (640, 20), (768, 20)];
/// The shape of which the times are.
const TIMED: (usize, usize) = (384, 12);

fn write((hidden, layers): (usize, usize), folder: &Path) -> Result<()> {
    let config = json!({
        "model_type": "llama", "vocab_size": 16_384, "hidden_size": hidden, "intermediate_size": 3 * hidden,
        "num_attention_heads": hidden / 64, "num_key_value_heads": hidden / 128, "num_hidden_layers": layers,
        "max_position_embeddings": 2 * CONTEXT, "tie_word_embeddings": true, "torch_dtype": "float32",
    });
    let path = folder.join("config.json");
    std::fs::write(&path, config.to_string())?;
    let tensors = ModelConfig::from_file(&path)?.tensors().into_iter();
    let weights = tensors.map(|spec| {
        let weight = Tensor::randn(0f32, 0.02, spec.shape, &Device::Cpu)?;
        Ok((spec.name, weight.to_dtype(DType::F32)?))
    });
    let weights = weights.collect::<Result<HashMap<_, _>>>()?;
    candle_core::safetensors::save(&weights, folder.join("model.safetensors"))?;
    Ok(())
}

fn load(folder: &Path) -> Result<Model> {
    let loader = ModelLoader::new().with_device(DeviceKind::Cpu);
    Ok(loader.with_dtype(DTypePolicy::F32).load(folder)?)
}

/// Logits on the host after so many tokens more.
fn step(model: &Model, count: usize, cache: &mut KvCache) -> Result<()> {
    let ids: Vec<u32> = (100..5000).cycle().take(count).collect();
    let ids = Tensor::new(ids, model.device())?.unsqueeze(0)?;
    let hidden = model.decoder().forward(&ids, Some(cache), None)?;
    let last = hidden.narrow(1, count - 1, 1)?.flatten_to(1)?;
    model.decoder().logits(&last)?.to_vec2::<f32>()?;
    Ok(())
}

/// The median seconds of a call, after one that warms up.
fn median(rounds: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    call()?;
    let mut seconds = vec![];
    for _ in 0..rounds {
        let start = Instant::now();
        call()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[rounds / 2])
}

/// Seconds of one token by the length of its context.
fn decode(model: &Model) -> Result<Value> {
    let mut cache = model.decoder().new_cache();
    cache.reserve(CONTEXT + 1);
    for _ in 0..CONTEXT / CHUNK {
        step(model, CHUNK, &mut cache)?;
    }
    let mut points = vec![];
    // From the longest down, since what is cut off is gone.
    let contexts = [64, 128, 256, 512, 1024, 2048, 4096, CONTEXT];
    for context in contexts.into_iter().rev() {
        let seconds = median(15, || {
            cache.truncate(context);
            step(model, 1, &mut cache)
        })?;
        points.push(json!([context, seconds]));
    }
    points.reverse();
    Ok(points.into())
}

fn trainer(model: &Model, length: usize) -> Result<LoRATrainer> {
    let row = |start| Sample::new((start..5000).cycle().take(length).collect(), 0);
    let options = TrainOptions {
        steps: usize::MAX,
        batch_size: 1,
        ..TrainOptions::default()
    };
    let rows = Dataset::from_samples((100..104).map(row).collect())?;
    Ok(LoRATrainer::new(model, rows, None, options)?)
}

/// Seconds of a LoRA step by the length of its one row.
fn train(model: &Model) -> Result<Value> {
    let mut points = vec![];
    for length in [64, 128, 256, 512, 1024, 2048] {
        let mut trainer = trainer(model, length)?;
        let seconds = median(3, || Ok(trainer.step().map(drop)?))?;
        points.push(json!([length, seconds]));
    }
    Ok(points.into())
}

/// Parameters, bytes at the peak of generating and of training, and seconds of a token, of a prompt and of
/// a step.
fn size(folder: &Path) -> Result<Value> {
    let before = memory::usage().peak;
    let model = load(folder)?;
    let mut cache = model.decoder().new_cache();
    let prompt = median(3, || {
        cache.truncate(0);
        step(&model, CHUNK, &mut cache)
    })?;
    let token = median(15, || {
        cache.truncate(64);
        step(&model, 1, &mut cache)
    })?;
    let generating = memory::usage().peak - before;
    let mut trainer = trainer(&model, CHUNK)?;
    let learning = median(3, || Ok(trainer.step().map(drop)?))?;
    let config = model.config();
    let shape = json!({
        "name": "measured", "layers": config.num_hidden_layers, "hidden": config.hidden_size,
        "intermediate": config.intermediate_size, "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads, "head_dim": config.head_dim, "vocabulary": config.vocab_size,
    });
    Ok(json!({
        "shape": shape, "parameters": model.parameter_count(), "generating": generating,
        "training": memory::usage().peak - before, "token": token, "prompt": prompt, "step": learning,
    }))
}

/// Runs a part in a process of its own.
fn part(name: &str, folder: &Path) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    let done = command.env(PART, name).arg(folder).output()?;
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into());
    }
    Ok(serde_json::from_slice(&done.stdout)?)
}

fn run_part(name: &str) -> Result<Value> {
    let folder = std::env::args().nth(1).ok_or("expected a folder")?;
    let folder = Path::new(&folder);
    match name {
        "size" => size(folder),
        "train" => train(&load(folder)?),
        _ => decode(&load(folder)?),
    }
}

fn main() -> Result<()> {
    if let Ok(name) = std::env::var(PART) {
        println!("{}", run_part(&name)?);
        return Ok(());
    }
    // Written by this process while the parts run in others: their peaks do not have it.
    let (mut sizes, mut times) = (vec![], json!({}));
    for shape in SHAPES {
        let folder = tempfile::tempdir()?;
        write(shape, folder.path())?;
        sizes.push(part("size", folder.path())?);
        if shape == TIMED {
            times = json!({
                "decode": part("decode", folder.path())?, "train": part("train", folder.path())?,
            });
        }
    }
    times["sizes"] = sizes.into();
    times["prompt_tokens"] = CHUNK.into();
    println!("{times}");
    Ok(())
}
