//! The tokenizer of a GGUF file, in the form of a `tokenizer.json`.

mod byte_level;
mod sentence_piece;

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::models::gguf::config::{BOS_KEY, PAD_KEY, eos_token_ids};
use crate::models::gguf::file::GgufFile;
use crate::models::gguf::metadata::Value as FileValue;

const MODEL_KEY: &str = "tokenizer.ggml.model";
const TOKENS_KEY: &str = "tokenizer.ggml.tokens";
const TYPES_KEY: &str = "tokenizer.ggml.token_type";
const UNKNOWN_KEY: &str = "tokenizer.ggml.unknown_token_id";

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenType {
    /// A piece of text.
    Normal,
    /// What stands for text that has no tokens.
    Unknown,
    /// A mark such as the end of a turn.
    Control,
    /// A piece of text that is found before others are looked for.
    UserDefined,
    /// Nothing.
    Unused,
    /// One byte of a character that has no token.
    Byte,
}

impl TokenType {
    fn from_id(id: i64) -> Option<Self> {
        Some(match id {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// The parts of a `tokenizer.json` that depend on the kind of the tokenizer.
struct Kind {
    model: Value,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    /// The token that starts a text, and whether it is put there where the file does not say.
    bos: Option<u32>,
    add_bos: bool,
}

/// The tokens of a file, by id.
struct Vocabulary<'a> {
    file: &'a GgufFile,
    tokens: Vec<&'a str>,
    types: Vec<TokenType>,
}

/// What `tokenizer.json` of the model would say, or `None` if the file has no tokenizer.
///
/// # Errors
///
/// [`Error::InvalidConfig`] with the key that is missing or makes no sense, [`Error::Unsupported`] for
/// a kind of tokenizer that is not read.
pub(super) fn tokenizer_json(file: &GgufFile) -> Result<Option<Value>> {
    let read = match file.string(MODEL_KEY)? {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some("gpt2") => byte_level::read,
        Some("llama") => sentence_piece::read,
        Some(other) => {
            return Err(Error::Unsupported {
                path: file.path().to_owned(),
                what: "tokenizer",
                found: other.to_owned(),
                supported: "gpt2, llama".to_owned(),
            });
        }
    };
    let vocabulary = Vocabulary::new(file)?;
    let kind = read(&vocabulary)?;
    Ok(Some(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added_tokens(kind.bos)?,
        "normalizer": kind.normalizer,
        "pre_tokenizer": kind.pre_tokenizer,
        "post_processor": vocabulary.post_processor(kind.bos, kind.add_bos)?,
        "decoder": kind.decoder,
        "model": kind.model,
    })))
}

/// The tokens that chat templates know by name, such as `bos_token`.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if one has an id that is none, or that no token has.
pub(super) fn special_tokens(file: &GgufFile) -> Result<Map<String, Value>> {
    let mut special = Map::new();
    let Some(tokens) = file.strings(TOKENS_KEY)? else {
        return Ok(special);
    };
    for (name, key) in [
        ("bos_token", BOS_KEY),
        ("eos_token", "tokenizer.ggml.eos_token_id"),
        ("unk_token", UNKNOWN_KEY),
        ("pad_token", PAD_KEY),
    ] {
        if let Some(id) = file.token_id(key)? {
            let token = tokens.get(id as usize);
            let token = token.ok_or_else(|| unknown_id(file, key, tokens.len()))?;
            special.insert(name.to_owned(), json!(token));
        }
    }
    Ok(special)
}

fn unknown_id(file: &GgufFile, key: &str, count: usize) -> Error {
    file.invalid(key, format!("the id of one of {count} tokens"))
}

impl<'a> Vocabulary<'a> {
    fn new(file: &'a GgufFile) -> Result<Self> {
        let missing = || file.invalid(TOKENS_KEY, "a list of strings");
        let tokens = file.strings(TOKENS_KEY)?.ok_or_else(missing)?;
        let types = match file.integers(TYPES_KEY)? {
            None => vec![TokenType::Normal; tokens.len()],
            Some(types) => {
                let types: Option<Vec<_>> = types.into_iter().map(TokenType::from_id).collect();
                let types = types.filter(|types| types.len() == tokens.len());
                types.ok_or_else(|| {
                    let count = tokens.len();
                    file.invalid(TYPES_KEY, format!("{count} numbers from 1 to 6"))
                })?
            }
        };
        let mut this = Self {
            file,
            tokens,
            types,
        };
        this.drop_padding();
        let mut seen = HashSet::with_capacity(this.tokens.len());
        if let Some(token) = this.tokens.iter().find(|token| !seen.insert(**token)) {
            let token = FileValue::String(token).quote();
            let expected = format!("each token once ({token} is there twice)");
            return Err(file.invalid(TOKENS_KEY, expected));
        }
        Ok(this)
    }

