//! Chats and code between two parts, from the prompt to the text.

mod common;

use common::{TINY_CODER, expected, fixture, ids, load_f32};
use metal_candle::models::{ChatOptions, FimContext};
use metal_candle::{Error, GenerateOptions, Generator};
use serde_json::json;
use std::ops::ControlFlow;

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        ..GenerateOptions::default()
    }
}

#[test]
fn a_chat_reads_only_what_is_new() {
    let model = load_f32(TINY_CODER);
    let tokenizer = model.tokenizer().unwrap();
    let mut generator = Generator::new(&model);
    let mut messages = vec![json!({"role": "user", "content": "Reverse a string."})];
    let mut known = 0;
    for question in ["And sort it.", "Thanks!"] {
        let found = generator
            .chat(
                &json!(messages),
                &ChatOptions::default(),
                &options(8),
                |_| ControlFlow::Continue(()),
            )
            .unwrap();
        let text = model.chat_template().unwrap();
        let text = text
            .render(&json!(messages), &ChatOptions::default())
            .unwrap();
        assert!(text.ends_with("<|im_start|>assistant\n"), "{text}");
        let prompt = tokenizer.encode(&text, false).unwrap();
        assert_eq!(generator.context()[..prompt.len()], prompt);
        assert!(
            found.cached_tokens >= known,
            "{} {known}",
            found.cached_tokens
        );
        known = prompt.len();
        messages.push(json!({"role": "assistant", "content": found.text}));
        messages.push(json!({"role": "user", "content": question}));
    }
    let mut base = Generator::new(&load_f32(fixture("models/qwen2_tied")));
    let error = base.chat(
        &json!(messages),
        &ChatOptions::default(),
        &options(1),
        |_| ControlFlow::Continue(()),
    );
    assert_error!(
        error.unwrap_err(),
        Error::FileNotFound { .. },
        ["chat template"]
    );
}

#[test]
fn the_middle_is_the_references() {
    let model = load_f32(TINY_CODER);
    let prompts = expected("tiny_coder")["prompts"].clone();
    let prompts = prompts.as_array().unwrap();
    let case = prompts
        .iter()
        .find(|prompt| prompt["name"] == "fim")
        .unwrap();
    let (prefix, suffix) = (&case["fim"]["prefix"], &case["fim"]["suffix"]);
    let greedy = ids(&case["greedy_ids"]);
    let mut generator = Generator::new(&model);
    let found = generator
        .complete(
            prefix.as_str().unwrap(),
            suffix.as_str().unwrap(),
            &FimContext::default(),
            &options(greedy.len()),
            |_| ControlFlow::Continue(()),
        )
        .unwrap();
    let ends = model.fim_stop_token_ids().unwrap();
    let length = greedy.iter().position(|id| ends.contains(id));
    assert_eq!(found.tokens, greedy[..length.unwrap_or(greedy.len())]);
    let prompt = ids(&case["input_ids"]);
    assert_eq!(found.prompt_tokens, prompt.len());
    assert_eq!(generator.context()[..prompt.len()], prompt);
}
