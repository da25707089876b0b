//! Many texts at once: each is what it is alone.

mod common;

use common::{TINY_CODER, copy_of, fixture, load_f32};
use metal_candle::inference::{BatchGenerator, FinishReason};
use metal_candle::{
    Chunk, GenerateOptions, Generation, Generator, LoRAAdapter, Model, Result, SamplingOptions,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

const PROMPTS: [&str; 5] = [
    "fn main() {\n",
    "x",
    "// Returns the larger of two numbers.\nfn max(a: i32, b: i32) -> i32 {\n    if a",
    "struct Point {\n    x: f64,\n",
    "SELECT name FROM",
];

/// Options that differ in all that a sequence has of its own.
fn options(number: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens: [12, 3, 20, 1, 8][number % 5],
        ignore_eos: true,
        sampling: SamplingOptions {
            temperature: if number.is_multiple_of(2) { 0.0 } else { 0.8 },
            seed: number as u64,
            ..SamplingOptions::default()
        },
        stop: if number == 2 {
            vec!["{".to_owned()]
        } else {
            vec![]
        },
        prefill_chunk: [512, 3, 5, 1, 512][number % 5],
        top_logprobs: number % 3,
        ..GenerateOptions::default()
    }
}

fn alone(model: &Model, number: usize) -> Generation {
    let go_on = |_: &Chunk| ControlFlow::Continue(());
    let mut generator = Generator::new(model);
    let result = generator.generate(PROMPTS[number % 5], &options(number), go_on);
    result.unwrap()
}

fn run(batch: &mut BatchGenerator) -> BTreeMap<usize, Result<Generation>> {
    let results = batch.run(|_| ControlFlow::Continue(()));
    let count = results.len();
    let by_number: BTreeMap<_, _> = results.into_iter().collect();
    assert_eq!(by_number.len(), count);
    by_number
}

#[test]
fn each_text_is_what_it_is_alone() {
    let model = load_f32(TINY_CODER);
    for size in [1, 2, 8] {
        let mut batch = BatchGenerator::new(&model, size).unwrap();
        for number in 0..9 {
            let prompt = PROMPTS[number % 5];
            assert_eq!(batch.push(prompt, &options(number)).unwrap(), number);
        }
        assert_eq!(batch.len(), 9);
        let mut texts = vec![String::new(); 9];
        let mut indices = [0; 9];
        let results = batch.run(|chunk| {
            texts[chunk.sequence].push_str(&chunk.text);
            assert!(
                chunk.index == indices[chunk.sequence]
                    || chunk.index + 1 == indices[chunk.sequence]
            );
            indices[chunk.sequence] = chunk.index + 1;
            ControlFlow::Continue(())
        });
        assert!(batch.is_empty());
        assert_eq!(results.len(), 9);
        for (number, found) in results {
            let (found, expected) = (found.unwrap(), alone(&model, number));
            assert_eq!(found.tokens, expected.tokens, "{number} of {size}");
            assert_eq!(found.text, expected.text);
            assert_eq!(found.finish_reason, expected.finish_reason);
            assert_eq!(texts[number], found.text);
            for (a, b) in found.logprobs.iter().zip(&expected.logprobs) {
                assert!((a - b).abs() < 1e-3, "{a} {b}");
            }
        }
    }
}

#[test]
fn texts_join_while_others_are_generated() {
    let model = load_f32(TINY_CODER);
    let mut batch = BatchGenerator::new(&model, 2).unwrap();
    batch.push(PROMPTS[2], &options(2)).unwrap();
    let mut found = vec![];
    for number in [1, 4, 0] {
        found.extend(batch.step(|_| ControlFlow::Continue(())));
        batch.push(PROMPTS[number], &options(number)).unwrap();
    }
    while !batch.is_empty() {
        found.extend(batch.step(|_| ControlFlow::Continue(())));
    }
    assert_eq!(found.len(), 4);
    for (sequence, generation) in found {
        let expected = alone(&model, [2, 1, 4, 0][sequence]);
        assert_eq!(generation.unwrap().tokens, expected.tokens, "{sequence}");
    }
    assert!(batch.step(|_| ControlFlow::Continue(())).is_empty());
}

