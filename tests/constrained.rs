//! What a model generates under a JSON schema meets the schema.

mod common;

use common::{TINY_CODER, affordable, fixture, load_f32};
use metal_candle::inference::{BatchGenerator, FinishReason, Grammar};
use metal_candle::{Error, GenerateOptions, Generator, SamplingOptions};
use serde_json::{Value, json};
use std::ops::ControlFlow;

/// A number and a string, in few tokens.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "lines": {"type": "integer", "minimum": 1, "maximum": 999},
            "name": {"type": "string", "pattern": "^[a-z_]{1,4}$"},
        },
        "required": ["lines", "name"],
        "additionalProperties": false,
    })
}

fn assert_valid(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["lines", "name"], "{text}");
    assert!(
        (1..=999).contains(&value["lines"].as_u64().unwrap()),
        "{text}"
    );
    let name = value["name"].as_str().unwrap();
    assert!((1..=4).contains(&name.len()), "{text}");
    assert!(
        name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()),
        "{text}"
    );
}

#[test]
fn whatever_the_model_generates_is_valid() {
    let model = load_f32(TINY_CODER);
    let mut generator = Generator::new(&model);
    let mut texts = std::collections::HashSet::new();
    let (mut drafted, mut accepted) = (0, 0);
    let runs = affordable(200);
    for seed in 0..runs {
        let options = GenerateOptions {
            max_tokens: 40,
            grammar: Some(Grammar::JsonSchema(schema())),
            sampling: SamplingOptions {
                temperature: 1.0,
                seed: seed as u64,
                ..SamplingOptions::default()
            },
            ..GenerateOptions::default()
        };
        let prompt = "// An item of a crate, as JSON:\n";
        let mut streamed = String::new();
        let found = generator
            .generate(prompt, &options, |chunk| {
                streamed.push_str(&chunk.text);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(found.finish_reason, FinishReason::Stop, "{}", found.text);
        assert_eq!(streamed, found.text);
        assert_valid(&found.text);
        texts.insert(found.text);
        drafted += found.drafted_tokens;
        accepted += found.accepted_tokens;
    }
    // The constraint leaves the model its choices.
    assert!(texts.len() > runs * 3 / 4, "{}", texts.len());
    // What is forced is read at once.
    assert!(
        drafted >= accepted && accepted > runs,
        "{accepted} of {drafted}"
    );
}

#[test]
fn a_grammar_ends_the_text_with_other_options_at_work() {
    let model = load_f32(TINY_CODER);
    let options = |grammar| GenerateOptions {
        max_tokens: 30,
        grammar: Some(grammar),
        ..GenerateOptions::default()
    };
    let generate = |options: &GenerateOptions| {
        let mut generator = Generator::new(&model);
        let found = generator.generate("let x = ", options, |_| ControlFlow::Continue(()));
        found.unwrap()
    };
    // The end of a text is the only thing that may follow, and is not held back.
    let word = options(Grammar::Regex("yes|no".to_owned()));
    for options in [
        word.clone(),
        GenerateOptions {
            ignore_eos: true,
            min_tokens: 9,
            ..word.clone()
        },
        GenerateOptions {
            prompt_lookup_num_tokens: 4,
            ..word.clone()
        },
    ] {
        let found = generate(&options);
        assert!(
            ["yes", "no"].contains(&found.text.as_str()),
            "{}",
            found.text
        );
        assert_eq!(found.finish_reason, FinishReason::Stop);
    }
    let list = r#"start: item ("," item)*
        item: /[0-9]{1,3}/"#;
    let found = generate(&GenerateOptions {
        max_tokens: 6,
        ..options(Grammar::Lark(list.to_owned()))
    });
    assert!(
        found.text.split(',').all(|item| item.len() <= 3),
        "{}",
        found.text
    );
    assert!(found.text.bytes().all(|b| b == b',' || b.is_ascii_digit()));

    let mut batch = BatchGenerator::new(&model, 2).unwrap();
    batch.push("let x = ", &word).unwrap();
    batch
        .push("let x = ", &options(Grammar::Regex("[a-c]{5}".to_owned())))
        .unwrap();
    for (sequence, found) in batch.run(|_| ControlFlow::Continue(())) {
        let text = found.unwrap().text;
        match sequence {
            0 => assert_eq!(text, generate(&word).text),
            _ => assert!(text.len() == 5 && text.bytes().all(|b| (b'a'..=b'c').contains(&b))),
        }
    }
}

#[test]
fn the_end_of_a_text_under_a_grammar() {
    let model = load_f32(TINY_CODER);
    let end = model.eos_token_ids()[0];
    let comma = model.tokenizer().unwrap().encode(",", false).unwrap()[0];
    // A model that would end at once, or with a comma.
    let generate = |options: GenerateOptions| {
        let mut generator = Generator::new(&model);
        generator.set_logits_processor(move |_: &[u32], logits: &mut [f32]| {
            logits[end as usize] = 1e4;
            logits[comma as usize] = 2e4;
            Ok(())
        });
        let options = GenerateOptions {
            max_tokens: 12,
            grammar: Some(Grammar::Regex("[a-z ]+".to_owned())),
            skip_special_tokens: false,
            ..options
        };
        let found = generator.generate("let x = ", &options, |_| ControlFlow::Continue(()));
        let found = found.unwrap();
        let letters = |b: u8| b == b' ' || b.is_ascii_lowercase();
        assert!(found.text.bytes().all(letters), "{}", found.text);
        assert!(!found.tokens.contains(&end) && !found.tokens.contains(&comma));
        (found.tokens.len(), found.finish_reason)
    };
    let base = GenerateOptions::default;
    assert_eq!(generate(base()), (1, FinishReason::Stop));
    let early = GenerateOptions {
        min_tokens: 5,
        ..base()
    };
    assert_eq!(generate(early.clone()), (5, FinishReason::Stop));
    let on = GenerateOptions {
        ignore_eos: true,
        ..base()
    };
    assert_eq!(generate(on.clone()), (12, FinishReason::Length));
    // A token of the caller's ends the text where the grammar lets it end, and only there.
    let stop = |options| GenerateOptions {
        stop_token_ids: vec![comma],
        ..options
    };
    assert_eq!(generate(stop(on)), (1, FinishReason::Stop));
    assert_eq!(generate(stop(early)), (5, FinishReason::Stop));
    let closed = GenerateOptions {
        grammar: Some(Grammar::Regex("[a-z]{8}".to_owned())),
        ..stop(base())
    };
    let mut generator = Generator::new(&model);
    let found = generator.generate("let x = ", &closed, |_| ControlFlow::Continue(()));
    assert_eq!(found.unwrap().text.len(), 8);
}

#[test]
fn what_a_grammar_forces_is_read_in_parts() {
    let model = load_f32(TINY_CODER);
    let long = "abc ".repeat(100);
    let options = GenerateOptions {
        max_tokens: 400,
        prefill_chunk: 16,
        grammar: Some(Grammar::JsonSchema(json!({"const": long}))),
        ..GenerateOptions::default()
    };
    let mut generator = Generator::new(&model);
    let mut seen = 0;
    let found = generator.generate("let x = ", &options, |_| {
        seen += 1;
        ControlFlow::Continue(())
    });
    let found = found.unwrap();
    assert_eq!(found.text, json!(long).to_string());
    assert_eq!(seen, found.tokens.len());
    // A callback stops it in the middle of what was read.
    let stopped = generator.generate("let x = ", &options, |chunk| match chunk.index {
        20 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert_eq!(stopped.unwrap().tokens, found.tokens[..21]);
}

#[test]
fn a_grammar_that_cannot_be_met_is_refused_before_anything_is_computed() {
    let model = load_f32(TINY_CODER);
    let mut generator = Generator::new(&model);
    for grammar in [
        Grammar::JsonSchema(json!({"type": "integer", "minimum": 5, "maximum": 3})),
        Grammar::JsonSchema(json!(false)),
        Grammar::Regex("(".to_owned()),
        Grammar::Lark("start: missing".to_owned()),
    ] {
        let options = GenerateOptions {
            grammar: Some(grammar),
            ..GenerateOptions::default()
        };
        let mut chunks = 0;
        let result = generator.generate("let x = ", &options, |_| {
            chunks += 1;
            ControlFlow::Continue(())
        });
        assert_error!(
            result.unwrap_err(),
            Error::InvalidOption { .. },
            ["unusable"]
        );
        assert_eq!(chunks, 0);
        assert!(generator.context().is_empty());
    }
    let mut generator = Generator::new(&load_f32(fixture("models/qwen2_tied")));
    let options = GenerateOptions {
        grammar: Some(Grammar::Regex("a".to_owned())),
        ..GenerateOptions::default()
    };
    let result = generator.generate_from_ids(&[1], &options, |_| ControlFlow::Continue(()));
    assert_error!(
        result.unwrap_err(),
        Error::Tokenizer { .. },
        ["tokenizer.json"]
    );
}
