//! The tokenizer of a model as llama.cpp reads it.

use super::file::{Metadata, Value};
use super::sentence_piece::{self, SPACE};
use super::{pre_tokenizer, unsupported};
use crate::error::{Error, Result};
use crate::models::{Model, Tokenizer, json};
use serde_json::{Value as Json, json};
use std::collections::HashSet;

/// The types of tokens, by llama.cpp's numbers.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The vocabulary, how text is cut and merged, the special tokens, and the chat template.
pub(super) fn metadata(model: &Model) -> Result<Metadata> {
    let tokenizer = model.tokenizer()?;
    let json = tokenizer.to_json()?;
    let parts = check_model(model, &json)?;
    let merges = merges(model, &json)?;
    let mut metadata = Metadata::new();
    let mut set = |key: &str, value: Value| {
        metadata.push((format!("tokenizer.ggml.{key}"), value));
    };
    if parts == Parts::Bytes {
        let name = byte_level(model, &json)?;
        let (tokens, types) = tokens(model, None, &HashSet::new())?;
        set("model", "gpt2".into());
        set("pre", name.into());
        set("tokens", Value::Texts(tokens));
        set("token_type", Value::I32s(types));
        let pairs = merges.iter().map(|(left, right)| format!("{left} {right}"));
        set("merges", Value::Texts(pairs.collect()));
    } else {
        let space_prefix = sentence_piece::adds_space_prefix(model, &json)?;
        let bytes = sentence_piece::byte_ids(model)?;
        let unknown = json["model"]["unk_token"].as_str();
        let unknown = unknown.and_then(|token| tokenizer.token_to_id(token));
        let (tokens, types) = tokens(model, unknown, &bytes)?;
        let mergeable: Vec<_> = types.iter().map(|kind| *kind == NORMAL).collect();
        let scores = sentence_piece::scores(model, &merges, &tokens, &mergeable)?;
        set("model", "llama".into());
        set("pre", "default".into());
        set("tokens", Value::Texts(tokens));
        set("scores", Value::F32s(scores));
        set("token_type", Value::I32s(types));
        set("add_space_prefix", Value::Bool(space_prefix));
        if let Some(id) = unknown {
            set("unknown_token_id", Value::U32(id));
        }
    }
    for (key, value) in special_tokens(model, tokenizer)? {
        set(key, value);
    }
    metadata.extend(chat_template(model));
    Ok(metadata)
}

/// What a word is made of before the first merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parts {
    Bytes,
    Characters,
}

fn check_model(model: &Model, tokenizer: &Json) -> Result<Parts> {
    let settings = &tokenizer["model"];
    if settings["type"] != "BPE" {
        let found = json::quote(Some(&settings["type"]));
        return Err(unsupported(model, "tokenizer", &found, "BPE"));
    }
    for key in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] {
        let setting = &settings[key];
        if !setting.is_null() && setting != "" {
            let found = format!("{key}: {}", json::quote(Some(setting)));
            let expected = format!("{key}: null in a GGUF file");
            return Err(unsupported(model, "tokenizer setting", &found, &expected));
        }
    }
    if settings["byte_fallback"] == true {
        Ok(Parts::Characters)
    } else {
        Ok(Parts::Bytes)
    }
}

/// The name of the pre-tokenizer of a byte-level tokenizer.
fn byte_level(model: &Model, tokenizer: &Json) -> Result<&'static str> {
    let normalizer = &tokenizer["normalizer"];
    // Qwen's. llama.cpp leaves it out, and nearly all text is in that form.
    if !normalizer.is_null() && *normalizer != json!({"type": "NFC"}) {
        let found = json::quote(Some(normalizer));
        return Err(unsupported(model, "normalizer", &found, "none, or NFC"));
    }
    pre_tokenizer::name(tokenizer).ok_or_else(|| {
        let mut found = json::quote(Some(&tokenizer["pre_tokenizer"]));
        if tokenizer["model"]["ignore_merges"] == true {
            found.push_str(" with ignore_merges");
        }
        let known = format!("those that llama.cpp calls {}", pre_tokenizer::known());
        unsupported(model, "pre-tokenizer", &found, &known)
    })
}

fn merges<'a>(model: &Model, tokenizer: &'a Json) -> Result<Vec<(&'a str, &'a str)>> {
    let pair = |pair: &'a Json| Some((pair[0].as_str()?, pair[1].as_str()?));
    let list = tokenizer["model"]["merges"].as_array();
    let list = list.and_then(|list| list.iter().map(pair).collect::<Option<Vec<_>>>());
    let list = list.ok_or_else(|| unsupported(model, "merge list", "none", "pairs of tokens"))?;
    // A file has a pair as two words.
    match list
        .iter()
        .find(|(a, b)| a.contains(' ') || b.contains(' '))
    {
        None => Ok(list),
        Some((a, b)) => {
            let expected = "tokens without spaces";
            Err(unsupported(
                model,
                "merge",
                &format!("{a}` + `{b}"),
                expected,
            ))
        }
    }
}

