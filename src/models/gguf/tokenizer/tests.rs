use serde_json::Value;

use super::super::testing::{
    Changed, Encoded, Writer, bool, f32s, fixture, i32s, string, strings, u32,
};
use super::sentence_piece::tests::{scored, sentence_piece};
use crate::error::Result;
use crate::models::{ChatOptions, GgufCheckpoint, Tokenizer};

const PREFIX: &str = "tokenizer.ggml.";

/// A file with a tokenizer, and any model.
pub(super) fn file(keys: &[(&str, Encoded)]) -> Writer {
    let mut writer = fixture("llama_plain")
        .without("tokenizer.ggml.bos_token_id")
        .without("tokenizer.ggml.eos_token_id");
    for (key, value) in keys {
        writer = writer.with(&format!("{PREFIX}{key}"), value.clone());
    }
    writer
}

pub(super) fn read(writer: &Writer) -> Result<Option<Tokenizer>> {
    let file = writer.write();
    let read = GgufCheckpoint::open(file.path()).unwrap().tokenizer();
    if let Err(error) = &read {
        let name = file.path().display().to_string();
        assert!(error.to_string().starts_with(&name), "{error}");
    }
    read
}

pub(super) fn tokenizer(keys: &[(&str, Encoded)]) -> Tokenizer {
    read(&file(keys)).unwrap().unwrap()
}

/// What a text becomes, token by token.
pub(super) fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, false).unwrap();
    let piece = |id: &u32| tokenizer.id_to_token(*id).unwrap();
    ids.iter().map(piece).collect()
}

/// The numbers and letters that are tokens, and what joins them.
fn byte_level(keys: &[(&str, Encoded)]) -> Vec<(&'static str, Encoded)> {
    let tokens = [
        "1", "2", "3", "4", "5", "a", "\u{120}", "12", "123", "1234", "\u{120}a",
    ];
    let named = ["<s>", "</s>", "<call>", "[unused]"];
    let types = std::iter::repeat_n(1, tokens.len()).chain([3, 3, 4, 5]);
    let mut all = vec![
        ("model", string("gpt2")),
        ("tokens", strings(tokens.into_iter().chain(named))),
        ("token_type", i32s(types)),
        ("merges", strings(["1 2", "12 3", "123 4", "\u{120} a"])),
    ];
    for (key, value) in keys {
        all.retain(|(other, _)| other != key);
        let key = [
            "pre",
            "add_bos_token",
            "add_eos_token",
            "bos_token_id",
            "eos_token_id",
            "model",
        ]
        .into_iter()
        .chain(["tokens", "token_type", "merges"])
        .find(|name| name == key);
        all.push((key.unwrap(), value.clone()));
    }
    all
}

