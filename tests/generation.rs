//! Generation: options, stopping, errors, adapters, streaming.

mod common;

use common::{TINY_CODER, all_logits, copy_of, fixture, load_as, load_f32, to_f64};
use metal_candle::backend::DTypePolicy;
use metal_candle::inference::FinishReason;
use metal_candle::{
    Error, GenerateOptions, Generation, Generator, LoRAAdapter, LoRAConfig, Model, Result,
    SamplingOptions,
};
use std::ops::ControlFlow;

const PROMPT: &[u32] = &[5, 17, 100, 42, 7, 150, 3, 99, 61, 8];
/// The longest context of the small models.
const CONTEXT: usize = 512;

fn small() -> Model {
    load_f32(fixture("models/qwen2_untied_gqa"))
}

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

fn sampled(temperature: f64, top_k: usize, seed: u64) -> GenerateOptions {
    GenerateOptions {
        sampling: SamplingOptions {
            temperature,
            top_k,
            seed,
            ..SamplingOptions::default()
        },
        ..options(24)
    }
}

fn try_generate(
    generator: &mut Generator,
    prompt: &[u32],
    options: &GenerateOptions,
) -> Result<Generation> {
    generator.generate_from_ids(prompt, options, |_| ControlFlow::Continue(()))
}

fn generate(generator: &mut Generator, options: &GenerateOptions) -> Vec<u32> {
    try_generate(generator, PROMPT, options).unwrap().tokens
}

#[test]
fn the_seed_decides_what_is_drawn() {
    let model = small();
    let mut generator = Generator::new(&model);
    let first = generate(&mut generator, &sampled(1.0, 0, 1));
    assert_eq!(generate(&mut generator, &sampled(1.0, 0, 1)), first);
    assert_eq!(
        generate(&mut Generator::new(&model), &sampled(1.0, 0, 1)),
        first
    );
    assert_ne!(generate(&mut generator, &sampled(1.0, 0, 2)), first);
}

#[test]
fn the_best_of_one_is_greedy() {
    let mut generator = Generator::new(&small());
    let greedy = generate(&mut generator, &options(24));
    assert_eq!(generate(&mut generator, &sampled(1.0, 1, 3)), greedy);
    assert_ne!(generate(&mut generator, &sampled(1.0, 0, 3)), greedy);
}

#[test]
fn max_tokens_is_a_limit() {
    let mut generator = Generator::new(&small());
    let whole = generate(&mut generator, &options(20));
    for max_tokens in [1, 2, 19] {
        let found = try_generate(&mut generator, PROMPT, &options(max_tokens)).unwrap();
        assert_eq!(found.tokens, whole[..max_tokens]);
        assert_eq!(found.finish_reason, FinishReason::Length);
        assert_eq!(found.tokens_per_second > 0.0, max_tokens > 1);
    }
}

