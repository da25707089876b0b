//! Chat templates render, byte for byte, what transformers renders.

mod common;

use common::{fixture, read_json};
use metal_candle::models::{ChatOptions, ChatTemplate};
use serde_json::Value;
use std::fs;

/// A model directory with one of the templates, as far as templates go.
fn template(source: &str, special_tokens: &Value) -> ChatTemplate {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("chat_template.jinja"), source).unwrap();
    let config = special_tokens.to_string();
    fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    ChatTemplate::from_dir(dir.path()).unwrap().unwrap()
}

#[test]
fn conversations_are_those_of_transformers() {
    let reference = read_json(&fixture("chat/conversations.json"));
    for (name, expected) in reference["expected"].as_object().unwrap() {
        let source = fs::read_to_string(fixture("chat").join(format!("{name}.jinja"))).unwrap();
        let template = template(&source, &reference["special_tokens"]);
        for case in reference["cases"].as_array().unwrap() {
            let what = case["name"].as_str().unwrap();
            let options = ChatOptions::from_json(&case["options"]).unwrap();
            let text = template.render(&case["messages"], &options).unwrap();
            assert_eq!(text, expected[what].as_str().unwrap(), "{name}, {what}");
        }
    }
}

/// What templates are made of: printing, JSON, methods, filters, tests, loops, macros, white space.
#[test]
fn the_language_is_that_of_transformers() {
    let reference = read_json(&fixture("chat/language.json"));
    let mut options = ChatOptions {
        add_generation_prompt: false,
        ..ChatOptions::default()
    };
    options.arguments = reference["variables"].as_object().unwrap().clone();
    let messages = options.arguments.remove("messages").unwrap();
    for snippet in reference["snippets"].as_array().unwrap() {
        let source = snippet["template"].as_str().unwrap();
        let text =
            ChatTemplate::new(source).and_then(|template| template.render(&messages, &options));
        match (snippet["text"].as_str(), text) {
            (Some(expected), Ok(text)) => assert_eq!(text, expected, "{source}"),
            (None, Err(error)) => assert!(error.to_string().starts_with("chat template: ")),
            (expected, text) => panic!("{source}: {text:?}; expected {expected:?}"),
        }
    }
}
