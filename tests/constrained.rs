//! What a model generates under a JSON schema meets the schema.

mod common;

use candle_core::Tensor;
use common::{TINY_CODER, affordable, load_f32};
use metal_candle::inference::{Constraint, Grammar, GrammarVocabulary, Sampler, SamplingOptions};
use serde_json::{Value, json};

/// A small schema with a choice, a number and a string.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "kind": {"enum": ["fn", "struct", "enum"]},
            "lines": {"type": "integer", "minimum": 1, "maximum": 999},
            "name": {"type": "string", "pattern": "^[a-z_]{1,4}$"},
        },
        "required": ["kind", "lines", "name"],
        "additionalProperties": false,
    })
}

fn assert_valid(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["kind", "lines", "name"], "{text}");
    assert!(
        ["fn", "struct", "enum"].contains(&value["kind"].as_str().unwrap()),
        "{text}"
    );
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
    let (decoder, tokenizer) = (model.decoder(), model.tokenizer().unwrap());
    let vocab_size = model.config().vocab_size;
    let vocabulary = GrammarVocabulary::new(tokenizer, model.eos_token_ids(), vocab_size).unwrap();
    let fresh = Constraint::new(&vocabulary, &Grammar::JsonSchema(schema())).unwrap();
    let forward = |ids: &[u32], cache: &mut _| -> Vec<f32> {
        let tokens = Tensor::new(ids, model.device())
            .unwrap()
            .unsqueeze(0)
            .unwrap();
        let hidden = decoder.forward(&tokens, Some(cache), None).unwrap();
        let last = hidden
            .squeeze(0)
            .unwrap()
            .narrow(0, ids.len() - 1, 1)
            .unwrap();
        decoder
            .logits(&last)
            .unwrap()
            .squeeze(0)
            .unwrap()
            .to_vec1()
            .unwrap()
    };
    let mut cache = decoder.new_cache();
    let prompt = tokenizer
        .encode("// An item of a crate, as JSON:\n", false)
        .unwrap();
    let first = forward(&prompt, &mut cache);
    let mut texts = std::collections::HashSet::new();
    let runs = affordable(200);
    for seed in 0..runs {
        let options = SamplingOptions {
            temperature: 1.0,
            seed: seed as u64,
            ..SamplingOptions::default()
        };
        let mut sampler = Sampler::new(options).unwrap();
        let mut constraint = fresh.clone();
        cache.truncate(prompt.len());
        let (mut logits, mut ids) = (first.clone(), vec![]);
        loop {
            constraint.mask(&mut logits).unwrap();
            let id = sampler.sample(&logits, ids.len()).unwrap();
            constraint.accept(id).unwrap();
            ids.push(id);
            if constraint.is_complete() {
                break;
            }
            assert!(ids.len() < 40, "{:?}", tokenizer.decode(&ids, false));
            // The model takes the text that is forced in one pass.
            let mut next = vec![id];
            for id in constraint.forced().unwrap() {
                constraint.accept(id).unwrap();
                next.push(id);
            }
            ids.extend(&next[1..]);
            if constraint.is_complete() {
                break;
            }
            logits = forward(&next, &mut cache);
        }
        let text = tokenizer.decode(&ids, false).unwrap();
        assert_valid(&text);
        texts.insert(text);
    }
    // The constraint leaves the model its choices.
    assert!(texts.len() > runs * 3 / 4, "{}", texts.len());
}
