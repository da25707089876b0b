//! A model in a GGUF file, seen as the files of a Hugging Face directory.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

#[cfg(any(test, fuzzing))]
use crate::backend::mapped_file::MappedFile;
use crate::error::{Error, Result};
use crate::models::gguf::config::{Keys, config_json, eos_token_ids};
use crate::models::gguf::file::{GgufFile, TensorEntry};
use crate::models::gguf::ggml_type::{GgmlType, LOADABLE};
use crate::models::gguf::names::gguf_name;
use crate::models::gguf::rope::FACTORS_TENSOR;
use crate::models::gguf::split::open_with_parts;
use crate::models::gguf::tokenizer::{special_tokens, tokenizer_json};
use crate::models::{ChatTemplate, ModelConfig, TensorSpec, Tokenizer};

/// A GGUF file: configuration, tokenizer, chat template and weights of a model, by the names that
/// Hugging Face has for them.
///
/// Versions 2 and 3 of the format are read, of the architectures `qwen2`, `qwen3` and `llama`
/// (which Mistral models have, too). Of a model in several files, the first is to be opened, and the
/// others lie beside it. Opening reads and checks the headers only. The files must not be shortened or
/// overwritten in place while they are open; replacing one by renaming another over it is safe.
///
/// # Example
///
/// ```no_run
/// use std::path::Path;
/// use metal_candle::models::GgufCheckpoint;
///
/// let checkpoint = GgufCheckpoint::open(Path::new("qwen2.5-coder-0.5b-q8_0.gguf"))?;
/// checkpoint.validate(&checkpoint.config().tensors())?;
/// let name = "model.layers.0.mlp.up_proj.weight";
/// println!("{:?} {:?}", checkpoint.shape(name), checkpoint.ggml_type(name));
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug)]
pub struct GgufCheckpoint {
    file: GgufFile,
    config_json: Value,
    config: ModelConfig,
    /// Whether rows of query and key weights are to be put in the order of Hugging Face.
    pairs_rotate_together: bool,
}

impl GgufCheckpoint {
    /// Opens a file and reads its configuration.
    ///
    /// # Errors
    ///
    /// [`Error::FileNotFound`] and [`Error::Io`] if the file or a part of it cannot be read;
    /// [`Error::InvalidFormat`] if one is truncated or inconsistent; [`Error::InvalidConfig`] with the
    /// key that is missing or makes no sense; [`Error::Unsupported`] for another version, byte order
    /// or architecture, and for models with experts; [`Error::MissingTensor`] if there is no embedding.
    pub fn open(path: &Path) -> Result<Self> {
        Self::new(open_with_parts(path)?)
    }