    /// Drops the tokens `[PAD7]` at the end, which converters make of rows of the embedding that no
    /// token has.
    fn drop_padding(&mut self) {
        while let (Some(token), Some(TokenType::Unused | TokenType::UserDefined)) =
            (self.tokens.last(), self.types.last())
            && *token == format!("[PAD{}]", self.tokens.len() - 1)
        {
            self.tokens.pop();
            self.types.pop();
        }
    }

    /// The ids and texts of all tokens, as `tokenizer.json` has them.
    fn ids(&self) -> Value {
        let ids = self.tokens.iter().zip(0u32..);
        let ids = ids.map(|(token, id)| ((*token).to_owned(), Value::from(id)));
        Value::Object(ids.collect())
    }

    fn text(&self, key: &str, id: u32) -> Result<&'a str> {
        let token = self.tokens.get(id as usize).copied();
        token.ok_or_else(|| unknown_id(self.file, key, self.tokens.len()))
    }

    /// The tokens that are found in a text before it is split.
    fn added_tokens(&self, bos: Option<u32>) -> Result<Vec<Value>> {
        let mut special = eos_token_ids(self.file)?;
        special.extend(bos);
        let tokens = self.tokens.iter().zip(&self.types).zip(0u32..);
        let added = tokens.filter_map(|((token, token_type), id)| {
            let special = match token_type {
                TokenType::Control | TokenType::Unknown => true,
                _ if special.contains(&id) => true,
                TokenType::UserDefined => false,
                TokenType::Normal | TokenType::Unused | TokenType::Byte => return None,
            };
            Some(json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": special,
            }))
        });
        Ok(added.collect())
    }

    /// What is put around a text: nothing, or the tokens that start and end it.
    fn post_processor(&self, bos: Option<u32>, add_bos: bool) -> Result<Value> {
        const EOS_KEY: &str = "tokenizer.ggml.eos_token_id";
        let starts = self.file.bool("tokenizer.ggml.add_bos_token")?;
        let ends = self.file.bool("tokenizer.ggml.add_eos_token")?;
        let eos = self.file.token_id(EOS_KEY)?;
        let mut special = Map::new();
        let mut part = |add: bool, key: &str, id: Option<u32>| -> Result<Option<Value>> {
            if !add {
                return Ok(None);
            }
            let id = id.ok_or_else(|| self.file.invalid(key, "the id of a token"))?;
            let token = self.text(key, id)?;
            let entry = json!({"id": token, "ids": [id], "tokens": [token]});
            special.insert(token.to_owned(), entry);
            Ok(Some(json!({"SpecialToken": {"id": token, "type_id": 0}})))
        };
        let start = part(starts.unwrap_or(add_bos), BOS_KEY, bos)?;
        let end = part(ends.unwrap_or(false), EOS_KEY, eos)?;
        if start.is_none() && end.is_none() {
            return Ok(Value::Null);
        }
        let sequence = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
        let around = |name: &str| {
            let parts = [start.clone(), Some(sequence(name)), end.clone()];
            parts.into_iter().flatten().collect::<Vec<_>>()
        };
        let (single, pair) = (around("A"), [around("A"), around("B")].concat());
        Ok(json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": special,
        }))
    }
}

#[cfg(test)]
mod tests;
