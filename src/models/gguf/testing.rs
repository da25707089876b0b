//! A writer of small GGUF files, and the models of the fixtures in them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::names::gguf_name;
use crate::models::{ModelConfig, SafetensorsCheckpoint};

/// The alignment of files that name none.
pub(super) const ALIGNMENT: usize = 32;

/// A metadata value as it is written: its type and its bytes.
#[derive(Debug, Clone)]
pub(super) struct Encoded {
    id: u32,
    bytes: Vec<u8>,
}

pub(super) fn u32(number: u32) -> Encoded {
    encoded(4, number.to_le_bytes())
}

pub(super) fn i32(number: i32) -> Encoded {
    encoded(5, number.to_le_bytes())
}

pub(super) fn f32(number: f32) -> Encoded {
    encoded(6, number.to_le_bytes())
}

pub(super) fn bool(value: bool) -> Encoded {
    encoded(7, [u8::from(value)])
}

pub(super) fn string(text: &str) -> Encoded {
    encoded(
        8,
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat(),
    )
}

/// A list of values of one type.
pub(super) fn list(id: u32, items: impl IntoIterator<Item = Encoded>) -> Encoded {
    let items: Vec<_> = items.into_iter().collect();
    assert!(items.iter().all(|item| item.id == id));
    let mut bytes = [&id.to_le_bytes()[..], &(items.len() as u64).to_le_bytes()].concat();
    bytes.extend(items.into_iter().flat_map(|item| item.bytes));
    encoded(9, bytes)
}

pub(super) fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> Encoded {
    list(8, texts.into_iter().map(string))
}

pub(super) fn i32s(numbers: impl IntoIterator<Item = i32>) -> Encoded {
    list(5, numbers.into_iter().map(i32))
}

pub(super) fn f32s(numbers: impl IntoIterator<Item = f32>) -> Encoded {
    list(6, numbers.into_iter().map(f32))
}

/// A value of any type and bytes.
pub(super) fn encoded(id: u32, bytes: impl Into<Vec<u8>>) -> Encoded {
    let bytes = bytes.into();
    Encoded { id, bytes }
}

/// What is written about a tensor.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Innermost first.
    pub(super) dims: Vec<u64>,
    pub(super) type_id: u32,
    pub(super) offset: u64,
}

/// A file to write. Everything can be changed before it is written.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) version: u32,
    pub(super) keys: Vec<(String, Encoded)>,
    pub(super) tensors: Vec<Entry>,
    pub(super) data: Vec<u8>,
}

impl Writer {
    pub(super) fn new(architecture: &str) -> Self {
        let empty = Self {
            version: 3,
            keys: Vec::new(),
            tensors: Vec::new(),
            data: Vec::new(),
        };
        empty.with("general.architecture", string(architecture))
    }

    /// Sets a key.
    pub(super) fn with(mut self, key: &str, value: Encoded) -> Self {
        self.keys.retain(|(other, _)| other != key);
        self.keys.push((key.to_owned(), value));
        self
    }

    /// Removes a key.
    pub(super) fn without(mut self, key: &str) -> Self {
        let before = self.keys.len();
        self.keys.retain(|(other, _)| other != key);
        assert_eq!(self.keys.len() + 1, before, "{key}");
        self
    }

    /// Adds a tensor; `shape` is outermost first.
    pub(super) fn add(&mut self, name: &str, shape: &[usize], type_id: u32, bytes: &[u8]) {
        self.data
            .resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
        self.tensors.push(Entry {
            name: name.to_owned(),
            dims: shape.iter().rev().map(|&size| size as u64).collect(),
            type_id,
            offset: self.data.len() as u64,
        });
        self.data.extend_from_slice(bytes);
    }

    /// Adds a tensor of `F32` numbers.
    pub(super) fn add_f32(&mut self, name: &str, tensor: &Tensor) {
        let numbers = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.add(name, tensor.dims(), 0, &bytes);
    }

