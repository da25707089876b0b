//! Prefill and decoding by context length and number format, and many texts at once.
//!
//! `cargo bench --bench inference`, and `-- decode` and so on for a part of it. Every measurement ends with
//! the logits or the tokens on the host, so that no work is left out.

mod common;

use common::{FORMATS, model, step, tokens};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use metal_candle::GenerateOptions;
use metal_candle::inference::BatchGenerator;
use std::ops::ControlFlow;

const CONTEXTS: [usize; 8] = [64, 128, 256, 512, 1024, 2048, 4096, 8192];

fn prefill(c: &mut Criterion) {
    let mut group = c.benchmark_group("prefill");
    group.sample_size(10);
    let lengths = CONTEXTS.map(|length| ("f32", length));
    let formats = FORMATS[1..].iter().map(|format| (*format, 512));
    for (format, length) in lengths.into_iter().chain(formats) {
        let model = model(format);
        let tokens = tokens(length);
        group.throughput(Throughput::Elements(length as u64));
        group.bench_function(format!("{format}/{length}"), |b| {
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
    let mut group = c.benchmark_group("decode_after");
    group.sample_size(20);
    group.throughput(Throughput::Elements(1));
    let contexts = CONTEXTS.map(|context| ("f32", context));
    let formats = FORMATS[1..]
        .iter()
        .flat_map(|format| [(*format, 64), (*format, 1024)]);
    for (format, context) in contexts.into_iter().chain(formats) {
        let model = model(format);
        let mut cache = model.decoder().new_cache();
        cache.reserve(context + 1);
        step(&model, &tokens(context), &mut cache);
        group.bench_function(format!("{format}/{context}"), |b| {
            b.iter(|| {
                cache.truncate(context);
                step(&model, &[100], &mut cache)
            });
        });
    }
    group.finish();
}

/// 32 tokens of each text after a prompt of 32, prompts included.
fn batch(c: &mut Criterion) {
    let options = GenerateOptions {
        max_tokens: 32,
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let prompt = tokens(32);
    let mut group = c.benchmark_group("batch");
    group.sample_size(10);
    for format in ["f32", "bf16", "Q8_0"] {
        let model = model(format);
        for size in [1, 2, 4, 8, 16] {
            group.throughput(Throughput::Elements(32 * size as u64));
            group.bench_function(format!("{format}/{size}"), |b| {
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
    }
    group.finish();
}

criterion_group!(benches, prefill, decode, batch);
criterion_main!(benches);
