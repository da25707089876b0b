//! Many short generations in one process: memory stays flat.
//!
//! 160 of them here; `METAL_CANDLE_SOAK=10000 cargo test --release --test soak -- --nocapture` takes
//! longer and prints its figures.

mod common;

use common::{TINY_CODER, load_f32};
use metal_candle::backend::memory;
use metal_candle::inference::{BatchGenerator, Grammar};
use metal_candle::{GenerateOptions, Generator, SamplingOptions};
use std::ops::ControlFlow;

/// Windows of generations, the same ones in each.
const WINDOWS: u64 = 8;

#[test]
fn memory_stays_flat() {
    let setting = std::env::var("METAL_CANDLE_SOAK").ok();
    let count: u64 = setting.map_or(160, |count| count.parse().unwrap());
    // Memory that threads keep for themselves comes and goes.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    pool.build_global().unwrap();
    let model = load_f32(TINY_CODER);
    let mut generator = Generator::new(&model);
    let mut batch = BatchGenerator::new(&model, 4).unwrap();
    let prompts = [
        "fn main() {",
        "struct",
        "let x = y",
        "// Sorts the\nfn sort",
    ];
    let mut run = |number: u64| {
        let prompt = prompts[usize::try_from(number % 4).unwrap()];
        let options = GenerateOptions {
            max_tokens: 4,
            stop: vec![";\n".to_owned()],
            top_logprobs: 3,
            prompt_lookup_num_tokens: usize::from(number.is_multiple_of(2)) * 2,
            grammar: (number % 5 == 3).then(|| Grammar::Regex("[a-z ]+".to_owned())),
            sampling: SamplingOptions {
                temperature: 0.8,
                top_p: 0.9,
                repetition_penalty: 1.1,
                seed: number,
                ..SamplingOptions::default()
            },
            ..GenerateOptions::default()
        };
        match number % 10 {
            // A new generator, a fork, and a batch now and then.
            0 => generator = Generator::new(&model),
            1 => generator = generator.fork().unwrap(),
            2 => {
                for prompt in prompts {
                    batch.push(prompt, &options).unwrap();
                }
                for (_, result) in batch.run(|_| ControlFlow::Continue(())) {
                    result.unwrap();
                }
            }
            _ => {}
        }
        generator
            .generate(prompt, &options, |_| ControlFlow::Continue(()))
            .unwrap();
    };
    let size = count / WINDOWS;
    let usage: Vec<i64> = (0..WINDOWS)
        .map(|_| {
            (0..size).for_each(&mut run);
            i64::try_from(memory::usage().current).unwrap()
        })
        .collect();
    println!("bytes after each {size} generations: {usage:?}");
    // The first windows fill caches and the allocator. After them, what generations leave behind makes
    // every window grow, and what the allocator keeps makes some grow.
    let last = &usage[usage.len() / 2 - 1..];
    let growth = last.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
    let most = 500 * i64::try_from(size).unwrap();
    assert!(growth < most, "{usage:?}");
}