    /// What stands before the data.
    pub(super) fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            bytes.extend(string(key).bytes);
            bytes.extend(value.id.to_le_bytes());
            bytes.extend(&value.bytes);
        }
        for tensor in &self.tensors {
            bytes.extend(string(&tensor.name).bytes);
            bytes.extend(u32::try_from(tensor.dims.len()).unwrap().to_le_bytes());
            bytes.extend(tensor.dims.iter().flat_map(|size| size.to_le_bytes()));
            bytes.extend(tensor.type_id.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(&self.data);
        bytes
    }

    pub(super) fn write(&self) -> NamedTempFile {
        let file = tempfile::Builder::new().suffix(".gguf").tempfile();
        let file = file.unwrap();
        std::fs::write(file.path(), self.bytes()).unwrap();
        file
    }
}

/// A byte of a file that is another one as long as this lives.
pub(super) struct Changed<'a> {
    file: &'a File,
    at: u64,
    byte: u8,
}

impl<'a> Changed<'a> {
    /// Flips the bits `change` of `byte`, which is the one `at` this place.
    pub(super) fn new(file: &'a File, at: usize, byte: u8, change: u8) -> Self {
        let at = at as u64;
        file.write_all_at(&[byte ^ change], at).unwrap();
        Self { file, at, byte }
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        self.file.write_all_at(&[self.byte], self.at).unwrap();
    }
}

/// A model of the fixtures, as the converter of llama.cpp writes it in `F32`.
pub(super) fn fixture(name: &str) -> Writer {
    let dir = Path::new("tests/fixtures/models").join(name);
    let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let config = ModelConfig::from_file(&dir.join("config.json")).unwrap();
    // Mistral models have the architecture of Llama's.
    let architecture = match json["model_type"].as_str().unwrap() {
        "mistral" => "llama",
        other => other,
    };
    let size = |size: usize| u32(u32::try_from(size).unwrap());
    #[allow(clippy::cast_possible_truncation, reason = "as in files")]
    let float = |number: f64| f32(number as f32);
    let mut writer = Writer::new(architecture);
    for (key, value) in [
        ("block_count", size(config.num_hidden_layers)),
        ("context_length", size(config.max_position_embeddings)),
        ("embedding_length", size(config.hidden_size)),
        ("feed_forward_length", size(config.intermediate_size)),
        ("attention.head_count", size(config.num_attention_heads)),
        ("attention.head_count_kv", size(config.num_key_value_heads)),
        ("attention.key_length", size(config.head_dim)),
        ("attention.value_length", size(config.head_dim)),
        (
            "attention.layer_norm_rms_epsilon",
            float(config.rms_norm_eps),
        ),
        ("rope.freq_base", float(config.rope_theta)),
    ] {
        writer = writer.with(&format!("{architecture}.{key}"), value);
    }
    for (key, id) in [
        ("bos", config.bos_token_id),
        ("eos", config.eos_token_ids.first().copied()),
    ] {
        writer = writer.with(&format!("tokenizer.ggml.{key}_token_id"), u32(id.unwrap()));
    }
    let checkpoint = SafetensorsCheckpoint::open(&dir).unwrap();
    for spec in config.tensors() {
        let dtype = Some(candle_core::DType::F32);
        let mut tensor = checkpoint.load(&spec.name, dtype, &Device::Cpu).unwrap();
        if architecture == "llama" {
            if spec.name.ends_with("q_proj.weight") {
                tensor = halves_to_pairs(&tensor, config.num_attention_heads);
            } else if spec.name.ends_with("k_proj.weight") {
                tensor = halves_to_pairs(&tensor, config.num_key_value_heads);
            }
        }
        writer.add_f32(&gguf_name(&spec.name).unwrap(), &tensor);
    }
    writer
}

/// The order of rows in which those that rotate together are beside each other.
fn halves_to_pairs(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, width) = weight.dims2().unwrap();
    let halves = weight.reshape((heads, 2, rows / heads / 2, width)).unwrap();
    let pairs = halves.transpose(1, 2).unwrap().contiguous().unwrap();
    pairs.reshape((rows, width)).unwrap()
}

/// What Llama 3.1 divides each rotary frequency by.
#[allow(clippy::cast_possible_truncation, reason = "as in files")]
pub(super) fn llama3_factors(head_dim: u16, theta: f64, factor: f64, original: f64) -> Vec<f32> {
    let factors = (0..head_dim / 2).map(|index| {
        let exponent = f64::from(2 * index) / f64::from(head_dim);
        let wavelength = std::f64::consts::TAU * theta.powf(exponent);
        let (low, high) = (1.0, 4.0);
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    });
    factors.map(|factor| factor as f32).collect()
}
