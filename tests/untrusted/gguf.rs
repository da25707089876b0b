//! GGUF files that lie.

use super::tokenizer::tokenizer;
use super::{assert_named, assert_refused, load, replace};
use crate::common::{copy_of, fixture};
use metal_candle::checkpoint::GgufType;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const EMBEDDING: &str = "token_embd.weight";
const UP: &str = "blk.1.ffn_up.weight";
const DOWN: &str = "blk.1.ffn_down.weight";

/// A whole file, and where things stand in it.
struct Whole {
    bytes: Vec<u8>,
    /// The type of each value, with the value behind it.
    values: BTreeMap<String, usize>,
    /// The number of dimensions of each tensor, with the rest behind it.
    tensors: BTreeMap<String, usize>,
    /// Where the last tensor's description ends.
    header_end: usize,
}

impl Whole {
    /// The small model, of 208 rows, with a tokenizer of three tokens.
    fn new() -> Self {
        let model = copy_of(fixture("models/qwen2_tied"));
        let vocabulary = json!({"a": 0, "b": 1, "c": 2});
        replace(
            model.path(),
            "tokenizer.json",
            tokenizer(&vocabulary).to_string(),
        );
        let file = model.path().join("model.gguf");
        load(model.path())
            .unwrap()
            .save_gguf(&file, GgufType::F16)
            .unwrap();
        Self::read(std::fs::read(file).unwrap())
    }

    fn read(bytes: Vec<u8>) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let size_at = |at: usize| usize::try_from(u64_at(at)).unwrap();
        let string_at = |at: usize| {
            let end = at + 8 + size_at(at);
            (String::from_utf8(bytes[at + 8..end].to_vec()).unwrap(), end)
        };
        let value_end = |id: u8, at: usize| match id {
            0 | 1 | 7 => at + 1,
            2 | 3 => at + 2,
            4..=6 => at + 4,
            8 => string_at(at).1,
            _ => at + 8,
        };
        let (mut values, mut tensors) = (BTreeMap::new(), BTreeMap::new());
        let mut at = 24;
        for _ in 0..u64_at(16) {
            let (key, value) = string_at(at);
            at = value + 4;
            if bytes[value] == 9 {
                let (id, count) = (bytes[at], u64_at(at + 4));
                at += 12;
                for _ in 0..count {
                    at = value_end(id, at);
                }
            } else {
                at = value_end(bytes[value], at);
            }
            values.insert(key, value);
        }
        for _ in 0..u64_at(8) {
            let (name, dimensions) = string_at(at);
            at = dimensions + 4 + 8 * usize::from(bytes[dimensions]) + 4 + 8;
            tensors.insert(name, dimensions);
        }
        Self {
            values,
            tensors,
            header_end: at,
            bytes,
        }
    }

    /// Writes the file with some bytes replaced.
    fn changed(&self, folder: &Path, at: usize, bytes: &[u8]) -> PathBuf {
        let mut all = self.bytes.clone();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        replace(folder, "model.gguf", all).into()
    }

    /// The same for the value of a key of four bytes.
    fn value(&self, key: &str) -> usize {
        self.values[key] + 4
    }

    /// Where the innermost size of a matrix stands, with the other one behind it, the type and the place.
    fn sizes(&self, name: &str) -> usize {
        assert_eq!(self.bytes[self.tensors[name]], 2);
        self.tensors[name] + 4
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

const MAX: [u8; 8] = u64::MAX.to_le_bytes();
const HALF: [u8; 8] = (1u64 << 63).to_le_bytes();

/// Where to put which bytes, and what the error is.
type Lie<'a> = (usize, &'a [u8], &'a str, &'a str);

fn assert_found_out(whole: &Whole, lies: &[Lie]) {
    let folder = folder();
    for (at, bytes, variant, words) in lies {
        let path = whole.changed(folder.path(), *at, bytes);
        assert_refused(&path, variant, &[words, path.to_str().unwrap()]);
        // The same where it is found in a directory.
        let error = load(folder.path()).expect_err(words);
        assert_named(&error, variant, &[words, path.to_str().unwrap()]);
    }
}

