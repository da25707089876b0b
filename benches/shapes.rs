//! Prefill, decoding and training of a model that has the shape of a real one and random weights.
//!
//! `cargo bench --bench shapes -- SHAPE DEVICE DTYPE`, where SHAPE is `0.5b` (Qwen2.5-Coder-0.5B) or `7b`.
//! Speed does not depend on what weights are, so nothing is downloaded. Every measurement ends with
//! numbers on the host.

use candle_core::{DType, Device, Tensor};
use metal_candle::backend::{DTypePolicy, DeviceKind};
use metal_candle::training::Sample;
use metal_candle::{
    Dataset, GenerateOptions, Generator, LoRATrainer, Model, ModelLoader, TrainOptions,
};
use std::collections::HashMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

struct Shape {
    name: &'static str,
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    tied: bool,
    vocab: usize,
}

const SHAPES: [Shape; 2] = [
    Shape {
        name: "0.5b",
        layers: 24,
        hidden: 896,
        intermediate: 4864,
        heads: 14,
        kv_heads: 2,
        tied: true,
        vocab: 151_936,
    },
    Shape {
        name: "7b",
        layers: 28,
        hidden: 3584,
        intermediate: 18944,
        heads: 28,
        kv_heads: 4,
        tied: false,
        vocab: 152_064,
    },
];

/// Writes a checkpoint of the shape. Weights are small, so that no number overflows.
fn write(shape: &Shape, folder: &Path) -> Result<(), Box<dyn Error>> {
    let head_dim = shape.hidden / shape.heads;
    let kv = shape.kv_heads * head_dim;
    let random = |rows: usize, columns: usize| {
        Tensor::randn(0f32, 0.02, (rows, columns), &Device::Cpu)?.to_dtype(DType::BF16)
    };
    let one = |n: usize| Tensor::ones(n, DType::BF16, &Device::Cpu);
    let mut weights = HashMap::new();
    weights.insert(
        "model.embed_tokens.weight".to_owned(),
        random(shape.vocab, shape.hidden)?,
    );
    weights.insert("model.norm.weight".to_owned(), one(shape.hidden)?);
    if !shape.tied {
        weights.insert(
            "lm_head.weight".to_owned(),
            random(shape.vocab, shape.hidden)?,
        );
    }
    for layer in 0..shape.layers {
        let mut put = |name: &str, tensor| {
            weights.insert(format!("model.layers.{layer}.{name}"), tensor);
        };
        put("input_layernorm.weight", one(shape.hidden)?);
        put("post_attention_layernorm.weight", one(shape.hidden)?);
        put(
            "self_attn.q_proj.weight",
            random(shape.hidden, shape.hidden)?,
        );
        put("self_attn.q_proj.bias", one(shape.hidden)?);
        put("self_attn.k_proj.weight", random(kv, shape.hidden)?);
        put("self_attn.k_proj.bias", one(kv)?);
        put("self_attn.v_proj.weight", random(kv, shape.hidden)?);
        put("self_attn.v_proj.bias", one(kv)?);
        put(
            "self_attn.o_proj.weight",
            random(shape.hidden, shape.hidden)?,
        );
        put(
            "mlp.gate_proj.weight",
            random(shape.intermediate, shape.hidden)?,
        );
        put(
            "mlp.up_proj.weight",
            random(shape.intermediate, shape.hidden)?,
        );
        put(
            "mlp.down_proj.weight",
            random(shape.hidden, shape.intermediate)?,
        );
    }
    candle_core::safetensors::save(&weights, folder.join("model.safetensors"))?;
    let config = serde_json::json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
        "hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocab,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0,
        "tie_word_embeddings": shape.tied, "torch_dtype": "bfloat16",
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(Path::new("assets/tiny-coder").join(file), folder.join(file))?;
    }
    Ok(())
}

fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|i| 100 + i * 7 % 5000).collect()
}

fn report(what: &str, tokens: f64, mut seconds: Vec<f64>) {
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    println!(
        "{what}: {:.1} tokens/s ({:.3} ms; {:.3} to {:.3} ms in {} runs)",
        tokens / median,
        median * 1e3,
        seconds[0] * 1e3,
        seconds[seconds.len() - 1] * 1e3,
        seconds.len(),
    );
}

fn generation(
    model: &Model,
    prompt: &[u32],
    max_tokens: usize,
) -> Result<(f64, f64), Box<dyn Error>> {
    let options = GenerateOptions {
        max_tokens,
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let mut generator = Generator::new(model);
    let done = generator.generate_from_ids(prompt, &options, |_| ControlFlow::Continue(()))?;
    Ok((
        done.time_to_first_token.as_secs_f64(),
        1.0 / done.tokens_per_second,
    ))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let get = |index: usize, or: &str| {
        arguments
            .get(index)
            .cloned()
            .unwrap_or_else(|| or.to_owned())
    };
    let name = get(0, "0.5b");
    let shape = SHAPES
        .iter()
        .find(|shape| shape.name == name)
        .ok_or("SHAPE is 0.5b or 7b")?;
    let folder = tempfile::tempdir()?;
    let start = Instant::now();
    write(shape, folder.path())?;
    println!("written in {:.1} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let model = ModelLoader::new()
        .with_device(DeviceKind::from_name(&get(1, "auto"))?)
        .with_dtype(DTypePolicy::from_name(&get(2, "auto"))?)
        .load(folder.path())?;
    println!("loaded in {:.2} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    generation(&model, &ids(512), 8)?;
    println!("first run {:.2} s", start.elapsed().as_secs_f64());

    let mut cache = model.decoder().new_cache();
    let prompt = Tensor::new(&ids(512)[..], model.device())?.unsqueeze(0)?;
    model.decoder().forward(&prompt, Some(&mut cache), None)?;
    let token = Tensor::new(&[[100u32]], model.device())?;
    let (mut forward, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        cache.truncate(512);
        let start = Instant::now();
        let hidden = model.decoder().forward(&token, Some(&mut cache), None)?;
        forward.push(start.elapsed().as_secs_f64());
        model
            .decoder()
            .logits(&hidden.flatten_to(1)?)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        whole.push(start.elapsed().as_secs_f64());
    }
    report("layers of a token", 1.0, forward);
    report("with its logits on the host", 1.0, whole);

    let mut prefill = Vec::new();
    let mut decode = Vec::new();
    for _ in 0..5 {
        let (first, token) = generation(&model, &ids(512), 128)?;
        prefill.push(first);
        decode.push(token);
    }
    report("prefill of 512", 512.0, prefill);
    report("decoding after 512", 1.0, decode);

    for grad_checkpoint in [false, true] {
        let rows = (0..16).map(|row| {
            Sample::new(
                (0..512).map(|i| 100 + (row * 31 + i * 7) % 5000).collect(),
                0,
            )
        });
        let options = TrainOptions {
            steps: usize::MAX,
            batch_size: 4,
            grad_checkpoint,
            ..TrainOptions::default()
        };
        let mut trainer = LoRATrainer::new(
            &model,
            Dataset::from_samples(rows.collect())?,
            None,
            options,
        )?;
        trainer.step()?;
        let mut seconds = Vec::new();
        for _ in 0..8 {
            let start = Instant::now();
            trainer.step()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        report(
            if grad_checkpoint {
                "training, 4 x 512, checkpointing"
            } else {
                "training, 4 x 512"
            },
            2048.0,
            seconds,
        );
    }
    Ok(())
}