/// The text and the type of each row of the embedding.
fn tokens(
    model: &Model,
    unknown: Option<u32>,
    bytes: &HashSet<u32>,
) -> Result<(Vec<String>, Vec<i32>)> {
    let tokenizer = model.tokenizer()?;
    let added = tokenizer.inner().get_added_vocabulary();
    let added = added.get_added_tokens_decoder();
    let token = |id: u32| match (added.get(&id), tokenizer.id_to_token(id)) {
        (_, None) => (format!("[PAD{id}]"), UNUSED),
        (_, Some(text)) if unknown == Some(id) => (text, UNKNOWN),
        (None, Some(text)) if bytes.contains(&id) => (text, BYTE),
        (None, Some(text)) => (text, NORMAL),
        (Some(token), Some(text)) if token.special || looks_special(&text) => (text, CONTROL),
        // Such tokens are found in the text as it is.
        (Some(_), Some(text)) => (text.replace(SPACE, " "), USER_DEFINED),
    };
    let rows = (0..).take(model.config().vocab_size);
    let (tokens, types): (Vec<_>, Vec<_>) = rows.map(token).unzip();
    let mut seen = HashSet::new();
    match tokens.iter().find(|token| !seen.insert(token.as_str())) {
        None => Ok((tokens, types)),
        Some(twice) => {
            let found = format!("`{twice}` twice");
            Err(unsupported(model, "vocabulary", &found, "distinct tokens"))
        }
    }
}

/// Whether an added token is one that no text has, although it is not marked as special.
fn looks_special(token: &str) -> bool {
    token.starts_with("<|") && token.ends_with("|>")
}

/// The tokens that begin and end texts.
fn special_tokens(model: &Model, tokenizer: &Tokenizer) -> Result<Vec<(&'static str, Value)>> {
    let vocab_size = model.config().vocab_size;
    let is_known = |id: &u32| (*id as usize) < vocab_size;
    let (before, after) = around_text(model, tokenizer)?;
    let ends = model.eos_token_ids().iter().copied();
    let mut ends: Vec<_> = ends.filter(is_known).collect();
    // The tokenizer's own is the one that ends a turn, where there are several.
    ends.sort_by_key(|id| Some(*id) != after.or(tokenizer.eos_token_id()));
    if after.is_some() && ends.first() != after.as_ref() {
        return Err(Error::Tokenizer {
            reason: "it puts another token after every text than the ones that end a text; \
                     a GGUF file cannot say so"
                .to_owned(),
        });
    }
    let begin = before.or(model.config().bos_token_id).filter(is_known);
    let pad = model.config().pad_token_id.filter(is_known);
    let ids = [
        ("bos_token_id", begin),
        ("eos_token_id", ends.first().copied()),
        // A text ends with each of these, too.
        ("eot_token_id", ends.get(1).copied()),
        ("eom_token_id", ends.get(2).copied()),
        ("padding_token_id", pad),
    ];
    let ids = ids
        .into_iter()
        .filter_map(|(key, id)| Some((key, Value::U32(id?))));
    let flags = [
        ("add_bos_token", Value::Bool(before.is_some())),
        ("add_eos_token", Value::Bool(after.is_some())),
    ];
    Ok(ids.chain(flags).collect())
}

/// The tokens that the tokenizer puts before and after every text.
fn around_text(model: &Model, tokenizer: &Tokenizer) -> Result<(Option<u32>, Option<u32>)> {
    let text = "a";
    let plain = tokenizer.encode(text, false)?;
    let whole = tokenizer.encode(text, true)?;
    let at = whole
        .windows(plain.len().max(1))
        .position(|part| part == plain);
    let parts = at.map(|at| (&whole[..at], &whole[at + plain.len()..]));
    match parts {
        Some((before @ ([] | [_]), after @ ([] | [_]))) => {
            Ok((before.first().copied(), after.first().copied()))
        }
        _ => Err(unsupported(
            model,
            "post-processor",
            &format!("{whole:?} for the tokens {plain:?}"),
            "one token before a text, one after it, or none",
        )),
    }
}

/// The chat template, and the one for tools where there are two.
fn chat_template(model: &Model) -> Metadata {
    const KEY: &str = "tokenizer.chat_template";
    let mut metadata = Metadata::new();
    if let Some(template) = model.uncompiled_chat_template() {
        if let Some(tool_use) = template.tool_use_source() {
            let names = Value::Texts(vec!["tool_use".to_owned()]);
            metadata.push(("tokenizer.chat_templates".to_owned(), names));
            metadata.push((format!("{KEY}.tool_use"), tool_use.into()));
        }
        metadata.push((KEY.to_owned(), template.source().into()));
    }
    metadata
}