#[test]
fn counts_and_lengths_that_lie() {
    let whole = Whole::new();
    let tokens = whole.value("tokenizer.ggml.tokens");
    let types = whole.value("tokenizer.ggml.token_type");
    let name = whole.value("general.architecture");
    let format = "InvalidFormat";
    assert_found_out(
        &whole,
        &[
            (4, &[4], "Unsupported", "GGUF version `4`"),
            (4, &[0, 0, 0, 3], "Unsupported", "byte order"),
            (8, &MAX, format, "tensors; expected at most"),
            (8, &HALF, format, "tensors; expected at most"),
            (16, &MAX, format, "keys; expected at most"),
            (24, &MAX, format, "a key at byte 32 takes"),
            (24, &HALF, format, "a key at byte 32 takes"),
            (name, &MAX, format, "general.architecture at byte"),
            (
                name - 4,
                &[13],
                format,
                "`general.architecture` has the value type 13",
            ),
            (tokens + 4, &MAX, format, "truncated: tokenizer.ggml.tokens"),
            (tokens + 4, &[3], format, ""),
            (tokens, &[4], format, ""),
            (
                types + 4,
                &HALF,
                format,
                "truncated: tokenizer.ggml.token_type",
            ),
        ],
    );
    let folder = folder();
    let path = whole.changed(folder.path(), 0, b"GGUX");
    assert_refused(&path, format, &[path.to_str().unwrap(), "a GGUF file"]);
}

#[test]
fn tensors_that_lie() {
    let whole = Whole::new();
    let (first, up) = (whole.sizes(EMBEDDING), whole.sizes(UP));
    let (name_of_first, name_of_up) = (first - 4 - EMBEDDING.len(), up - 4 - UP.len());
    let place_of_down = whole.sizes(DOWN) + 20;
    let place_of_down = &whole.bytes[place_of_down..place_of_down + 8];
    let near_end = (u64::MAX - 31).to_le_bytes();
    let (format, mismatch) = ("InvalidFormat", "TensorMismatch");
    assert_found_out(
        &whole,
        &[
            (
                up - 4,
                &[0],
                format,
                "`blk.1.ffn_up.weight` has 0 dimensions",
            ),
            (
                up - 4,
                &[5],
                format,
                "`blk.1.ffn_up.weight` has 5 dimensions",
            ),
            (
                up,
                &[0],
                format,
                "`blk.1.ffn_up.weight` has the sizes [0, 64]",
            ),
            (up, &HALF, format, "`blk.1.ffn_up.weight` has the sizes"),
            (up + 8, &MAX, format, "`blk.1.ffn_up.weight` has the sizes"),
            (up + 8, &[65], format, "overlap"),
            (
                up + 8,
                &[32],
                mismatch,
                "`blk.1.ffn_up.weight` has shape [32, 64]",
            ),
            (
                up + 16,
                &[77],
                mismatch,
                "`blk.1.ffn_up.weight` has type number 77",
            ),
            (
                up + 16,
                &[12],
                format,
                "`blk.1.ffn_up.weight` has rows of 64 numbers",
            ),
            (up + 20, &[1], format, "`blk.1.ffn_up.weight` lies at"),
            (
                up + 20,
                &near_end,
                format,
                "`blk.1.ffn_up.weight` lies beyond any file",
            ),
            (
                up + 20,
                &HALF,
                format,
                "truncated: tensor `blk.1.ffn_up.weight`",
            ),
            (
                up + 20,
                place_of_down,
                format,
                "`blk.1.ffn_down.weight` and `blk.1.ffn_up",
            ),
            (
                name_of_up,
                b"blk.0",
                format,
                "`blk.0.ffn_up.weight` is there twice",
            ),
            (
                name_of_up,
                b"blk.7",
                "MissingTensor",
                "`blk.1.ffn_up.weight`",
            ),
            (name_of_first, b"T", "MissingTensor", "`token_embd.weight`"),
            (
                first,
                &[32],
                mismatch,
                "`token_embd.weight` has shape [208, 32]",
            ),
        ],
    );
}

