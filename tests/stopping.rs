//! How a generation ends, and what each token is reported with.

mod common;

use common::{TINY_CODER, expected, fixture, ids, load_f32, numbers};
use metal_candle::inference::FinishReason;
use metal_candle::{Chunk, Error, GenerateOptions, Generation, Generator, Model, SamplingOptions};
use std::ops::ControlFlow;
use std::time::Duration;

const PROMPT: &str = "fn add(a: i32, b: i32) -> i32 {\n";

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

/// The generation, and its chunks.
fn generate(model: &Model, options: &GenerateOptions) -> (Generation, Vec<Chunk>) {
    let mut chunks = vec![];
    let generation = Generator::new(model)
        .generate(PROMPT, options, |chunk| {
            chunks.push(chunk.clone());
            ControlFlow::Continue(())
        })
        .unwrap();
    let streamed: String = chunks.iter().map(|chunk| chunk.text.as_str()).collect();
    assert_eq!(streamed, generation.text);
    (generation, chunks)
}

#[test]
fn a_stop_string_ends_the_text_and_is_cut_out_of_it() {
    let model = load_f32(TINY_CODER);
    let (whole, _) = generate(&model, &options(32));
    // From every place of the text, so that stop strings begin and end within tokens.
    let starts: Vec<usize> = whole.text.char_indices().map(|(i, _)| i).collect();
    for window in starts.windows(6).step_by(5) {
        let stop = &whole.text[window[0]..window[5]];
        let first = whole.text.find(stop).unwrap();
        let options = GenerateOptions {
            stop: vec!["not in the text".to_owned(), stop.to_owned()],
            ..options(32)
        };
        let (found, _) = generate(&model, &options);
        assert_eq!(found.text, whole.text[..first], "{stop:?}");
        assert_eq!(found.finish_reason, FinishReason::StopString);
        assert_eq!(found.stop_string.as_deref(), Some(stop));
        assert_eq!(found.tokens, whole.tokens[..found.tokens.len()]);
    }
}

#[test]
fn text_that_may_become_a_stop_string_comes_out_at_the_end() {
    let model = load_f32(TINY_CODER);
    let (whole, _) = generate(&model, &options(12));
    let end: String = whole.text.chars().rev().take(3).collect();
    let end: String = end.chars().rev().collect();
    let options = GenerateOptions {
        stop: vec![format!("{end} and what does not come")],
        ..options(12)
    };
    let (found, chunks) = generate(&model, &options);
    assert_eq!(found.text, whole.text);
    assert_eq!(found.finish_reason, FinishReason::Length);
    assert_eq!(found.stop_string, None);
    // One for each token, and one with the rest.
    assert_eq!(chunks.len(), 13);
    assert_eq!((chunks[12].index, chunks[12].token), (11, found.tokens[11]));
}

#[test]
fn what_is_held_back_comes_out_unless_the_callback_stopped() {
    let model = load_f32(TINY_CODER);
    let (whole, _) = generate(&model, &options(12));
    let options = GenerateOptions {
        stop: vec![format!("{} and what does not come", whole.text)],
        ..options(12)
    };
    for by_callback in [false, true] {
        let mut generator = Generator::new(&model);
        let handle = generator.cancel_handle();
        let mut streamed = String::new();
        let found = generator.generate(PROMPT, &options, |chunk| {
            streamed.push_str(&chunk.text);
            match (chunk.index, by_callback) {
                (5, true) => return ControlFlow::Break(()),
                (5, false) => handle.cancel(),
                _ => {}
            }
            ControlFlow::Continue(())
        });
        let found = found.unwrap();
        assert_eq!(found.finish_reason, FinishReason::Cancelled);
        assert_eq!(found.tokens, whole.tokens[..6]);
        assert!(!found.text.is_empty() && whole.text.starts_with(&found.text));
        assert_eq!(streamed, if by_callback { "" } else { &found.text });
    }
}

