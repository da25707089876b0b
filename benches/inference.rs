//! Loading, prefill, the cost of one token after 32 and after 1,024 tokens of context, and of many texts
//! at once.
//!
//! `cargo bench --bench inference`. Every measurement ends with the logits on the host, so that no
//! work of the device is left out.

use candle_core::Tensor;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use metal_candle::inference::BatchGenerator;
use metal_candle::models::KvCache;
use metal_candle::{GenerateOptions, Model, ModelLoader};
use std::hint::black_box;
use std::ops::ControlFlow;

const MODEL: &str = "assets/tiny-coder";

fn step(model: &Model, tokens: &[u32], cache: &mut KvCache) -> Vec<f32> {
    let tokens = Tensor::new(tokens, model.device())
        .and_then(|t| t.unsqueeze(0))
        .unwrap();
    let hidden = model.decoder().forward(&tokens, Some(cache), None).unwrap();
    let last = hidden
        .narrow(1, hidden.dims()[1] - 1, 1)
        .unwrap()
        .flatten_to(1)
        .unwrap();
    model
        .decoder()
        .logits(&last)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Some ids that the model knows.
fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|i| 100 + i * 7 % 5000).collect()
}

fn load(c: &mut Criterion) {
    c.bench_function("load", |b| {
        b.iter(|| ModelLoader::new().load(black_box(MODEL)).unwrap());
    });
}

fn prefill(c: &mut Criterion) {
    let model = ModelLoader::new().load(MODEL).unwrap();
    let mut group = c.benchmark_group("prefill");
    for count in [32, 512] {
        let tokens = tokens(count);
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(count.to_string(), |b| {
            b.iter_batched(
                || model.decoder().new_cache(),
                |mut cache| step(&model, &tokens, &mut cache),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn decode(c: &mut Criterion) {
    let model = ModelLoader::new().load(MODEL).unwrap();
    let mut group = c.benchmark_group("decode_after");
    group.throughput(Throughput::Elements(1));
    for context in [32, 256, 1024] {
        let mut cache = model.decoder().new_cache();
        cache.reserve(context as usize + 1);
        step(&model, &tokens(context), &mut cache);
        group.bench_function(context.to_string(), |b| {
            b.iter(|| {
                cache.truncate(context as usize);
                step(&model, &[100], &mut cache)
            });
        });
    }
    group.finish();
}

/// 32 tokens of each text after a prompt of 32, prompts included.
fn batch(c: &mut Criterion) {
    let model = ModelLoader::new().load(MODEL).unwrap();
    let options = GenerateOptions {
        max_tokens: 32,
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let prompt = tokens(32);
    let mut group = c.benchmark_group("batch");
    group.sample_size(10);
    for size in [1, 2, 4, 8, 16] {
        group.throughput(Throughput::Elements(32 * size as u64));
        group.bench_function(size.to_string(), |b| {
            b.iter(|| {
                let mut batch = BatchGenerator::new(&model, size).unwrap();
                for _ in 0..size {
                    batch.push_ids(&prompt, &options).unwrap();
                }
                let results = batch.run(|_| ControlFlow::Continue(()));
                assert!(results.iter().all(|(_, result)| result.is_ok()));
                results
            });
        });
    }
    group.finish();
}

criterion_group!(benches, load, prefill, decode, batch);
criterion_main!(benches);
