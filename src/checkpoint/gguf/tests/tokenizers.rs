//! Tokenizers as llama.cpp reads them, and those that it does not know.

use super::{FIXTURES, TINY_CODER, byte_level, load, with_tokenizer, written};
use crate::checkpoint::GgufType;
use crate::error::Error;
use crate::models::Model;
use serde_json::{Value as Json, json};
use std::fs;

const BYTES_FIRST: usize = 3;

/// A tokenizer as `SentencePiece`'s, of `<unk>`, `<s>`, `</s>`, the bytes and these pieces.
fn sentence_piece(pieces: &[&str], merges: &Json) -> Json {
    let mut tokenizer = byte_level();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
    };
    let names = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let pieces = pieces.iter().map(|piece| (*piece).to_owned());
    let vocab: serde_json::Map<_, _> = (names.into_iter().chain(bytes).chain(pieces))
        .zip((0..).map(|id: u32| json!(id)))
        .collect();
    tokenizer["added_tokens"] = json!([special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")]);
    tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    tokenizer["pre_tokenizer"] = json!(null);
    tokenizer["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
    tokenizer["model"]["byte_fallback"] = json!(true);
    tokenizer["model"]["unk_token"] = json!("<unk>");
    tokenizer["model"]["vocab"] = Json::Object(vocab);
    tokenizer["model"]["merges"] = merges.clone();
    tokenizer
}

#[test]
fn a_byte_level_tokenizer_is_written_as_it_is() {
    let model = load(TINY_CODER);
    let file = written(&model, GgufType::F16);
    assert_eq!(file.text("tokenizer.ggml.model"), "gpt2");
    assert_eq!(file.text("tokenizer.ggml.pre"), "qwen2");
    let tokenizer = fs::read(format!("{TINY_CODER}/tokenizer.json")).unwrap();
    let tokenizer: Json = serde_json::from_slice(&tokenizer).unwrap();
    let tokens = file.texts("tokenizer.ggml.tokens");
    assert_eq!(tokens.len(), 6144);
    for (token, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
        let id = usize::try_from(id.as_u64().unwrap()).unwrap();
        assert_eq!(tokens[id], token);
    }
    assert_eq!(tokens[6136], "<|im_start|>");
    let expected = tokenizer["model"]["merges"].as_array().unwrap().iter();
    let expected: Vec<_> = expected
        .map(|pair| {
            format!(
                "{} {}",
                pair[0].as_str().unwrap(),
                pair[1].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(file.texts("tokenizer.ggml.merges"), expected);
    let types = file.types();
    assert!(types[..6135].iter().all(|kind| *kind == 1));
    assert!(types[6135..].iter().all(|kind| *kind == 3));
    assert_eq!(file.number("tokenizer.ggml.bos_token_id"), 6135);
    assert_eq!(file.number("tokenizer.ggml.eos_token_id"), 6135);
    assert!(!file.has("tokenizer.ggml.eot_token_id"));
    assert!(
        !file
            .value("tokenizer.ggml.add_bos_token")
            .to_bool()
            .unwrap()
    );
    let template = model.chat_template().unwrap().source();
    assert_eq!(file.text("tokenizer.chat_template"), template);
    assert!(!file.has("tokenizer.chat_templates"));
}

#[test]
fn rows_without_a_token_are_padding() {
    let config = json!({"eos_token": "<end>", "chat_template": [
        {"name": "default", "template": "D"}, {"name": "tool_use", "template": "T{% if %}"}]});
    let model = with_tokenizer(&format!("{FIXTURES}/qwen2_tied"), &byte_level(), &config);
    let file = written(&model, GgufType::F16);
    assert_eq!(file.text("tokenizer.ggml.pre"), "gpt-2");
    let tokens = file.texts("tokenizer.ggml.tokens");
    let first = ["a", "b", "ab", "Ġ", "<end>", "<|x|>", "word", "[PAD7]"];
    assert_eq!((tokens.len(), &tokens[..8]), (208, &first[..]));
    assert_eq!(file.types()[..7], [1, 1, 1, 1, 3, 3, 4]);
    assert!(file.types()[7..].iter().all(|kind| *kind == 5));
    // A template that cannot be compiled is as good as another.
    assert_eq!(file.text("tokenizer.chat_template"), "D");
    assert_eq!(file.text("tokenizer.chat_template.tool_use"), "T{% if %}");
    assert_eq!(file.texts("tokenizer.chat_templates"), ["tool_use"]);
}

#[test]
fn a_tokenizer_with_byte_fallback_has_scores() {
    let pieces = ["▁", "a", "b", "▁a", "ab", "▁ab"];
    let merges = json!([["a", "b"], ["▁", "ab"], ["▁a", "b"], ["▁", "a"]]);
    let tokenizer = sentence_piece(&pieces, &merges);
    let model = with_tokenizer(TINY_CODER, &tokenizer, &json!({"eos_token": "</s>"}));
    let file = written(&model, GgufType::F16);
    assert_eq!(file.text("tokenizer.ggml.model"), "llama");
    let tokens = file.texts("tokenizer.ggml.tokens");
    assert_eq!(tokens[..4], ["<unk>", "<s>", "</s>", "<0x00>"]);
    let bytes = BYTES_FIRST..BYTES_FIRST + 256;
    assert_eq!(tokens[bytes.end..bytes.end + pieces.len()], pieces);
    let types = file.types();
    assert_eq!(types[..3], [2, 3, 3]);
    assert!(types[bytes.clone()].iter().all(|kind| *kind == 6));
    assert_eq!(types[bytes.end..bytes.end + 7], [1, 1, 1, 1, 1, 1, 5]);
    let scores = file.value("tokenizer.ggml.scores").to_vec().unwrap();
    let score = |at: usize| scores[bytes.end + at].to_f32().unwrap();
    // `ab` is made first, then `▁ab` in two ways, then `▁a`; the others are never made.
    assert!(score(4) > score(5) && score(5) > score(3) && score(3) > score(0));
    assert_eq!(scores.len(), 6144);
    assert_eq!(file.number("tokenizer.ggml.unknown_token_id"), 0);
    assert_eq!(file.number("tokenizer.ggml.bos_token_id"), 1);
    for (key, expected) in [
        ("add_bos_token", true),
        ("add_eos_token", false),
        ("add_space_prefix", true),
    ] {
        let found = file.value(&format!("tokenizer.ggml.{key}")).to_bool();
        assert_eq!(found.unwrap(), expected, "{key}");
    }
    assert!(!file.has("tokenizer.ggml.merges"));
    // As newer tokenizers write it.
    for (scheme, expected) in [("first", true), ("never", false)] {
        let mut tokenizer = tokenizer.clone();
        tokenizer["normalizer"] = json!(null);
        tokenizer["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁",
            "prepend_scheme": scheme, "split": false});
        let model = with_tokenizer(TINY_CODER, &tokenizer, &json!({}));
        let file = written(&model, GgufType::Q4_0);
        let found = file.value("tokenizer.ggml.add_space_prefix").to_bool();
        assert_eq!(found.unwrap(), expected, "{scheme}");
    }
}

#[test]
fn what_llama_cpp_does_not_know_is_refused() {
    let refused = |model: &Model, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let error = model.save_gguf(folder.path().join("x.gguf"), GgufType::F16);
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    };
    let check = |edit: &dyn Fn(&mut Json), expected: &str| {
        let mut tokenizer = byte_level();
        edit(&mut tokenizer);
        let directory = format!("{FIXTURES}/qwen2_tied");
        refused(
            &with_tokenizer(&directory, &tokenizer, &json!({})),
            expected,
        );
    };
    check(
        &|t| t["pre_tokenizer"] = json!({"type": "Whitespace"}),
        "pre-tokenizer `{\"type\":\"Whitespace\"}` is not supported; supported: those that \
         llama.cpp calls qwen2, llama-bpe",
    );
    check(
        &|t| t["model"]["ignore_merges"] = json!(true),
        "with ignore_merges",
    );
    check(&|t| t["normalizer"] = json!({"type": "NFKC"}), "normalizer");
    check(
        &|t| t["model"]["end_of_word_suffix"] = json!("</w>"),
        "end_of_word_suffix",
    );
    check(
        &|t| {
            t["model"] = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
            t["added_tokens"] = json!([]);
        },
        "tokenizer `\"WordLevel\"` is not supported; supported: BPE",
    );
    check(
        &|t| t["model"]["byte_fallback"] = json!(true),
        "byte fallback",
    );
    let pieces = ["a", "b", "c", "ab", "bc", "abc"];
    for (merges, expected) in [
        // Another way to make `abc` is `a` + `bc`.
        (
            json!([["a", "b"], ["b", "c"], ["ab", "c"]]),
            "`abc` without `a` + `bc`",
        ),
        (
            json!([["ab", "c"], ["a", "b"], ["a", "bc"], ["b", "c"]]),
            "`abc` at two places",
        ),
    ] {
        let tokenizer = sentence_piece(&pieces, &merges);
        refused(
            &with_tokenizer(TINY_CODER, &tokenizer, &json!({})),
            expected,
        );
    }
    let mut tokenizer = sentence_piece(&[], &json!([]));
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    assert!(vocab.remove("<0x0A>").is_some());
    refused(
        &with_tokenizer(TINY_CODER, &tokenizer, &json!({})),
        "no `<0x0A>`",
    );
}

#[test]
fn a_model_without_a_tokenizer_is_told_so() {
    let model = load(format!("{FIXTURES}/qwen2_tied"));
    let folder = tempfile::tempdir().unwrap();
    let error = model.save_gguf(folder.path().join("x.gguf"), GgufType::F16);
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
    assert!(error.to_string().contains("no tokenizer.json"), "{error}");
}
