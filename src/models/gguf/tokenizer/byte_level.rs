//! Byte-pair encoding of the bytes of a text, split into words first: `gpt2` in GGUF files.
//!
//! How texts are split is not in the file, only the name of it; the expressions and settings are those
//! of the original `tokenizer.json` of each family.

use serde_json::{Value, json};

use super::{Kind, Vocabulary};
use crate::error::{Error, Result};
use crate::models::gguf::config::BOS_KEY;

const PRE_KEY: &str = "tokenizer.ggml.pre";
const MERGES_KEY: &str = "tokenizer.ggml.merges";
/// The ways of splitting that are read.
const SUPPORTED: &str = "default, gpt-2, qwen2, llama3, llama-v3, llama-bpe, smaug-bpe, smollm, \
                         tekken";

/// Words as Qwen2 splits them, each digit by itself.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words as Llama 3 splits them, up to three digits together.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Words as Mistral Nemo splits them, also where small letters meet capital ones.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a text is split into words.
enum Split {
    Gpt2,
    Qwen2,
    Llama3,
    /// As Llama 3, but a word that is a token is put together by merges like any other.
    Smaug,
    /// As GPT-2, but each digit by itself.
    Smollm,
    Tekken,
}

/// Reads the parts that depend on the kind.
pub(super) fn read(vocabulary: &Vocabulary) -> Result<Kind> {
    let file = vocabulary.file;
    let split = split(vocabulary)?;
    let merges = file.strings(MERGES_KEY)?;
    // A token may itself begin with a space.
    let merges: Option<Vec<_>> = merges.and_then(|merges| {
        let pairs = merges.into_iter().map(|merge| {
            let (at, _) = merge.char_indices().skip(1).find(|(_, c)| *c == ' ')?;
            Some(json!([merge.get(..at)?, merge.get(at + 1..)?]))
        });
        pairs.collect()
    });
    let merges = merges.ok_or_else(|| {
        let expected = "a list of strings, each two tokens with a space between them";
        file.invalid(MERGES_KEY, expected)
    })?;
    // Both have tokens that no merges lead to, and begin every text with a mark.
    let tiktoken = matches!(split, Split::Llama3 | Split::Tekken);
    let bytes = |use_regex: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": false,
            "use_regex": use_regex,
        })
    };
    let words = |first: Value, use_regex: bool| json!({"type": "Sequence", "pretokenizers": [first, bytes(use_regex)]});
    let isolated = |regex: &str| {
        json!({
            "type": "Split",
            "pattern": {"Regex": regex},
            "behavior": "Isolated",
            "invert": false,
        })
    };
    Ok(Kind {
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": tiktoken,
            "vocab": vocabulary.ids(),
            "merges": merges,
        }),
        normalizer: match split {
            Split::Qwen2 => json!({"type": "NFC"}),
            _ => Value::Null,
        },
        pre_tokenizer: match split {
            Split::Gpt2 => bytes(true),
            Split::Qwen2 => words(isolated(QWEN2), false),
            Split::Llama3 | Split::Smaug => words(isolated(LLAMA3), false),
            Split::Tekken => words(isolated(TEKKEN), false),
            Split::Smollm => words(json!({"type": "Digits", "individual_digits": true}), true),
        },
        decoder: bytes(false),
        bos: file.token_id(BOS_KEY)?,
        add_bos: tiktoken,
    })
}

fn split(vocabulary: &Vocabulary) -> Result<Split> {
    let file = vocabulary.file;
    let architecture = file.string("general.architecture")?;
    match file.string(PRE_KEY)? {
        // Files from before there was the key. All models of the architecture split alike.
        None | Some("default") if architecture.is_some_and(|name| name.starts_with("qwen")) => {
            Ok(Split::Qwen2)
        }
        None | Some("default" | "gpt-2") => Ok(Split::Gpt2),
        Some("qwen2") => Ok(Split::Qwen2),
        Some("llama3" | "llama-v3" | "llama-bpe") => Ok(Split::Llama3),
        Some("smaug-bpe") => Ok(Split::Smaug),
        Some("smollm") => Ok(Split::Smollm),
        Some("tekken") => Ok(Split::Tekken),
        Some(other) => Err(Error::Unsupported {
            path: file.path().to_owned(),
            what: "pre-tokenizer",
            found: other.to_owned(),
            supported: SUPPORTED.to_owned(),
        }),
    }
}
