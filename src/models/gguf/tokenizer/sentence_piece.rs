//! Byte-pair encoding of the characters of a text, with bytes for those that have no token: `llama` in
//! GGUF files, as `SentencePiece` has it in Llama 2 and Mistral.
//!
//! `SentencePiece` joins the two neighbours whose piece has the highest score, and a `tokenizer.json`
//! lists which neighbours to join, the first first. The list follows from the scores.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{Kind, TokenType, UNKNOWN_KEY, Vocabulary};
use crate::error::Result;
use crate::models::gguf::config::BOS_KEY;

const SCORES_KEY: &str = "tokenizer.ggml.scores";
/// What stands for a space in a piece.
const SPACE: &str = "\u{2581}";
/// The longest piece that is believed, in bytes, because every way to split one is looked up. Known
/// vocabularies have pieces of up to 16 characters, and of spaces up to 31.
const MAX_PIECE_BYTES: usize = 512;
/// The most ways to join two pieces that are believed. A vocabulary of 32 000 tokens has about 60 000,
/// while one made for it has 500 for each token.
const MAX_MERGES: usize = 1 << 20;
/// The ids where the file does not say.
const DEFAULT_UNKNOWN: u32 = 0;
const DEFAULT_BOS: u32 = 1;

/// Two pieces that are joined into one.
struct Merge<'a> {
    score: f64,
    left: &'a str,
    right: &'a str,
    /// The lengths of both in characters.
    lengths: (usize, usize),
}

/// Reads the parts that depend on the kind.
pub(super) fn read(vocabulary: &Vocabulary) -> Result<Kind> {
    let file = vocabulary.file;
    let unknown = file.token_id(UNKNOWN_KEY)?.unwrap_or(DEFAULT_UNKNOWN);
    let merges: Vec<_> = merges(vocabulary)?
        .iter()
        .map(|merge| json!([merge.left, merge.right]))
        .collect();
    let prefix = file.bool("tokenizer.ggml.add_space_prefix")?;
    let prefix = prefix.unwrap_or(true);
    let mut normalizers = vec![json!({
        "type": "Replace", "pattern": {"String": " "}, "content": SPACE,
    })];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(Kind {
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": vocabulary.text(UNKNOWN_KEY, unknown)?,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocabulary.ids(),
            "merges": merges,
        }),
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        bos: Some(file.token_id(BOS_KEY)?.unwrap_or(DEFAULT_BOS)),
        add_bos: true,
    })
}

/// All pairs of pieces that make a piece, the one with the highest score first.
///
/// The order of pairs with equal scores is that of the converter of transformers.
fn merges<'a>(vocabulary: &Vocabulary<'a>) -> Result<Vec<Merge<'a>>> {
    let file = vocabulary.file;
    let count = vocabulary.tokens.len();
    let scores = file.floats(SCORES_KEY)?;
    // Those of padding at the end, which was dropped, may follow.
    let scores = scores.filter(|scores| scores.len() >= count);
    let scores = scores.ok_or_else(|| {
        let expected = format!("a list of {count} finite numbers, one for each token");
        file.invalid(SCORES_KEY, expected)
    })?;
    let pieces = vocabulary.tokens.iter().zip(&vocabulary.types).zip(0u32..);
    let pieces: HashMap<&str, u32> = pieces
        .filter(|((_, token_type), _)| is_piece(**token_type))
        .map(|((token, _), id)| (*token, id))
        .collect();
    let mut merges = Vec::new();
    let tokens = vocabulary.tokens.iter().zip(&vocabulary.types);
    for ((token, _), score) in tokens.zip(scores).filter(|((_, t), _)| is_piece(**t)) {
        if token.len() > MAX_PIECE_BYTES {
            let length = token.len();
            return Err(file.invalid(
                super::TOKENS_KEY,
                format!("pieces of at most {MAX_PIECE_BYTES} bytes (one has {length})"),
            ));
        }
        let characters = token.chars().count();
        let mut ways: Vec<_> = token
            .char_indices()
            .enumerate()
            .skip(1)
            .filter_map(|(left_length, (at, _))| {
                let (left, right) = token.split_at_checked(at)?;
                let ids = (*pieces.get(left)?, *pieces.get(right)?);
                let lengths = (left_length, characters - left_length);
                Some((
                    ids,
                    Merge {
                        score,
                        left,
                        right,
                        lengths,
                    },
                ))
            })
            .collect();
        if merges.len() + ways.len() > MAX_MERGES {
            let expected =
                format!("pieces with at most {MAX_MERGES} ways to join two into another");
            return Err(file.invalid(super::TOKENS_KEY, expected));
        }
        ways.sort_by_key(|(ids, _)| *ids);
        merges.extend(ways.into_iter().map(|(_, merge)| merge));
    }
    merges.sort_by(|a, b| {
        let scores = b.score.total_cmp(&a.score);
        scores.then_with(|| b.lengths.cmp(&a.lengths))
    });
    Ok(merges)
}

/// Whether tokens of a type are joined of others.
fn is_piece(token_type: TokenType) -> bool {
    matches!(
        token_type,
        TokenType::Normal | TokenType::UserDefined | TokenType::Unused
    )
}

#[cfg(test)]
pub(super) mod tests;
