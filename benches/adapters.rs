//! What adapters cost in generation: the time of one token with them, divided by that without.
//!
//! `cargo bench --bench adapters [-- MODEL_DIR]`. Plain and adapted steps alternate, so that whatever
//! else the machine does meets both; every step ends with its logits on the host.

use candle_core::Tensor;
use metal_candle::models::KvCache;
use metal_candle::{LoRAAdapter, LoRAConfig, Model, ModelLoader};
use std::time::{Duration, Instant};

const CONTEXT: usize = 128;
const ROUNDS: usize = 400;

/// The time of one token after [`CONTEXT`] others.
fn step(model: &Model, cache: &mut KvCache, adapter: Option<&LoRAAdapter>) -> Duration {
    let token = Tensor::new(&[[100u32]], model.device()).unwrap();
    cache.truncate(CONTEXT);
    let start = Instant::now();
    let decoder = model.decoder();
    let hidden = decoder.forward(&token, Some(cache), adapter).unwrap();
    let logits = decoder.logits(&hidden.flatten_to(1).unwrap()).unwrap();
    let logits: Vec<Vec<f32>> = logits.to_vec2().unwrap();
    assert!(logits[0][0].is_finite());
    start.elapsed()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let path = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let path = path.unwrap_or_else(|| "assets/tiny-coder".to_owned());
    let model = ModelLoader::new().load(&path).unwrap();
    println!("{path}: {}", model.summary());
    let tokens: Vec<u32> = (0..128).map(|i| 100 + i * 7 % 5000).collect();
    let tokens = Tensor::new(&tokens[..], model.device()).unwrap();
    let tokens = tokens.unsqueeze(0).unwrap();
    for (name, rank, use_dora) in [
        ("LoRA, rank 8", 8, false),
        ("LoRA, rank 16", 16, false),
        ("LoRA, rank 64", 64, false),
        ("DoRA, rank 8", 8, true),
    ] {
        let config = LoRAConfig {
            rank,
            use_dora,
            ..LoRAConfig::default()
        };
        let adapter = LoRAAdapter::new(config, &model, 0).unwrap();
        let mut cache = model.decoder().new_cache();
        cache.reserve(CONTEXT + 1);
        let decoder = model.decoder();
        decoder.forward(&tokens, Some(&mut cache), None).unwrap();
        let (mut plain, mut changed) = (vec![], vec![]);
        for round in 0..ROUNDS {
            let without = step(&model, &mut cache, None);
            let with = step(&model, &mut cache, Some(&adapter));
            // The first ones warm the caches.
            if round >= ROUNDS / 10 {
                plain.push(without.as_secs_f64());
                changed.push(with.as_secs_f64());
            }
        }
        let ratios = plain.iter().zip(&changed).map(|(a, b)| b / a).collect();
        println!(
            "{name}: {:.3} ms plain, {:.3} ms adapted, ratio {:.3}",
            1e3 * median(plain),
            1e3 * median(changed),
            median(ratios),
        );
    }
}
