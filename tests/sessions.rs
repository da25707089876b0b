//! What a generator keeps from one call to the next, and what it does when its context is full.

mod common;

use common::{TINY_CODER, fixture, load_f32};
use metal_candle::inference::FinishReason;
use metal_candle::models::KvCacheType;
use metal_candle::{Error, GenerateOptions, Generation, Generator, LoRAAdapter, Model};
use std::ops::ControlFlow;

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

fn generate(generator: &mut Generator, prompt: &[u32], options: &GenerateOptions) -> Generation {
    generator
        .generate_from_ids(prompt, options, |_| ControlFlow::Continue(()))
        .unwrap()
}

fn encode(model: &Model, text: &str) -> Vec<u32> {
    model.tokenizer().unwrap().encode(text, true).unwrap()
}

#[test]
fn a_conversation_costs_what_is_new() {
    let model = load_f32(TINY_CODER);
    let mut generator = Generator::new(&model);
    let mut prompt = encode(&model, "// A stack.\nstruct Stack {\n");
    let mut known = 0;
    for question in ["", "}\n\nimpl Stack {\n", "    fn pop(&mut self)"] {
        prompt.extend(encode(&model, question));
        let found = generate(&mut generator, &prompt, &options(8));
        assert_eq!(found.cached_tokens, known);
        assert_eq!(found.prompt_tokens, prompt.len());
        let fresh = generate(&mut Generator::new(&model), &prompt, &options(8));
        assert_eq!(found.tokens, fresh.tokens);
        assert_eq!(fresh.cached_tokens, 0);
        prompt.extend(&found.tokens);
        // The last token was given out and not read.
        known = prompt.len() - 1;
        assert_eq!(generator.context(), &prompt[..known]);
    }
    // The common start of another prompt.
    let mut other = prompt[..10].to_vec();
    other.extend(encode(&model, "enum"));
    let found = generate(&mut generator, &other, &options(4));
    assert_eq!(found.cached_tokens, 10);
    let fresh = generate(&mut Generator::new(&model), &other, &options(4));
    assert_eq!(found.tokens, fresh.tokens);

    generator.truncate(3);
    assert_eq!(generator.context(), &prompt[..3]);
    let found = generate(&mut generator, &prompt, &options(4));
    assert_eq!(found.cached_tokens, 3);
    generator.truncate(0);
    assert_eq!(
        generate(&mut generator, &prompt, &options(4)).cached_tokens,
        0
    );
}

#[test]
fn the_same_prompt_again_is_not_read_again() {
    let model = load_f32(TINY_CODER);
    let mut generator = Generator::new(&model);
    let prompt = encode(&model, "let x = ");
    let first = generate(&mut generator, &prompt, &options(6));
    let again = generate(&mut generator, &prompt, &options(6));
    assert_eq!(again.cached_tokens, prompt.len());
    assert_eq!(again.tokens, first.tokens);
    // To the last bit.
    assert_eq!(again.logprobs, first.logprobs);
}

#[test]
fn a_full_context_shifts_where_it_may() {
    let model = load_f32(fixture("models/qwen2_untied_gqa"));
    let prompt: Vec<u32> = (0..10).map(|i| (i * 37 + 5) % 240).collect();
    let small = |context_shift| GenerateOptions {
        max_kv_size: Some(16),
        context_shift,
        keep: 3,
        ..options(30)
    };
    let mut generator = Generator::new(&model);
    let ended = generate(&mut generator, &prompt, &small(false));
    assert_eq!(ended.finish_reason, FinishReason::ContextFull);
    assert_eq!(ended.tokens.len(), 6);

    let found = generate(&mut generator, &prompt, &small(true));
    assert_eq!(found.finish_reason, FinishReason::Length);
    assert_eq!(found.tokens.len(), 30);
    assert!(generator.context().len() <= 16);

    // Each token is that of a fresh generator that sees only what the shifts have left.
    let mut context = prompt.clone();
    for &token in &found.tokens {
        let next = generate(&mut Generator::new(&model), &context, &options(1));
        assert_eq!(next.tokens, [token]);
        context.push(token);
        if context.len() == 17 {
            context.drain(3..17 - 6);
        }
    }

    // A prompt that does not fit is an error, or shifts.
    let long: Vec<u32> = (0..50).map(|i| (i * 31 + 7) % 240).collect();
    let error = generator
        .generate_from_ids(&long, &small(false), |_| ControlFlow::Continue(()))
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::ContextFull {
                needed: 51,
                capacity: 16
            }
        ),
        "{error}"
    );
    let found = generate(&mut generator, &long, &small(true));
    let left = [&long[..3], &long[44..]].concat();
    let expected = generate(&mut Generator::new(&model), &left, &options(1));
    assert_eq!(found.tokens[0], expected.tokens[0]);
    assert_eq!(found.prompt_tokens, 50);
}