#[test]
fn the_tokenizer_of_qwen_comes_out_as_it_went_in() {
    let dir = std::path::Path::new("assets/tiny-coder");
    let original = Tokenizer::from_dir(dir).unwrap().unwrap();
    let text = std::fs::read_to_string(dir.join("tokenizer.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let mut tokens: Vec<String> = (0u32..).map_while(|id| original.id_to_token(id)).collect();
    assert_eq!(tokens.len(), original.vocab_size());
    let mut types = vec![1; json["model"]["vocab"].as_object().unwrap().len()];
    types.resize(tokens.len(), 3);
    // Rows of the embedding that no token has.
    for (id, token_type) in [(tokens.len(), 5), (tokens.len() + 1, 4)] {
        tokens.push(format!("[PAD{id}]"));
        types.push(token_type);
    }
    let merges = json["model"]["merges"].as_array().unwrap().iter();
    let merges =
        merges.map(|pair| [pair[0].as_str().unwrap(), pair[1].as_str().unwrap()].join(" "));
    let merges: Vec<_> = merges.collect();
    let keys = [
        ("model", string("gpt2")),
        ("pre", string("qwen2")),
        ("tokens", strings(tokens.iter().map(String::as_str))),
        ("token_type", i32s(types)),
        ("merges", strings(merges.iter().map(String::as_str))),
        ("eos_token_id", u32(original.eos_token_id().unwrap())),
        ("add_bos_token", bool(false)),
    ];
    let found = tokenizer(&keys);
    assert!(found.same_vocabulary(&original));
    assert_eq!(found.eos_token_id(), original.eos_token_id());
    let source = include_str!("mod.rs");
    for text in [
        source,
        "e\u{301} 12345\t\r\n\n  you'LL<|im_end|> \u{4f60}\u{597d}\u{1F980}",
        "",
    ] {
        let ids = original.encode(text, true).unwrap();
        assert_eq!(found.encode(text, true).unwrap(), ids);
        assert_eq!(
            found.encode_as_text(text).unwrap(),
            original.encode_as_text(text).unwrap()
        );
        for skip in [true, false] {
            assert_eq!(
                found.decode(&ids, skip).unwrap(),
                original.decode(&ids, skip).unwrap()
            );
        }
    }
    // Older files do not say how texts are split.
    let older = fixture("qwen2_tied");
    let older = keys
        .iter()
        .filter(|(key, _)| *key != "pre")
        .fold(older, |older, (key, value)| {
            older.with(&format!("{PREFIX}{key}"), value.clone())
        });
    let older = read(&older).unwrap().unwrap();
    assert_eq!(
        older.encode(source, false).unwrap(),
        original.encode(source, false).unwrap()
    );
}

#[test]
fn texts_are_split_as_the_family_does() {
    for (pre, expected) in [
        ("qwen2", &["1", "2", "3", "4", "5", "\u{120}a"][..]),
        ("smollm", &["1", "2", "3", "4", "5", "\u{120}a"]),
        ("llama-bpe", &["123", "4", "5", "\u{120}a"]),
        ("tekken", &["1", "2", "3", "4", "5", "\u{120}a"]),
        ("gpt-2", &["1234", "5", "\u{120}a"]),
        ("default", &["1234", "5", "\u{120}a"]),
    ] {
        let mut keys = byte_level(&[("pre", string(pre))]);
        keys.push(("bos_token_id", u32(11)));
        let tokenizer = tokenizer(&keys);
        assert_eq!(pieces(&tokenizer, "12345 a"), expected, "{pre}");
        let ids = tokenizer.encode("12345 a", true).unwrap();
        // Llama 3 and Mistral Nemo begin every text with a token.
        let begins = ["llama-bpe", "tekken"].contains(&pre);
        assert_eq!(ids.first() == Some(&11), begins, "{pre}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "12345 a");
    }
    // What no merge leads to is found whole by Llama 3.
    let tokens = strings(["1", "2", "12"]);
    for (pre, expected) in [("llama3", &["12"][..]), ("gpt-2", &["1", "2"])] {
        let keys = byte_level(&[
            ("pre", string(pre)),
            ("tokens", tokens.clone()),
            ("token_type", i32s([1, 1, 1])),
            ("merges", strings([])),
            ("add_bos_token", bool(false)),
        ]);
        assert_eq!(pieces(&tokenizer(&keys), "12"), expected, "{pre}");
    }
}

#[test]
fn types_say_what_tokens_are_for() {
    let keys = byte_level(&[("bos_token_id", u32(11)), ("eos_token_id", u32(12))]);
    let tokenizer = tokenizer(&keys);
    assert_eq!(
        pieces(&tokenizer, "1</s>2<call>"),
        ["1", "</s>", "2", "<call>"]
    );
    let special = |token: &str| tokenizer.is_special(tokenizer.token_to_id(token).unwrap());
    assert!(special("<s>") && special("</s>"));
    assert!(!special("<call>") && !special("[unused]") && !special("1"));
    assert_eq!(tokenizer.eos_token_id(), Some(12));
    assert_eq!(tokenizer.decode(&[0, 12, 13], true).unwrap(), "1<call>");
    // Without types only the ends are known.
    let keys: Vec<_> = keys
        .into_iter()
        .filter(|(key, _)| *key != "token_type")
        .collect();
    let tokenizer = self::tokenizer(&keys);
    assert_eq!(pieces(&tokenizer, "1</s>2"), ["1", "</s>", "2"]);
}

#[test]
fn texts_begin_and_end_as_the_file_says() {
    let keys = byte_level(&[
        ("add_bos_token", bool(true)),
        ("add_eos_token", bool(true)),
        ("bos_token_id", u32(11)),
        ("eos_token_id", u32(12)),
    ]);
    let both = tokenizer(&keys);
    assert_eq!(both.encode("1", true).unwrap(), [11, 0, 12]);
    assert_eq!(both.encode("1", false).unwrap(), [0]);
    let keys = byte_level(&[("add_bos_token", bool(false)), ("bos_token_id", u32(11))]);
    assert_eq!(tokenizer(&keys).encode("1", true).unwrap(), [0]);
}

#[test]
fn what_makes_no_tokenizer_is_named() {
    for (key, value, found) in [
        (
            "model",
            string("bert"),
            "tokenizer `bert` is not supported; supported: gpt2, llama",
        ),
        ("model", u32(1), "`tokenizer.ggml.model` is 1"),
        (
            "pre",
            string("falcon"),
            "pre-tokenizer `falcon` is not supported; supported: default",
        ),
        (
            "tokens",
            strings(["a", "b", "a"]),
            "`tokenizer.ggml.token_type`",
        ),
        (
            "tokens",
            i32s([1]),
            "`tokenizer.ggml.tokens` is a list of 1 values of type I32",
        ),
        (
            "token_type",
            i32s([1, 1]),
            "expected 15 numbers from 1 to 6",
        ),
        (
            "token_type",
            i32s([7; 15]),
            "expected 15 numbers from 1 to 6",
        ),
        (
            "merges",
            strings(["ab"]),
            "each two tokens with a space between them",
        ),
        ("merges", strings(["1 x"]), "not a valid tokenizer"),
        (
            "bos_token_id",
            u32(99),
            "`tokenizer.ggml.bos_token_id` is 99; expected the id of one of",
        ),
    ] {
        let mut keys = byte_level(&[(key, value)]);
        keys.push(("add_bos_token", bool(key == "bos_token_id")));
        let error = read(&file(&keys)).unwrap_err().to_string();
        assert!(error.contains(found), "{error}");
    }
    let twice = byte_level(&[
        ("tokens", strings(["a", "b", "a"])),
        ("token_type", i32s([1; 3])),
    ]);
    let error = read(&file(&twice)).unwrap_err().to_string();
    assert!(
        error.contains("each token once (\"a\" is there twice)"),
        "{error}"
    );
    let long = "long".repeat(1000);
    let twice = byte_level(&[
        ("tokens", strings([&*long, "b", &*long])),
        ("token_type", i32s([1; 3])),
    ]);
    let error = read(&file(&twice)).unwrap_err().to_string();
    assert!(
        error.contains("is there twice") && error.len() < 500,
        "{error}"
    );
    let keys = byte_level(&[("add_bos_token", bool(true))]);
    let error = read(&file(&keys)).unwrap_err().to_string();
    assert!(
        error.contains("`tokenizer.ggml.bos_token_id` is missing"),
        "{error}"
    );
    for absent in ["tokens", "merges"] {
        let mut keys = byte_level(&[]);
        keys.retain(|(key, _)| *key != absent);
        let error = read(&file(&keys)).unwrap_err().to_string();
        assert!(
            error.contains(&format!("`{PREFIX}{absent}` is missing")),
            "{error}"
        );
    }
    assert!(read(&file(&[])).unwrap().is_none());
    assert!(
        read(&file(&[("model", string("no_vocab"))]))
            .unwrap()
            .is_none()
    );
}

#[test]
fn the_chat_template_knows_the_special_tokens() {
    let open = |writer: &Writer| GgufCheckpoint::open(writer.write().path()).unwrap();
    let template =
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    let writer = file(&sentence_piece(&[]));
    assert!(open(&writer).chat_template().unwrap().is_none());
    let writer = writer
        .with("tokenizer.chat_template", string(template))
        .with("tokenizer.chat_template.tool_use", string("tools"));
    let read = open(&writer).chat_template().unwrap().unwrap();
    let messages = serde_json::json!([{"role": "user", "content": "a"}]);
    let plain = ChatOptions::default();
    assert_eq!(read.render(&messages, &plain).unwrap(), "<s>a</s>");
    let tools = ChatOptions {
        tools: Some(serde_json::json!([])),
        ..plain
    };
    assert_eq!(read.render(&messages, &tools).unwrap(), "tools");
    let broken = open(
        &writer
            .clone()
            .with("tokenizer.chat_template", string("{% if %}")),
    );
    let error = broken
        .chat_template()
        .unwrap()
        .unwrap()
        .compile()
        .unwrap_err();
    assert!(error.to_string().contains(".gguf: "), "{error}");
    let writer = writer.with("tokenizer.ggml.eos_token_id", u32(5000));
    let error = open(&writer).chat_template().unwrap_err().to_string();
    assert!(
        error.contains("`tokenizer.ggml.eos_token_id` is 5000"),
        "{error}"
    );
}

#[test]
fn no_changed_byte_of_the_header_makes_reading_a_model_panic() {
    let byte_level = byte_level(&[("bos_token_id", u32(11)), ("add_bos_token", bool(true))]);
    let mut pieces: Vec<_> = scored();
    // Without most bytes, to be quick.
    pieces.drain(10..258);
    let short = [
        (
            "tokens",
            strings(pieces.iter().map(|(piece, ..)| piece.as_str())),
        ),
        ("scores", f32s(pieces.iter().map(|(_, score, _)| *score))),
        ("token_type", i32s(pieces.iter().map(|(.., kind)| *kind))),
    ];
    for keys in [byte_level, sentence_piece(&short)] {
        let template = string("{{ bos_token }}{{ messages[0].content }}");
        let mut writer = file(&keys).with("tokenizer.chat_template", template);
        writer.add("rope_freqs.weight", &[8], 0, &[0x3f; 32]);
        let path = writer.write();
        let mut read = [0; 4];
        for (at, byte) in writer.header().into_iter().enumerate() {
            let change = if at % 2 == 0 { 0x41 } else { 0x02 };
            let _changed = Changed::new(path.as_file(), at, byte, change);
            let Ok(checkpoint) = GgufCheckpoint::open(path.path()) else {
                read[0] += 1;
                continue;
            };
            read[1] += 1;
            let specs = checkpoint.config().tensors();
            // A model of many layers has many.
            let complete = checkpoint.validate(&specs).is_ok();
            for spec in specs.iter().take(30) {
                assert!(checkpoint.bytes(&spec.name).is_ok() || !complete);
            }
            if let Ok(Some(tokenizer)) = checkpoint.tokenizer() {
                read[2] += 1;
                let _ = tokenizer.encode("12 abc", true);
                let _ = tokenizer.decode(&[0, 1, 2, 99], false);
            }
            if let Ok(Some(template)) = checkpoint.chat_template() {
                read[3] += 1;
                let messages = serde_json::json!([{"role": "user", "content": "a"}]);
                let _ = template.render(&messages, &ChatOptions::default());
            }
        }
        assert!(read.iter().all(|&count| count > 50), "{read:?}");
    }
}