#[test]
fn one_text_ends_and_the_others_go_on() {
    let model = load_f32(TINY_CODER);
    let mut batch = BatchGenerator::new(&model, 8).unwrap();
    for number in [0, 2, 4] {
        batch.push(PROMPTS[number], &options(number)).unwrap();
    }
    batch.push_ids(&[1, 2, 3], &options(0)).unwrap();
    let processor = |_: &[u32], logits: &mut [f32]| {
        logits.fill(f32::NAN);
        Ok(())
    };
    batch
        .push_ids_with(&[1, 2, 3], &options(0), processor)
        .unwrap();
    assert!(batch.cancel(3));
    assert!(!batch.cancel(17));
    let results = batch.run(|chunk| match (chunk.sequence, chunk.index) {
        (1, 1) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    for (sequence, result) in results {
        match sequence {
            0 | 2 => assert_eq!(result.unwrap().tokens, alone(&model, sequence * 2).tokens),
            1 => {
                let found = result.unwrap();
                assert_eq!(found.finish_reason, FinishReason::Cancelled);
                assert_eq!(found.tokens, alone(&model, 2).tokens[..2]);
            }
            3 => assert!(result.unwrap().tokens.is_empty()),
            _ => assert!(result.unwrap_err().to_string().contains("logits")),
        }
    }
}

#[test]
fn all_can_be_cancelled() {
    let model = load_f32(TINY_CODER);
    let mut batch = BatchGenerator::new(&model, 2).unwrap();
    for prompt in PROMPTS {
        batch.push(prompt, &options(0)).unwrap();
    }
    let handle = batch.cancel_handle();
    let results = batch.run(|chunk| {
        if chunk.index == 1 {
            handle.cancel();
        }
        ControlFlow::Continue(())
    });
    assert_eq!(results.len(), 5);
    for (sequence, result) in results {
        let found = result.unwrap();
        assert_eq!(found.finish_reason, FinishReason::Cancelled);
        assert_eq!(found.tokens.len(), if sequence < 2 { 2 } else { 0 });
    }
    // A request that came too late for all of them has nothing to do with the next text.
    handle.cancel();
    // And the next run is a new one.
    batch.push(PROMPTS[1], &options(1)).unwrap();
    assert_eq!(
        run(&mut batch)[&5].as_ref().unwrap().tokens,
        alone(&model, 1).tokens
    );
    // So are the steps after one that met the request.
    batch.push(PROMPTS[1], &options(1)).unwrap();
    batch.cancel_handle().cancel();
    let found = batch.step(|_| ControlFlow::Continue(()));
    assert!(found[0].1.as_ref().unwrap().tokens.is_empty());
    batch.push(PROMPTS[1], &options(1)).unwrap();
    assert!(batch.step(|_| ControlFlow::Continue(())).is_empty());
}

#[test]
fn adapters_windows_and_full_contexts() {
    let model = load_f32(TINY_CODER);
    let adapter = LoRAAdapter::load(fixture("lora/nonzero_b"), &model).unwrap();
    let mut batch = BatchGenerator::new(&model, 4).unwrap();
    batch.set_adapter(Some(adapter.clone())).unwrap();
    let mut generator = Generator::new(&model);
    generator.set_adapter(Some(adapter)).unwrap();
    for number in [0, 4] {
        batch.push(PROMPTS[number], &options(number)).unwrap();
    }
    let found = run(&mut batch);
    for (sequence, number) in [(0, 0), (1, 4)] {
        let go_on = |_: &Chunk| ControlFlow::Continue(());
        let expected = generator.generate(PROMPTS[number], &options(number), go_on);
        let found = found[&sequence].as_ref().unwrap();
        assert_eq!(found.tokens, expected.unwrap().tokens);
    }

    let model = load_f32(fixture("models/qwen2_sliding"));
    let options = GenerateOptions {
        max_kv_size: Some(16),
        context_shift: true,
        keep: 3,
        max_tokens: 24,
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let mut batch = BatchGenerator::new(&model, 4).unwrap();
    let prompts: Vec<Vec<u32>> = [1, 9, 40]
        .iter()
        .map(|&len| (0..len).map(|i| (i * 29 + len) % 190).collect())
        .collect();
    for prompt in &prompts {
        batch.push_ids(prompt, &options).unwrap();
    }
    for (sequence, found) in run(&mut batch) {
        let expected = Generator::new(&model)
            .generate_from_ids(&prompts[sequence], &options, |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(found.unwrap().tokens, expected.tokens, "{sequence}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_at_once() {
    let model = load_f32(copy_of(TINY_CODER).path());
    assert!(BatchGenerator::new(&model, 0).is_err());
    let mut batch = BatchGenerator::new(&model, 1).unwrap();
    assert!(batch.push("", &options(0)).is_err());
    assert!(batch.push_ids(&[1 << 30], &options(0)).is_err());
    let bad = GenerateOptions {
        max_tokens: 0,
        ..options(0)
    };
    assert!(batch.push("x", &bad).is_err());
    assert!(batch.is_empty());
}