#[test]
fn settings_that_lie() {
    let whole = Whole::new();
    let folder = folder();
    for (key, number, variant, words) in [
        (
            "block_count",
            0,
            "InvalidConfig",
            "`num_hidden_layers` is 0",
        ),
        (
            "block_count",
            u32::MAX,
            "InvalidConfig",
            "`num_hidden_layers` is 4294967295",
        ),
        ("block_count", 4096, "MissingTensor", "`blk.2."),
        ("block_count", 1, "Unsupported", "tensor `blk.1."),
        ("embedding_length", 0, "InvalidConfig", "`"),
        (
            "embedding_length",
            u32::MAX,
            "InvalidConfig",
            "`hidden_size` is 4294967295",
        ),
        (
            "feed_forward_length",
            1 << 24,
            "TensorMismatch",
            "`blk.0.ffn_gate.weight` has shape",
        ),
        ("attention.head_count", 0, "InvalidConfig", "`"),
        ("attention.head_count", 3, "InvalidConfig", "`"),
        (
            "attention.head_count_kv",
            0,
            "InvalidConfig",
            "`num_key_value_heads` is 0",
        ),
        (
            "attention.head_count_kv",
            3,
            "InvalidConfig",
            "`num_key_value_heads` is 3",
        ),
        (
            "context_length",
            u32::MAX,
            "InvalidConfig",
            "`max_position_embeddings` is 4294967295",
        ),
        ("rope.freq_base", 0, "InvalidConfig", "`rope_theta` is 0"),
        (
            "rope.freq_base",
            0x7fc0_0000,
            "InvalidConfig",
            "`qwen2.rope.freq_base` is NaN",
        ),
        (
            "attention.layer_norm_rms_epsilon",
            0xbf80_0000,
            "InvalidConfig",
            "`rms_norm_eps` is -1",
        ),
    ] {
        let at = whole.value(&format!("qwen2.{key}"));
        let path = whole.changed(folder.path(), at, &u32::to_le_bytes(number));
        assert_refused(&path, variant, &[words, path.to_str().unwrap()]);
    }
    let bos = whole.value("tokenizer.ggml.bos_token_id") - 4;
    let at = bos - "bos_token_id".len();
    let path = whole.changed(folder.path(), at, b"eos");
    let twice = "the key `tokenizer.ggml.eos_token_id` is there twice";
    assert_refused(&path, "InvalidFormat", &[twice, path.to_str().unwrap()]);
}

#[test]
fn files_cut_where_a_part_ends() {
    let whole = Whole::new();
    let folder = folder();
    let places = whole.values.values().chain(whole.tensors.values());
    let mut lengths: Vec<_> = places.flat_map(|&at| [at, at + 4, at + 6]).collect();
    let end = whole.header_end;
    lengths.extend([4, 7, 8, 15, 16, 20, 24, 30, end - 1, end, end + 1]);
    lengths.extend([whole.bytes.len() / 2, whole.bytes.len() - 1]);
    assert!(lengths.len() > 150, "{}", lengths.len());
    for length in lengths {
        let path = replace(folder.path(), "model.gguf", &whole.bytes[..length]);
        assert_refused(Path::new(&path), "InvalidFormat", &[&path, "truncated"]);
    }
    for length in [0, 3] {
        let path = replace(folder.path(), "model.gguf", &whole.bytes[..length]);
        assert_refused(
            Path::new(&path),
            "InvalidFormat",
            &[&path, "expected a model directory"],
        );
    }
}

#[test]
fn vocabularies_and_embeddings() {
    let whole = Whole::new();
    let folder = folder();
    let rows = whole.sizes(EMBEDDING) + 8;
    // Rows that no token has are usual; a token that has no row is not.
    let path = whole.changed(folder.path(), 0, b"GGUF");
    assert_eq!(load(&path).unwrap().tokenizer().unwrap().vocab_size(), 3);
    let path = whole.changed(folder.path(), rows, &[2]);
    let words = [
        "`vocab_size` is 2",
        "the 3 tokens of the tokenizer",
        path.to_str().unwrap(),
    ];
    assert_named(&load(&path).unwrap_err(), "InvalidConfig", &words);
    // Other lists of the tokenizer.
    for (key, id, words) in [
        (
            "tokenizer.ggml.token_type",
            [9, 0, 0, 0],
            "`tokenizer.ggml.token_type` is",
        ),
        (
            "tokenizer.ggml.token_type",
            [0xff; 4],
            "`tokenizer.ggml.token_type` is",
        ),
    ] {
        let path = whole.changed(folder.path(), whole.value(key) + 12, &id);
        assert_named(
            &load(&path).unwrap_err(),
            "InvalidConfig",
            &[words, path.to_str().unwrap()],
        );
    }
    let first = whole.value("tokenizer.ggml.tokens") + 12 + 8;
    let path = whole.changed(folder.path(), first, b"b");
    let words = [
        "`tokenizer.ggml.tokens` is",
        "twice",
        path.to_str().unwrap(),
    ];
    assert_named(&load(&path).unwrap_err(), "InvalidConfig", &words);
    let path = whole.changed(folder.path(), first, &[0xff]);
    assert_refused(
        &path,
        "InvalidFormat",
        &["tokenizer.ggml.tokens", "not UTF-8"],
    );
}
