//! Logits, log-probabilities, perplexity and embeddings of given texts.

mod common;

use common::{
    TINY_CODER, all_logits, assert_close, assert_extract, expected, fixture, ids, load_f32,
    numbers, to_f64,
};
use metal_candle::inference::Pooling;
use metal_candle::{Error, GenerateOptions, Generator, LoRAAdapter};
use std::ops::ControlFlow;

#[test]
fn next_logits_are_the_references() {
    let model = load_f32(TINY_CODER);
    let mut generator = Generator::new(&model);
    for prompt in expected("tiny_coder")["prompts"].as_array().unwrap() {
        let tokens = ids(&prompt["input_ids"]);
        let logits = generator.next_logits(&tokens).unwrap();
        let logits: Vec<f64> = logits.into_iter().map(f64::from).collect();
        assert_extract("next_logits", &logits, &prompt["last_logits"], 1e-4);
    }
}

#[test]
fn perplexity_is_the_references() {
    let model = load_f32(TINY_CODER);
    let reference = &expected("tiny_coder")["perplexity"];
    let tokens = ids(&reference["input_ids"]);
    let mut generator = Generator::new(&model);
    let score = generator.perplexity(&tokens, 2048, 1024).unwrap();
    assert_eq!(score.tokens, tokens.len() - 1);
    let close = |found: f64, name: &str| {
        let expected = reference[name].as_f64().unwrap();
        assert!(
            (found / expected - 1.0).abs() < 1e-5,
            "{name}: {found} {expected}"
        );
    };
    close(score.sum_nll, "sum_nll");
    close(score.perplexity, "perplexity");
    let logprobs = generator.logprobs(&tokens).unwrap();
    let first8: Vec<f64> = logprobs[..8].iter().map(|&x| -f64::from(x)).collect();
    assert_close(
        "first8_nll",
        &first8,
        &numbers(&reference["first8_nll"]),
        1e-4,
    );
}

/// Each window by itself, as the definition says.
#[test]
fn a_window_slides_over_a_long_text() {
    let model = load_f32(TINY_CODER);
    let tokens = ids(&expected("tiny_coder")["perplexity"]["input_ids"]);
    let tokens = &tokens[..40];
    let mut generator = Generator::new(&model);
    for (window, stride) in [(16, 8), (16, 15), (10, 3), (2, 1), (40, 20), (41, 1)] {
        let mut sum_nll = 0.0;
        for scored in 1..tokens.len() {
            // The first window that reaches the token.
            let mut start = 0;
            while start + window <= scored {
                start += stride;
            }
            let logits = all_logits(&model, &tokens[start..scored], None);
            let row = to_f64(&logits.get(scored - start - 1).unwrap());
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            sum_nll += sum.ln() - row[tokens[scored] as usize];
        }
        let found = generator.perplexity(tokens, window, stride).unwrap();
        assert_eq!(found.tokens, 39);
        let gap = (found.sum_nll / sum_nll - 1.0).abs();
        assert!(gap < 1e-5, "{window} {stride}: {} {sum_nll}", found.sum_nll);
    }
}

#[test]
fn embeddings_are_the_states_that_the_head_sees() {
    let model = load_f32(TINY_CODER);
    let mut generator = Generator::new(&model);
    let tokens = ids(&expected("tiny_coder")["perplexity"]["input_ids"]);
    // Longer than what is computed at once.
    assert!(tokens.len() > 512);
    let device = candle_core::Device::Cpu;
    let file = candle_core::safetensors::load(model.path().join("model.safetensors"), &device);
    let head = to_f64(&file.unwrap()["model.embed_tokens.weight"]);
    let head: Vec<&[f64]> = head.chunks(model.config().hidden_size).collect();
    let by_head = |state: &[f32]| -> Vec<f64> {
        let dot = |row: &&[f64]| row.iter().zip(state).map(|(a, &b)| a * f64::from(b)).sum();
        head.iter().map(dot).collect()
    };
    let logits = all_logits(&model, &tokens, None);
    let last = generator.embed(&tokens, Pooling::Last, false).unwrap();
    let expected = to_f64(&logits.get(tokens.len() - 1).unwrap());
    assert_close("last", &by_head(&last), &expected, 1e-4);
    let mean = generator.embed(&tokens, Pooling::Mean, false).unwrap();
    let expected = to_f64(&logits.mean(0).unwrap());
    assert_close("mean", &by_head(&mean), &expected, 1e-4);

    let normalized = generator.embed(&tokens, Pooling::Mean, true).unwrap();
    let length: f64 = normalized.iter().map(|&x| f64::from(x).powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-5);
    let ratio = mean[0] / normalized[0];
    for (a, b) in mean.iter().zip(&normalized) {
        assert!((a - b * ratio).abs() < 1e-4 * ratio.abs());
    }
}

#[test]
fn scores_and_generations_do_not_disturb_each_other() {
    let model = load_f32(TINY_CODER);
    let adapter = LoRAAdapter::load(fixture("lora/nonzero_b"), &model).unwrap();
    let tokens = ids(&expected("tiny_coder")["prompts"][0]["input_ids"]);
    let mut generator = Generator::new(&model);
    let options = GenerateOptions {
        max_tokens: 6,
        ..GenerateOptions::default()
    };
    let generate = |generator: &mut Generator| {
        let go_on = |_: &_| ControlFlow::Continue(());
        generator
            .generate_from_ids(&tokens, &options, go_on)
            .unwrap()
            .tokens
    };
    let before = generate(&mut generator);
    let plain = generator.next_logits(&tokens).unwrap();
    generator.logprobs(&tokens[..5]).unwrap();
    generator.embed(&tokens[2..7], Pooling::Last, true).unwrap();
    assert_eq!(generate(&mut generator), before);
    generator.set_adapter(Some(adapter)).unwrap();
    let changed = generator.next_logits(&tokens).unwrap();
    assert!(plain.iter().zip(&changed).any(|(a, b)| (a - b).abs() > 0.1));
}

#[test]
fn tokens_that_cannot_be_scored() {
    let model = load_f32(fixture("models/qwen2_tied"));
    let mut generator = Generator::new(&model);
    for error in [
        generator.next_logits(&[]).unwrap_err(),
        generator.logprobs(&[1]).unwrap_err(),
        generator.embed(&[], Pooling::Mean, true).unwrap_err(),
        generator.logprobs(&[1, 1 << 20]).unwrap_err(),
        generator.perplexity(&[1], 8, 4).unwrap_err(),
    ] {
        assert_error!(error, Error::InvalidOption { .. }, ["`tokens`"]);
    }
    for (window, stride, name) in [
        (1, 1, "window"),
        (1 << 20, 1, "window"),
        (8, 0, "stride"),
        (8, 8, "stride"),
    ] {
        let error = generator
            .perplexity(&[1, 2, 3], window, stride)
            .unwrap_err();
        assert_error!(error, Error::InvalidOption { .. }, [name]);
    }
    let long = vec![1; model.config().max_position_embeddings + 1];
    for error in [
        generator.next_logits(&long).unwrap_err(),
        generator.logprobs(&long).unwrap_err(),
        generator.embed(&long, Pooling::Mean, true).unwrap_err(),
    ] {
        assert_error!(error, Error::ContextFull { .. }, ["do not fit"]);
    }
}