#[test]
fn tokens_that_end_the_text() {
    let model = load_f32(TINY_CODER);
    let (whole, _) = generate(&model, &options(16));
    let stop = whole.tokens[9];
    let first = whole.tokens.iter().position(|&t| t == stop).unwrap();
    let with_stop = GenerateOptions {
        stop_token_ids: vec![stop],
        ..options(16)
    };
    let (found, _) = generate(&model, &with_stop);
    assert_eq!(found.tokens, whole.tokens[..first]);
    assert_eq!(found.finish_reason, FinishReason::Stop);

    // Not before so many tokens.
    let later = GenerateOptions {
        min_tokens: first + 3,
        ..with_stop
    };
    let (found, _) = generate(&model, &later);
    assert_eq!(found.tokens[..first], whole.tokens[..first]);
    assert!(found.tokens.len() >= first + 3);
    assert!(!found.tokens[..first + 3].contains(&stop));
}

#[test]
fn the_model_ends_a_text_unless_told_not_to() {
    let model = load_f32(TINY_CODER);
    let end = model.eos_token_ids()[0];
    let prompt = model.tokenizer().unwrap().encode(PROMPT, true).unwrap();
    let length = prompt.len() + 3;
    for ignore_eos in [false, true] {
        let mut generator = Generator::new(&model);
        generator.set_logits_processor(move |tokens: &[u32], logits: &mut [f32]| {
            if tokens.len() == length {
                logits[end as usize] = 1e6;
            }
            Ok(())
        });
        let options = GenerateOptions {
            ignore_eos,
            ..options(8)
        };
        let found = generator
            .generate_from_ids(&prompt, &options, |_| ControlFlow::Continue(()))
            .unwrap();
        if ignore_eos {
            assert_eq!((found.tokens.len(), found.tokens[3]), (8, end));
            assert_eq!(found.finish_reason, FinishReason::Length);
        } else {
            assert_eq!(found.tokens.len(), 3);
            assert_eq!(found.finish_reason, FinishReason::Stop);
        }
    }
}

