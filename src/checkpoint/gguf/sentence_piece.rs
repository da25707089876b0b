//! Tokenizers that were `SentencePiece`'s: merges of a vocabulary with bytes to fall back to.
//!
//! `SentencePiece` joins the two neighbours that make the token of the highest score, so scores stand
//! for the list of merges. Where the list has every way to make a token, one after the other, the two
//! are the same but for the order among the ways to make one token.

use super::unsupported;
use crate::error::Result;
use crate::models::{Model, json};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

/// What stands for a space.
pub(super) const SPACE: &str = "\u{2581}";

/// Whether a text that follows nothing or a special token is read as if a space were before it.
pub(super) fn adds_space_prefix(model: &Model, tokenizer: &Value) -> Result<bool> {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    let (normalizer, pre) = (&tokenizer["normalizer"], &tokenizer["pre_tokenizer"]);
    let steps: &[Value] = match normalizer["normalizers"].as_array() {
        Some(list) => list,
        None if normalizer.is_null() => &[],
        None => std::slice::from_ref(normalizer),
    };
    let metaspace = pre["type"] == "Metaspace" && pre["replacement"] == SPACE;
    match steps {
        [] if metaspace && pre["split"] == false => Ok(pre["prepend_scheme"] != "never"),
        [first, second] if pre.is_null() && [first, second] == [&prepend, &replace] => Ok(true),
        [only] if pre.is_null() && *only == replace => Ok(false),
        _ => Err(unsupported(
            model,
            "normalizer of a tokenizer with byte fallback",
            &format!(
                "{} with pre_tokenizer {}",
                json::quote(Some(normalizer)),
                json::quote(Some(pre))
            ),
            "Prepend and Replace, or Metaspace, of `\u{2581}`",
        )),
    }
}

/// The ids of the tokens that stand for bytes.
pub(super) fn byte_ids(model: &Model) -> Result<HashSet<u32>> {
    let tokenizer = model.tokenizer()?;
    let id = |byte: u8| {
        let token = format!("<0x{byte:02X}>");
        tokenizer.token_to_id(&token).ok_or_else(|| {
            let expected = "a token `<0x00>` to `<0xFF>` for each byte";
            unsupported(model, "vocabulary", &format!("no `{token}`"), expected)
        })
    };
    (0..=u8::MAX).map(id).collect()
}

/// The score of each token. Those that no merge makes come last.
///
/// `mergeable` says of each token whether it is one that merges may make or use.
pub(super) fn scores(
    model: &Model,
    merges: &[(&str, &str)],
    tokens: &[String],
    mergeable: &[bool],
) -> Result<Vec<f32>> {
    let refused = |found: String| {
        unsupported(
            model,
            "merge list of a tokenizer with byte fallback",
            &found,
            "one that has every way to make a token, as SentencePiece's scores give it",
        )
    };
    let mut scores = HashMap::<String, f32>::new();
    let (mut previous, mut score) = (String::new(), 0.0);
    for (left, right) in merges {
        let made = format!("{left}{right}");
        if made != previous {
            score -= 1.0;
            if scores.insert(made.clone(), score).is_some() {
                return Err(refused(format!("`{made}` at two places of the list")));
            }
            previous = made;
        }
    }
    let listed: HashSet<_> = merges.iter().copied().collect();
    let pieces = tokens.iter().zip(mergeable).filter(|(_, yes)| **yes);
    let pieces: HashSet<_> = pieces.map(|(token, _)| token.as_str()).collect();
    let is_piece = |part: &str| pieces.contains(part);
    for token in &pieces {
        let cuts = token
            .char_indices()
            .skip(1)
            .map(|(at, _)| token.split_at(at));
        let mut ways = cuts.filter(|(left, right)| is_piece(left) && is_piece(right));
        if let Some((left, right)) = ways.find(|way| !listed.contains(way)) {
            return Err(refused(format!("`{token}` without `{left}` + `{right}`")));
        }
    }
    let least = score - 1.0;
    let score = |token: &String| scores.get(token).copied().unwrap_or(least);
    Ok(tokens.iter().map(score).collect())
}