#[test]
fn a_fork_goes_its_own_way() {
    let model = load_f32(TINY_CODER);
    let mut generator = Generator::new(&model);
    let prompt = encode(&model, "fn area(width: f64, height: f64) -> f64 {\n");
    generate(&mut generator, &prompt, &options(5));
    let mut fork = generator.fork().unwrap();
    assert_eq!(fork.context(), generator.context());

    let [first, second] = ["    width", "    let"].map(|next| {
        let mut longer = prompt.clone();
        longer.extend(encode(&model, next));
        longer
    });
    // In turns, so that a shared buffer would show.
    for length in [1, 4, 9] {
        let found = generate(&mut fork, &first, &options(length));
        assert!(found.cached_tokens >= prompt.len());
        let fresh = generate(&mut Generator::new(&model), &first, &options(length));
        assert_eq!(found.tokens, fresh.tokens);
        let found = generate(&mut generator, &second, &options(length));
        let fresh = generate(&mut Generator::new(&model), &second, &options(length));
        assert_eq!(found.tokens, fresh.tokens);
    }
}

#[test]
fn eight_bits_of_cache_are_enough_for_the_tokens() {
    let model = load_f32(TINY_CODER);
    let prompt = encode(&model, "fn area(width: f64, height: f64) -> f64 {\n");
    let full = generate(&mut Generator::new(&model), &prompt, &options(6));
    let mut generator = Generator::with_cache_type(&model, KvCacheType::Int8);
    let found = generate(&mut generator, &prompt, &options(6));
    assert_eq!(found.tokens, full.tokens);
    let gap = found.logprobs.iter().zip(&full.logprobs);
    let gap = gap.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(gap > 0.0 && gap < 0.05, "{gap}");
    let mut fork = generator.fork().unwrap();
    assert_eq!(
        generate(&mut fork, &prompt, &options(6)).tokens,
        full.tokens
    );
}

#[test]
fn a_session_goes_on_from_its_file() {
    let model = load_f32(TINY_CODER);
    let adapter = LoRAAdapter::load(fixture("lora/nonzero_b"), &model).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.session");
    let prompt = encode(&model, "fn area(width: f64, height: f64) -> f64 {\n");
    for cache_type in [KvCacheType::Full, KvCacheType::Int8] {
        let mut generator = Generator::with_cache_type(&model, cache_type);
        generate(&mut generator, &prompt, &options(5));
        generator.save_session(&path).unwrap();
        let mut longer = generator.context().to_vec();
        longer.extend(encode(&model, "    let"));
        let expected = generate(&mut generator, &longer, &options(6));

        let mut later = Generator::new(&model);
        later.load_session(&path).unwrap();
        let found = generate(&mut later, &longer, &options(6));
        assert_eq!(found.cached_tokens, expected.cached_tokens);
        assert_eq!(found.tokens, expected.tokens);
        assert_eq!(found.logprobs, expected.logprobs);

        // Not with an adapter that it was not made with; then all is as before.
        later.set_adapter(Some(adapter.clone())).unwrap();
        generate(&mut later, &prompt, &options(2));
        let before = later.context().to_vec();
        let error = later.load_session(&path).unwrap_err();
        assert!(error.to_string().contains("adapter"), "{error}");
        assert_eq!(later.context(), before);
    }
    let mut other = Generator::new(&load_f32(fixture("models/qwen2_tied")));
    let error = other.load_session(&path).unwrap_err();
    assert!(error.to_string().contains("one.session"), "{error}");
    let missing = other.load_session(folder.path().join("none")).unwrap_err();
    assert!(matches!(missing, Error::FileNotFound { .. }), "{missing}");
}