#[test]
fn a_callback_stops_at_once() {
    let mut generator = Generator::new(&small());
    let whole = generate(&mut generator, &options(20));
    for stop in [0, 1, 7] {
        let mut seen = vec![];
        let found = generator
            .generate_from_ids(PROMPT, &options(20), |chunk| {
                assert_eq!(chunk.index, seen.len());
                seen.push(chunk.token);
                if chunk.index == stop {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .unwrap();
        assert_eq!(found.finish_reason, FinishReason::Cancelled);
        assert_eq!(found.tokens, whole[..=stop]);
        assert_eq!(seen, found.tokens);
    }
    assert_eq!(generate(&mut generator, &options(20)), whole);
}

#[test]
fn another_thread_cancels() {
    let mut generator = Generator::new(&small());
    let whole = generate(&mut generator, &options(20));
    let handle = generator.cancel_handle();
    let found = generator
        .generate_from_ids(PROMPT, &options(20), |chunk| {
            if chunk.index == 4 {
                let handle = handle.clone();
                std::thread::spawn(move || handle.cancel()).join().unwrap();
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(found.finish_reason, FinishReason::Cancelled);
    assert_eq!(found.tokens, whole[..5]);
    assert_eq!(generate(&mut generator, &options(20)), whole);
}

#[test]
fn the_context_can_be_filled_and_not_more() {
    let mut generator = Generator::new(&small());
    let prompt: Vec<u32> = (0..CONTEXT).map(|i| PROMPT[i % PROMPT.len()]).collect();
    for too_long in [CONTEXT, CONTEXT + 1] {
        let prompt: Vec<u32> = prompt.iter().copied().cycle().take(too_long).collect();
        assert_error!(
            try_generate(&mut generator, &prompt, &options(5)).unwrap_err(),
            Error::ContextFull { .. },
            [&format!("{} tokens", too_long + 1), "context of 512 tokens"]
        );
    }
    for room in [1, 3] {
        let found = try_generate(&mut generator, &prompt[room..], &options(50)).unwrap();
        assert_eq!(found.tokens.len(), room);
        assert_eq!(found.finish_reason, FinishReason::ContextFull);
    }
}

#[test]
fn prompts_that_cannot_be_used() {
    let model = small();
    let mut generator = Generator::new(&model);
    let expected = generate(&mut generator, &options(8));
    assert_error!(
        try_generate(&mut generator, &[], &options(5)).unwrap_err(),
        Error::InvalidOption { .. },
        ["`prompt`", "empty", "at least one token"]
    );
    for id in [240, u32::MAX] {
        assert_error!(
            try_generate(&mut generator, &[1, id], &options(5)).unwrap_err(),
            Error::InvalidOption { .. },
            [
                &format!("token id {id}"),
                "below the vocabulary size of 240"
            ]
        );
    }
    let mut on_chunk = |_: &_| ControlFlow::Continue(());
    assert_error!(
        generator
            .generate("text", &options(5), &mut on_chunk)
            .unwrap_err(),
        Error::Tokenizer { .. },
        ["qwen2_untied_gqa", "has no tokenizer.json"]
    );
    for (options, name) in [
        (options(0), "`max_tokens`"),
        (sampled(-1.0, 0, 0), "`temperature`"),
        (
            GenerateOptions {
                prefill_chunk: 0,
                ..options(1)
            },
            "`prefill_chunk`",
        ),
    ] {
        assert_error!(
            try_generate(&mut generator, PROMPT, &options).unwrap_err(),
            Error::InvalidOption { .. },
            [name, "expected"]
        );
    }
    // After an error it is as good as new.
    assert_eq!(generate(&mut generator, &options(8)), expected);

    let mut generator = Generator::new(&load_f32(TINY_CODER));
    assert!(generator.generate("", &options(1), on_chunk).is_err());
}

#[test]
fn weights_that_overflow_are_an_error_and_not_a_token() {
    let model = copy_of(fixture("models/qwen2_untied_gqa"));
    let path = model.path().join("model.safetensors");
    let cpu = candle_core::Device::Cpu;
    let mut tensors = candle_core::safetensors::load(&path, &cpu).unwrap();
    let norm = tensors["model.norm.weight"].affine(0.0, f64::NAN).unwrap();
    tensors.insert("model.norm.weight".to_owned(), norm);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let mut generator = Generator::new(&load_f32(model.path()));
    assert_error!(
        try_generate(&mut generator, PROMPT, &options(5)).unwrap_err(),
        Error::NonFinite {
            what: "logits",
            step: 0,
            ..
        },
        ["logits", "step 0"]
    );
}

#[test]
fn the_prefill_chunk_does_not_matter() {
    // Sliding windows of 8 that the prompt of 10 overruns, too.
    for name in ["qwen2_untied_gqa", "qwen2_sliding"] {
        let model = load_f32(fixture("models").join(name));
        let expected = generate(&mut Generator::new(&model), &options(16));
        for prefill_chunk in [1, 3, 5, PROMPT.len() - 1, PROMPT.len(), PROMPT.len() + 1] {
            let options = GenerateOptions {
                prefill_chunk,
                ..options(16)
            };
            // A new one each time: a generator knows the logits of its last prompt.
            let found = try_generate(&mut Generator::new(&model), PROMPT, &options).unwrap();
            assert_eq!(found.tokens, expected, "{name} {prefill_chunk}");
            assert_eq!(found.cached_tokens, 0);
        }
    }
}

#[test]
fn an_adapter_can_be_set_and_taken_away() {
    let model = load_f32(TINY_CODER);
    let adapter = LoRAAdapter::load(fixture("lora/nonzero_b"), &model).unwrap();
    let mut generator = Generator::new(&model);
    let base = generate(&mut generator, &options(12));
    generator.set_adapter(Some(adapter.clone())).unwrap();
    let changed = generate(&mut generator, &options(12));
    assert_ne!(changed, base);
    generator.set_adapter(None).unwrap();
    assert_eq!(generate(&mut generator, &options(12)), base);

    generator.set_adapter(Some(adapter)).unwrap();
    let other = LoRAAdapter::new(LoRAConfig::default(), &small(), 0).unwrap();
    assert_error!(
        generator.set_adapter(Some(other)).unwrap_err(),
        Error::InvalidOption { .. },
        ["`adapter`", "another shape"]
    );
    // The refused one has not taken the place of the one before.
    assert_eq!(generate(&mut generator, &options(12)), changed);
}

#[test]
fn threads_share_a_model() {
    let model = small();
    let expected = generate(&mut Generator::new(&model), &sampled(1.0, 0, 9));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| generate(&mut Generator::new(&model), &sampled(1.0, 0, 9))))
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
}

#[test]
fn streamed_text_is_the_text() {
    let model = load_f32(TINY_CODER);
    let mut generator = Generator::new(&model);
    for prompt in ["let größe = \"中文 🦀\"; // é", "# naïve"] {
        for seed in 0..2 {
            // Hot enough for single bytes of characters.
            let mut streamed = String::new();
            let found = generator
                .generate(prompt, &sampled(3.0, 0, seed), |chunk| {
                    streamed.push_str(&chunk.text);
                    ControlFlow::Continue(())
                })
                .unwrap();
            assert_eq!(streamed, found.text);
            let whole = model.tokenizer().unwrap().decode(&found.tokens, true);
            assert_eq!(whole.unwrap(), found.text);
            assert!(!found.text.is_empty());
        }
    }
}

#[test]
fn sixteen_bit_models_generate() {
    let reference = load_f32(TINY_CODER);
    let prompt = reference
        .tokenizer()
        .unwrap()
        .encode("fn main() {\n    let mut total = 0;\n", true)
        .unwrap();
    let last = |model: &Model| {
        let logits = all_logits(model, &prompt, None);
        to_f64(&logits.get(prompt.len() - 1).unwrap())
    };
    let expected = last(&reference);
    let size = expected.iter().fold(0f64, |max, x| max.max(x.abs()));
    let first = try_generate(&mut Generator::new(&reference), &prompt, &options(4)).unwrap();
    // The rounding of 8 and 11 bits, grown over six layers.
    for (dtype, tolerance) in [(DTypePolicy::Bf16, 0.03), (DTypePolicy::F16, 0.004)] {
        let model = load_as(TINY_CODER, dtype);
        let found = last(&model);
        let worst = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0f64, f64::max);
        assert!(worst < tolerance * size, "{dtype:?}: {worst} of {size}");
        // On the CPU activations are `f32`, and the weights are stored in `bf16`.
        let is_exact = model.device().is_cpu();
        assert!(is_exact || worst > 0.0, "{dtype:?} is computed in f32");
        // Only a few tokens: at the first near tie, rounding decides.
        let found = try_generate(&mut Generator::new(&model), &prompt, &options(4)).unwrap();
        assert_eq!(found.tokens, first.tokens, "{dtype:?}");
    }
}