    /// Reads a file of these bytes, as [`open`](Self::open) does but for further parts.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        Self::new(GgufFile::read(MappedFile::from_bytes(bytes, path)?)?)
    }

    fn new(file: GgufFile) -> Result<Self> {
        let config_json = config_json(&file)?;
        let config = ModelConfig::from_value(&config_json, file.path())?;
        let pairs_rotate_together = Keys::new(&file)?.pairs_rotate_together();
        Ok(Self {
            file,
            config_json,
            config,
            pairs_rotate_together,
        })
    }

    /// The path that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The configuration as `config.json` of a Hugging Face directory has it.
    #[must_use]
    pub fn config_json(&self) -> &Value {
        &self.config_json
    }

    /// The tokenizer as `tokenizer.json` of a Hugging Face directory has it, or `None` if the file
    /// has none.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] with the key that is missing or makes no sense,
    /// [`Error::Unsupported`] for other tokenizers than byte-level BPE as GPT-2, Qwen2, Llama 3 and
    /// `SmolLM` have it, and `SentencePiece` BPE as Llama 2 and Mistral have it.
    pub fn tokenizer_json(&self) -> Result<Option<Value>> {
        tokenizer_json(&self.file)
    }

    /// The tokenizer, or `None` if the file has none.
    ///
    /// # Errors
    ///
    /// Those of [`tokenizer_json`](Self::tokenizer_json), and [`Error::InvalidFormat`] if the tokens
    /// do not make a tokenizer, for example if a merge names a token that is not there.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        let Some(json) = self.tokenizer_json()? else {
            return Ok(None);
        };
        let tokenizer = Tokenizer::from_json(json.to_string().as_bytes(), self.path())?;
        let eos_token_id = eos_token_ids(&self.file)?.first().copied();
        Ok(Some(tokenizer.with_eos_token_id(eos_token_id)))
    }

    /// The chat template, or `None` if the file has none.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if it is not a string, or names special tokens that are not there.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        let Some(default) = self.file.string("tokenizer.chat_template")? else {
            return Ok(None);
        };
        Ok(Some(ChatTemplate::from_file(
            self.path(),
            default,
            self.file.string("tokenizer.chat_template.tool_use")?,
            special_tokens(&self.file)?,
        )))
    }

    /// The shape of a tensor, outermost dimension first, or `None` if there is none of this name.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.find(name)?.shape)
    }

    /// How the numbers of a tensor are stored, or `None` if there is none of this name.
    #[must_use]
    pub fn ggml_type(&self, name: &str) -> Option<GgmlType> {
        Some(self.find(name)?.ggml_type)
    }

    /// Checks that every expected tensor is there with its shape and of a type that can be computed
    /// with, and that no other one is.
    ///
    /// Nothing is loaded. A tensor beyond the expected ones is an error because a model that has it
    /// computes something else; llama.cpp refuses such files as well.
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`] for the first tensor that is absent, [`Error::TensorMismatch`] for
    /// the first with another shape or type, [`Error::Unsupported`] for the first that is not expected.
    pub fn validate(&self, expected: &[TensorSpec]) -> Result<()> {
        for spec in expected {
            self.check(spec)?;
        }
        let known = expected.iter().filter_map(|spec| gguf_name(&spec.name));
        let known: HashSet<String> = known.chain([FACTORS_TENSOR.to_owned()]).collect();
        match self.file.tensor_names().find(|name| !known.contains(*name)) {
            None => Ok(()),
            Some(name) => Err(Error::Unsupported {
                path: self.path().to_owned(),
                what: "tensor",
                found: name.to_owned(),
                supported: format!(
                    "the tensors of models of type {}",
                    self.config.architecture.model_type()
                ),
            }),
        }
    }

    /// Checks one tensor as [`validate`](Self::validate) does.
    pub(crate) fn check(&self, TensorSpec { name, shape }: &TensorSpec) -> Result<()> {
        let entry = self.entry(name, shape)?;
        if entry.shape != *shape {
            let found = format!("{:?}", entry.shape);
            return Err(self.mismatch(name, "shape", found, format!("{shape:?}")));
        }
        if !entry.ggml_type.is_loadable() {
            let found = entry.ggml_type.to_string();
            return Err(self.mismatch(name, "type", found, LOADABLE.to_owned()));
        }
        Ok(())
    }

    /// The bytes that a tensor takes in the file.
    pub(crate) fn size_in_bytes(&self, name: &str) -> Option<usize> {
        Some(self.file.tensor_bytes(self.find(name)?).len())
    }

    /// Lets go of the memory that holds the bytes of a tensor, which was loaded.
    pub(crate) fn release(&self, name: &str) {
        if let Some(entry) = self.find(name) {
            self.file.release(entry);
        }
    }

    /// The bytes of a tensor, its rows one after the other in the order of Hugging Face.
    ///
    /// They are those of the file where its order is the same, and else a copy.
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`] if there is none of this name, [`Error::TensorMismatch`] if its type
    /// is unknown, or its rows are not those of the configuration.
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let entry = self.entry(name, &[])?;
        if entry.ggml_type.block_bytes().is_none() {
            let expected = "a known type".to_owned();
            return Err(self.mismatch(name, "type", entry.ggml_type.to_string(), expected));
        }
        let bytes = self.file.tensor_bytes(entry);
        let Some(heads) = self.heads_in_pairs(name) else {
            return Ok(Cow::Borrowed(bytes));
        };
        let rows = heads.checked_mul(self.config.head_dim);
        if rows.is_none() || rows != entry.shape.first().copied() {
            let found = format!("{:?}", entry.shape);
            let expected = format!("{heads} heads of {} rows", self.config.head_dim);
            return Err(self.mismatch(name, "shape", found, expected));
        }
        Ok(Cow::Owned(pairs_to_halves(
            bytes,
            heads,
            self.config.head_dim,
        )))
    }

    /// Copies a tensor of `F32`, `F16` or `BF16` numbers to `device`, converted to `dtype` if one is
    /// given.
    ///
    /// # Errors
    ///
    /// Those of [`bytes`](Self::bytes), [`Error::TensorMismatch`] for a tensor of another type, and
    /// [`Error::Backend`] if the device is out of memory.
    pub fn load_dense(&self, name: &str, dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        let entry = self.entry(name, &[])?;
        let stored = match entry.ggml_type {
            GgmlType::F32 => DType::F32,
            GgmlType::F16 => DType::F16,
            GgmlType::BF16 => DType::BF16,
            other => {
                let expected = "F32, F16 or BF16".to_owned();
                return Err(self.mismatch(name, "type", other.to_string(), expected));
            }
        };
        let bytes = self.bytes(name)?;
        let tensor = Tensor::from_raw_buffer(&bytes, stored, &entry.shape, &Device::Cpu)?;
        self.file.release(entry);
        let tensor = tensor.to_dtype(dtype.unwrap_or(stored))?;
        Ok(tensor.to_device(device)?)
    }

    /// The number of heads of a tensor whose rows are in the order of llama.cpp.
    fn heads_in_pairs(&self, name: &str) -> Option<usize> {
        let (_, projection) = name.rsplit_once("self_attn.")?;
        let heads = match projection {
            "q_proj.weight" => self.config.num_attention_heads,
            "k_proj.weight" => self.config.num_key_value_heads,
            _ => return None,
        };
        self.pairs_rotate_together.then_some(heads)
    }

    fn find(&self, name: &str) -> Option<&TensorEntry> {
        self.file.tensor(&gguf_name(name)?)
    }

    fn entry(&self, name: &str, expected: &[usize]) -> Result<&TensorEntry> {
        self.find(name).ok_or_else(|| Error::MissingTensor {
            path: self.path().to_owned(),
            name: gguf_name(name).unwrap_or_else(|| name.to_owned()),
            expected: expected.to_vec(),
        })
    }

    fn mismatch(
        &self,
        name: &str,
        property: &'static str,
        found: String,
        expected: String,
    ) -> Error {
        Error::TensorMismatch {
            path: self.path().to_owned(),
            name: gguf_name(name).unwrap_or_else(|| name.to_owned()),
            property,
            found,
            expected,
        }
    }
}

/// The rows of `heads` heads, of each first those of the first half and then those of the second, where
/// `bytes` has the rows that rotate together beside each other.
fn pairs_to_halves(bytes: &[u8], heads: usize, head_dim: usize) -> Vec<u8> {
    let row_bytes = bytes.len() / (heads * head_dim).max(1);
    let mut ordered = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact((head_dim * row_bytes).max(1)) {
        for half in 0..2 {
            let rows = head.chunks_exact(row_bytes.max(1)).skip(half).step_by(2);
            rows.for_each(|row| ordered.extend_from_slice(row));
        }
    }
    ordered
}

#[cfg(test)]
mod tests;
