//! Models and generation against transformers' outputs in tests/fixtures.

mod common;

use common::{
    TINY_CODER, all_logits, assert_close, assert_extract, assert_statistics, expected, fixture,
    ids, load_f32, numbers, to_f64,
};
use metal_candle::inference::FinishReason;
use metal_candle::{GenerateOptions, Generator};
use std::ops::ControlFlow;

const MODELS: [&str; 12] = [
    "qwen2_tied",
    "qwen2_tied_sharded",
    "qwen2_tied_pickle",
    "qwen2_untied_gqa",
    "qwen2_sliding",
    "qwen2_yarn",
    "qwen2_bf16",
    "qwen2_untied_f16",
    "qwen3",
    "llama_plain",
    "llama3_scaled",
    "mistral_sliding",
];

#[test]
fn logits_agree_in_f32() {
    for name in MODELS {
        let model = load_f32(fixture("models").join(name));
        let reference = expected(&format!("models/{name}"));
        for sequence in reference["sequences"].as_array().unwrap() {
            let ids = ids(&sequence["input_ids"]);
            let logits = all_logits(&model, &ids, None);
            for (position, row) in numbers(&sequence["last3_positions"])
                .iter()
                .zip(sequence["last3_logits"].as_array().unwrap())
            {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let found = logits.get(*position as usize).unwrap();
                assert_close(name, &to_f64(&found), &numbers(row), 1e-4);
            }
            let all = to_f64(&logits);
            assert_eq!(
                all.len() as u64,
                sequence["all_logits"]["count"].as_u64().unwrap()
            );
            assert_statistics(name, &all, &sequence["all_logits"]);
        }
    }
}

#[test]
fn greedy_tokens_agree() {
    for name in MODELS {
        let model = load_f32(fixture("models").join(name));
        let mut generator = Generator::new(&model);
        for sequence in expected(&format!("models/{name}"))["sequences"]
            .as_array()
            .unwrap()
        {
            // Prefill at once, in chunks, and a token at a time.
            for prefill_chunk in [512, 7, 1] {
                let options = GenerateOptions {
                    max_tokens: 16,
                    prefill_chunk,
                    ignore_eos: true,
                    ..GenerateOptions::default()
                };
                let prompt = ids(&sequence["input_ids"]);
                generator.truncate(0);
                let found = generator
                    .generate_from_ids(&prompt, &options, |_| ControlFlow::Continue(()))
                    .unwrap();
                assert_eq!(found.tokens, ids(&sequence["greedy_ids"]), "{name}");
                assert_eq!(found.finish_reason, FinishReason::Length);
                assert_eq!(found.prompt_tokens, prompt.len());
                assert_eq!(found.cached_tokens, 0);
                assert!(found.text.is_empty());
            }
        }
    }
}

#[test]
fn tiny_coder_agrees() {
    let model = load_f32(TINY_CODER);
    let tokenizer = model.tokenizer().unwrap();
    let mut generator = Generator::new(&model);
    for prompt in expected("tiny_coder")["prompts"].as_array().unwrap() {
        let name = prompt["name"].as_str().unwrap();
        let text = prompt["text"].as_str().unwrap();
        let input = tokenizer.encode(text, true).unwrap();
        assert_eq!(input, ids(&prompt["input_ids"]), "{name}");
        let logits = all_logits(&model, &input, None);
        let last = to_f64(&logits.get(input.len() - 1).unwrap());
        assert_extract(name, &last, &prompt["last_logits"], 1e-4);

        let options = GenerateOptions {
            max_tokens: 32,
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let mut streamed = String::new();
        let found = generator
            .generate(text, &options, |chunk| {
                streamed.push_str(&chunk.text);
                ControlFlow::Continue(())
            })
            .unwrap();
        let greedy = ids(&prompt["greedy_ids"]);
        assert_eq!(found.tokens, greedy, "{name}");
        assert_eq!(
            tokenizer.decode(&greedy, false).unwrap(),
            prompt["greedy_text"],
            "{name}"
        );
        assert_eq!(
            found.text,
            tokenizer.decode(&greedy, true).unwrap(),
            "{name}"
        );
        assert_eq!(streamed, found.text, "{name}");
        if let Some(first_eos) = prompt["first_eos"].as_u64() {
            let stopped = generator
                .generate(
                    text,
                    &GenerateOptions {
                        ignore_eos: false,
                        ..options
                    },
                    |_| ControlFlow::Continue(()),
                )
                .unwrap();
            assert_eq!(stopped.finish_reason, FinishReason::Stop);
            assert_eq!(stopped.tokens.len() as u64, first_eos);
        }
    }
}

#[test]
fn perplexity_agrees() {
    let model = load_f32(TINY_CODER);
    let reference = &expected("tiny_coder")["perplexity"];
    let input = ids(&reference["input_ids"]);
    let text = reference["text"].as_str().unwrap();
    assert_eq!(
        model.tokenizer().unwrap().encode(text, false).unwrap(),
        input
    );
    let logits = all_logits(&model, &input, None);
    let logits = logits.to_device(&candle_core::Device::Cpu).unwrap();
    let log_softmax = candle_nn::ops::log_softmax(&logits, 1)
        .unwrap()
        .to_vec2::<f32>()
        .unwrap();
    let nll: Vec<f64> = input
        .iter()
        .skip(1)
        .zip(&log_softmax)
        .map(|(&id, row)| -f64::from(row[id as usize]))
        .collect();
    assert_close(
        "first8",
        &nll[..8],
        &numbers(&reference["first8_nll"]),
        1e-4,
    );
    let sum: f64 = nll.iter().sum();
    let expected = reference["sum_nll"].as_f64().unwrap();
    assert!((sum / expected - 1.0).abs() < 1e-5, "{sum} {expected}");
}