#[test]
fn time_can_be_limited() {
    let model = load_f32(TINY_CODER);
    let options = GenerateOptions {
        max_time: Some(Duration::from_nanos(1)),
        ..options(8)
    };
    let (found, chunks) = generate(&model, &options);
    assert_eq!(found.finish_reason, FinishReason::TimeLimit);
    assert!(found.tokens.is_empty() && chunks.is_empty());

    let mut generator = Generator::new(&model);
    let options = GenerateOptions {
        max_time: Some(Duration::from_secs(3)),
        ..options
    };
    let found = generator
        .generate(PROMPT, &options, |chunk| {
            if chunk.index == 2 {
                std::thread::sleep(Duration::from_secs(3));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(found.finish_reason, FinishReason::TimeLimit);
    assert!(found.tokens.len() <= 3);
}

#[test]
fn log_probabilities_are_the_references() {
    let model = load_f32(TINY_CODER);
    for prompt in expected("tiny_coder")["prompts"].as_array().unwrap() {
        let reference = numbers(&prompt["greedy_logprobs"]);
        let options = GenerateOptions {
            top_logprobs: 5,
            // They are the model's, whatever the options do to the choice.
            sampling: SamplingOptions {
                temperature: 0.0,
                top_k: 3,
                ..SamplingOptions::default()
            },
            ..options(reference.len())
        };
        let mut chunks = vec![];
        let found = Generator::new(&model)
            .generate_from_ids(&ids(&prompt["input_ids"]), &options, |chunk| {
                chunks.push(chunk.clone());
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(found.tokens, ids(&prompt["greedy_ids"]));
        for (index, (&found, &expected)) in found.logprobs.iter().zip(&reference).enumerate() {
            assert!(
                (f64::from(found) - expected).abs() < 1e-3,
                "{found} {expected}"
            );
            let chunk = &chunks[index];
            assert_eq!(chunk.logprob.to_bits(), found.to_bits());
            // The greedy token is the most likely one.
            assert_eq!(chunk.top_logprobs.len(), 5);
            assert_eq!(chunk.top_logprobs[0].token, chunk.token);
            assert_eq!(chunk.top_logprobs[0].logprob.to_bits(), found.to_bits());
            let descending = chunk.top_logprobs.windows(2);
            assert!(descending.into_iter().all(|w| w[0].logprob >= w[1].logprob));
        }
    }
}

#[test]
fn special_tokens_are_left_out_unless_asked_for() {
    let model = load_f32(TINY_CODER);
    let end = model.eos_token_ids()[0];
    let mut generator = Generator::new(&model);
    generator.set_logits_processor(move |tokens: &[u32], logits: &mut [f32]| {
        if tokens.len().is_multiple_of(2) {
            logits.fill(f32::NEG_INFINITY);
            logits[end as usize] = 0.0;
        }
        Ok(())
    });
    let mut text = |skip_special_tokens| {
        let options = GenerateOptions {
            skip_special_tokens,
            ..options(6)
        };
        let found = generator.generate(PROMPT, &options, |_| ControlFlow::Continue(()));
        found.unwrap().text
    };
    assert_eq!(text(false).matches("<|endoftext|>").count(), 3);
    assert!(!text(true).contains("<|endoftext|>"));
}

#[test]
fn a_processor_sees_all_tokens_and_its_error_is_the_generations() {
    let model = load_f32(TINY_CODER);
    let prompt = model.tokenizer().unwrap().encode(PROMPT, true).unwrap();
    let banned = generate(&model, &options(1)).0.tokens[0];
    let mut generator = Generator::new(&model);
    let expected_prompt = prompt.clone();
    let mut calls = 0;
    generator.set_logits_processor(move |tokens: &[u32], logits: &mut [f32]| {
        assert_eq!(tokens[..expected_prompt.len()], expected_prompt);
        assert_eq!(tokens.len(), expected_prompt.len() + calls % 5);
        calls += 1;
        logits[banned as usize] = f32::NEG_INFINITY;
        match calls {
            6 => Err(Error::InvalidOption {
                name: "mine",
                found: "enough".to_owned(),
                expected: "five".to_owned(),
            }),
            _ => Ok(()),
        }
    });
    let go_on = |_: &Chunk| ControlFlow::Continue(());
    let found = generator.generate(PROMPT, &options(5), go_on).unwrap();
    assert!(!found.tokens.contains(&banned));
    let error = generator.generate(PROMPT, &options(5), go_on).unwrap_err();
    assert!(error.to_string().contains("`mine` is enough"), "{error}");
    generator.remove_logits_processor();
    let found = generator.generate(PROMPT, &options(1), go_on).unwrap();
    assert_eq!(found.tokens, [banned]);
}

#[test]
fn options_that_do_not_fit_the_model_are_named() {
    let model = load_f32(fixture("models/qwen2_tied"));
    let mut generator = Generator::new(&model);
    let mut error = |options: GenerateOptions| {
        let go_on = |_: &Chunk| ControlFlow::Continue(());
        let result = generator.generate_from_ids(&[1, 2, 3], &options, go_on);
        result.unwrap_err().to_string()
    };
    let stop = error(GenerateOptions {
        stop: vec!["x".to_owned()],
        ..options(1)
    });
    assert!(stop.contains("has no tokenizer.json"), "{stop}");
    let id = error(GenerateOptions {
        stop_token_ids: vec![7, 9_999_999],
        ..options(1)
    });
    assert!(id.contains("`stop_token_ids` is token id 9999999"), "{id}");
    let keep = error(GenerateOptions {
        context_shift: true,
        max_kv_size: Some(16),
        keep: 8,
        ..options(1)
    });
    assert!(keep.contains("`keep` is 8; expected below half"), "{keep}");
}
