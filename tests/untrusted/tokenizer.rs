//! Tokenizers that lie.

use super::{assert_named, load, replace};
use crate::common::{TINY_CODER, copy_of, fixture, read_json};
use serde_json::{Value, json};
use std::path::Path;

/// A byte-level tokenizer of these tokens.
pub fn tokenizer(vocabulary: &Value) -> Value {
    let mut json = read_json(&Path::new(TINY_CODER).join("tokenizer.json"));
    json["added_tokens"] = json!([]);
    json["model"]["vocab"] = vocabulary.clone();
    json["model"]["merges"] = json!([]);
    json
}

#[test]
fn tokenizers_that_lie() {
    let model = copy_of(fixture("models/qwen2_tied"));
    let many: serde_json::Map<_, _> = (0..300).map(|i| (format!("t{i}"), json!(i))).collect();
    let with = |key: &str, value: Value| {
        let mut json = tokenizer(&json!({"a": 0, "b": 1, "ab": 2}));
        json["model"][key] = value;
        json
    };
    let regex = |pattern: &str| {
        let mut json = tokenizer(&json!({"a": 0}));
        json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": pattern},
            "behavior": "Isolated", "invert": false});
        json
    };
    for (json, variant, words) in [
        (
            tokenizer(&json!(many)),
            "InvalidConfig",
            ["config.json", "`vocab_size` is 208", "300"],
        ),
        (
            tokenizer(&json!({"a": 208})),
            "InvalidConfig",
            ["config.json", "`vocab_size` is 208", "which is 208"],
        ),
        (
            tokenizer(&json!({"a": u32::MAX})),
            "InvalidConfig",
            ["config.json", "`vocab_size` is 208", "which is 4294967295"],
        ),
        (
            tokenizer(&json!({"a": -1})),
            "InvalidFormat",
            ["tokenizer.json", "tokenizer", ""],
        ),
        (
            tokenizer(&json!({"a": 1u64 << 40})),
            "InvalidFormat",
            ["tokenizer.json", "tokenizer", ""],
        ),
        (
            tokenizer(&json!([])),
            "InvalidFormat",
            ["tokenizer.json", "tokenizer", ""],
        ),
        (
            with("merges", json!([["a", "x"]])),
            "InvalidFormat",
            ["tokenizer.json", "x", ""],
        ),
        (
            with("merges", json!([["b", "a"]])),
            "InvalidFormat",
            ["tokenizer.json", "ba", ""],
        ),
        (
            with("merges", json!(["a"])),
            "InvalidFormat",
            ["tokenizer.json", "", ""],
        ),
        (
            with("type", json!("Other")),
            "InvalidFormat",
            ["tokenizer.json", "", ""],
        ),
        (regex("("), "InvalidFormat", ["tokenizer.json", "", ""]),
        (
            regex(&"(".repeat(100_000)),
            "InvalidFormat",
            ["tokenizer.json", "deeply", ""],
        ),
        (
            regex("((a{1000}){1000}){1000}"),
            "InvalidFormat",
            ["tokenizer.json", "", ""],
        ),
    ] {
        replace(model.path(), "tokenizer.json", json.to_string());
        let error = load(model.path()).expect_err(words[1]);
        assert_named(&error, variant, &words);
    }
    // The embedding may have rows that no token has.
    replace(
        model.path(),
        "tokenizer.json",
        with("merges", json!([["a", "b"]])).to_string(),
    );
    let loaded = load(model.path()).unwrap();
    assert_eq!(
        loaded.tokenizer().unwrap().encode("ab", false).unwrap(),
        [2]
    );
}
