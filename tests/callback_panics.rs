//! A callback that panics: the panic goes to who called, and leaves nothing locked or half-done.

#![cfg(feature = "training")]

mod common;

use common::training::{lora, options, small};
use common::{TINY_CODER, load_f32, rows};
use metal_candle::inference::BatchGenerator;
use metal_candle::{
    Chunk, GenerateOptions, Generator, LoRATrainer, Model, ModelLoader, TrainEvent,
};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

const PROMPT: &[u32] = &[1, 2, 3];

/// The message of the panic that a body ends with.
fn panic_of<R>(body: impl FnOnce() -> R) -> &'static str {
    let Err(payload) = catch_unwind(AssertUnwindSafe(body)) else {
        panic!("there was no panic");
    };
    payload.downcast_ref::<&str>().copied().unwrap()
}

fn greedy(model: &Model) -> (Generator, GenerateOptions, Vec<u32>) {
    let options = GenerateOptions {
        max_tokens: 4,
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let mut generator = Generator::new(model);
    let generation = generator.generate_from_ids(PROMPT, &options, |_| ControlFlow::Continue(()));
    (Generator::new(model), options, generation.unwrap().tokens)
}

#[test]
fn a_rust_caller_gets_the_panic_of_a_generation() {
    let model = load_f32(TINY_CODER);
    let (mut generator, options, expected) = greedy(&model);
    let after_two = |chunk: &Chunk| {
        assert!(chunk.index < 1, "in a chunk");
        ControlFlow::Continue(())
    };
    let reason = panic_of(|| generator.generate_from_ids(PROMPT, &options, after_two));
    assert_eq!(reason, "in a chunk");
    // What was read up to there is not wrong: the same prompt gives the same tokens.
    let go_on = |_: &Chunk| ControlFlow::Continue(());
    let again = generator
        .generate_from_ids(PROMPT, &options, go_on)
        .unwrap();
    assert_eq!(again.tokens, expected);

    generator.set_logits_processor(|_: &[u32], _: &mut [f32]| panic!("in logits"));
    let reason = panic_of(|| generator.generate_from_ids(PROMPT, &options, go_on));
    assert_eq!(reason, "in logits");
    generator.remove_logits_processor();
    let again = generator
        .generate_from_ids(PROMPT, &options, go_on)
        .unwrap();
    assert_eq!(again.tokens, expected);

    let mut batch = BatchGenerator::new(&model, 2).unwrap();
    batch.push_ids(PROMPT, &options).unwrap();
    assert_eq!(panic_of(|| batch.run(after_two)), "in a chunk");
    drop(batch);
    let mut batch = BatchGenerator::new(&model, 2).unwrap();
    batch.push_ids(PROMPT, &options).unwrap();
    let results = batch.run(go_on);
    assert_eq!(results[0].1.as_ref().unwrap().tokens, expected);
}

#[test]
fn a_rust_caller_gets_the_panic_of_loading() {
    let loader = ModelLoader::new().with_progress(|_| panic!("in loading"));
    assert_eq!(panic_of(|| loader.load(TINY_CODER)), "in loading");
    assert!(ModelLoader::new().load(TINY_CODER).is_ok());
}

#[test]
fn a_rust_caller_gets_the_panic_of_training() {
    let (model, data) = (small(), rows(4));
    let steps = |trainer: &mut LoRATrainer, panics: bool| {
        trainer.train(|event| {
            let is_step = matches!(event, TrainEvent::Step(_));
            assert!(!(panics && is_step), "in training");
            ControlFlow::Continue(())
        })
    };
    let mut whole = LoRATrainer::new(&model, data.clone(), None, options(lora())).unwrap();
    let expected = steps(&mut whole, false).unwrap();
    let mut trainer = LoRATrainer::new(&model, data, None, options(lora())).unwrap();
    assert_eq!(panic_of(|| steps(&mut trainer, true)), "in training");
    // The step was done, and was told of by a panic; the run goes on with the next.
    let ended = steps(&mut trainer, false).unwrap();
    assert_eq!((ended.steps, ended.loss), (expected.steps, expected.loss));
}
