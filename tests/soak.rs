//! Many short generations in one process: memory stays flat.
//!
//! 300 of them here; `METAL_CANDLE_SOAK=10000 cargo test --release --test soak -- --nocapture` takes
//! longer and prints its figures.

mod common;

use common::{TINY_CODER, load_f32};
use metal_candle::backend::memory;
use metal_candle::inference::{BatchGenerator, Grammar};
use metal_candle::{GenerateOptions, Generator, SamplingOptions};
use std::ops::ControlFlow;

#[allow(clippy::cast_precision_loss, reason = "megabytes are printed")]
#[test]
fn memory_stays_flat() {
    let setting = std::env::var("METAL_CANDLE_SOAK").ok();
    let count: u64 = setting.map_or(300, |count| count.parse().unwrap());
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
            grammar: (number % 50 == 7).then(|| Grammar::Regex("[a-z ]+".to_owned())),
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
    let warm = count / 3;
    for number in 0..warm {
        run(number);
    }
    let before = memory::usage().current;
    for number in warm..count {
        run(number);
    }
    let after = memory::usage().current;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{:.1} MB after {warm} generations, {:.1} MB after {count}",
        mb(before),
        mb(after)
    );
    // What the allocator keeps of its own, and not something for each generation.
    let most = 4e6_f64.max(200.0 * (count - warm) as f64);
    assert!(after as f64 - before as f64 <= most, "{before} {after}");
}
