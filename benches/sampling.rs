//! The choice of one token out of a vocabulary of 151,936, that of Qwen2.5.
//!
//! `cargo bench --bench sampling`. The logits are like those of a model: nearly normal, with a tail
//! of likely tokens. `flat` is the worst case, a model that knows nothing.

use criterion::{Criterion, criterion_group, criterion_main};
use metal_candle::SamplingOptions;
use metal_candle::inference::Sampler;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::hint::black_box;

const VOCABULARY: usize = 151_936;
const HISTORY: u32 = 2_000;

/// Normal logits with a deviation of 2.5, and 50 that lead, from 6 to 18 above the mean.
fn realistic() -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut logits: Vec<f32> = (0..VOCABULARY)
        .map(|_| 2.5 * ((0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0))
        .collect();
    for rank in 1..=50u8 {
        logits[rng.random_range(0..VOCABULARY)] = 6.0 + 12.0 / f32::from(rank).sqrt();
    }
    logits
}

fn flat() -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    (0..VOCABULARY).map(|_| rng.random::<f32>()).collect()
}

fn sampling(c: &mut Criterion) {
    let warm = SamplingOptions {
        temperature: 0.8,
        ..SamplingOptions::default()
    };
    let top_p = SamplingOptions {
        top_p: 0.9,
        ..warm.clone()
    };
    let cases = [
        ("greedy", SamplingOptions::default()),
        ("temperature", warm.clone()),
        ("top_p", top_p.clone()),
        (
            "top_k_top_p",
            SamplingOptions {
                top_k: 40,
                ..top_p.clone()
            },
        ),
        (
            "min_p",
            SamplingOptions {
                min_p: 0.05,
                ..warm.clone()
            },
        ),
        (
            "typical_p",
            SamplingOptions {
                typical_p: 0.9,
                ..warm
            },
        ),
        (
            "penalties",
            SamplingOptions {
                repetition_penalty: 1.1,
                presence_penalty: 0.1,
                frequency_penalty: 0.1,
                dry_multiplier: 0.8,
                ..top_p
            },
        ),
    ];
    let history: Vec<u32> = (0..HISTORY).map(|i| i * i % 1_009 * 97).collect();
    for (kind, logits) in [("realistic", realistic()), ("flat", flat())] {
        let mut group = c.benchmark_group(format!("sample_{kind}"));
        for (name, options) in &cases {
            let mut sampler = Sampler::new(options.clone()).unwrap();
            group.bench_function(*name, |b| {
                b.iter(|| sampler.sample(black_box(&logits), &history, 0).unwrap());
            });
        }
        group.finish();
    }
}

criterion_group!(benches, sampling);
criterion_main!(benches);
