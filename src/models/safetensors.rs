//! Weights in safetensors files.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Dtype;
use safetensors::{SafeTensorError, SafeTensors};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::backend::mapped_file::MappedFile;
use crate::error::{Error, Result};
use crate::models::tensor_files::{TensorEntry, TensorFiles};
use crate::models::tensor_spec::TensorSpec;

/// The name of the weights of a model in one file.
pub(super) const SINGLE_FILE: &str = "model.safetensors";
/// The name of the file that lists the shards of a model in several files.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";
/// The length of the number at the start of a safetensors file, in bytes.
const LENGTH_BYTES: usize = 8;
/// How text files begin that stand for a file kept in Git LFS.
const GIT_LFS_MAGIC: &[u8] = b"version https://git-lfs";

/// One or more memory-mapped safetensors files, seen as one set of named tensors.
///
/// Opening reads and checks the headers only; [`load`](Self::load) copies one tensor at a time.
///
/// The files must not be shortened or overwritten in place while a checkpoint is open: the
/// operating system ends a process that reads a part of a map whose file is gone (`SIGBUS`).
/// Replacing a file by renaming another over it is safe.
///
/// # Example
///
/// ```
/// use std::path::Path;
/// use metal_candle::models::{ModelConfig, SafetensorsCheckpoint};
///
/// let dir = Path::new("assets/tiny-coder");
/// let config = ModelConfig::from_file(&dir.join("config.json"))?;
/// let checkpoint = SafetensorsCheckpoint::open(dir)?;
/// checkpoint.validate(&config.tensors())?;
/// assert_eq!(checkpoint.shape("model.norm.weight"), Some(&[256][..]));
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug)]
pub struct SafetensorsCheckpoint {
    tensors: TensorFiles,
    metadata: Metadata,
}

/// The free-form strings of headers.
type Metadata = BTreeMap<String, String>;

impl SafetensorsCheckpoint {
    /// Opens the weights of a model directory: `model.safetensors`, or else the shards that
    /// `model.safetensors.index.json` lists.
    ///
    /// Shards must lie in the directory itself. Links out of it are followed only into the blobs of
    /// a Hugging Face cache that the directory belongs to.
    ///
    /// # Errors
    ///
    /// [`Error::FileNotFound`] if there are no weights or a shard is missing,
    /// [`Error::InvalidFormat`] if a file is truncated, not what its name says, or repeats a tensor
    /// of another, [`Error::InvalidConfig`] if the index names something else than files of the
    /// directory, [`Error::MissingTensor`] if a shard lacks a tensor that the index puts there, and
    /// [`Error::Io`] if a file cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let single = dir.join(SINGLE_FILE);
        let index = dir.join(INDEX_FILE);
        if single.exists() {
            Self::open_file(&single)
        } else if index.exists() {
            let mut metadata = BTreeMap::new();
            let tensors = TensorFiles::open_shards(&index, |tensors, path| {
                add_file(tensors, &mut metadata, path)
            })?;
            Ok(Self { tensors, metadata })
        } else {
            Err(Error::FileNotFound {
                path: single,
                expected: format!("the weights of the model in {SINGLE_FILE} or {INDEX_FILE}"),
            })
        }
    }

    /// Opens a single safetensors file, such as an adapter.
    ///
    /// # Errors
    ///
    /// [`Error::FileNotFound`] if there is no such file, [`Error::InvalidFormat`] if it is
    /// truncated or not a safetensors file, and [`Error::Io`] if it cannot be read.
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut tensors = TensorFiles::new(path);
        let mut metadata = BTreeMap::new();
        add_file(&mut tensors, &mut metadata, path)?;
        Ok(Self { tensors, metadata })
    }

    /// The tensors, without the metadata.
    pub(super) fn into_files(self) -> TensorFiles {
        self.tensors
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.names()
    }

    /// Whether there is a tensor of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.get(name).is_some()
    }

    /// The shape of a tensor, or `None` if there is none of this name.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The dtype of a tensor as stored, or `None` if there is none of this name or its dtype is one
    /// that cannot be loaded.
    #[must_use]
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.tensors.get(name)?.dtype
    }

    /// The free-form strings in the header of the file; of shards, those of all taken together.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Checks that every expected tensor is there, with its shape and as floating-point numbers.
    ///
    /// Nothing is loaded. Tensors beyond the expected ones are allowed; they are logged.
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`] for the first tensor that is absent, [`Error::TensorMismatch`] for
    /// the first with another shape or a dtype other than F32, F16 and BF16.
    pub fn validate(&self, expected: &[TensorSpec]) -> Result<()> {
        self.tensors.validate(expected)
    }

    /// Copies a tensor to `device`, converted to `dtype` if one is given.
    ///
    /// The conversion happens on the CPU, so that the device never holds both copies.
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`] if there is none of this name, [`Error::TensorMismatch`] if its
    /// stored dtype cannot be loaded, and [`Error::Backend`] if the device is out of memory.
    pub fn load(&self, name: &str, dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        self.tensors.read(name, dtype, device)
    }
}

/// Maps a file and adds its tensors.
fn add_file(tensors: &mut TensorFiles, metadata: &mut Metadata, path: &Path) -> Result<()> {
    let file = MappedFile::open(path, "a safetensors file")?;
    let (entries, further) = entries(file.bytes(), path)?;
    tensors.add(file, entries)?;
    metadata.extend(further);
    Ok(())
}

/// The tensors and the metadata of a file with these bytes.
pub(crate) fn entries(bytes: &[u8], path: &Path) -> Result<(Vec<(String, TensorEntry)>, Metadata)> {
    let (header_bytes, header) = SafeTensors::read_metadata(bytes)
        .map_err(|error| Error::format(path, describe(&error, bytes)))?;
    let data_start = LENGTH_BYTES + header_bytes;
    let mut names = HashSet::new();
    let keys = bytes.get(LENGTH_BYTES..data_start).unwrap_or_default();
    // The library keeps the last of two.
    let Keys(keys) = serde_json::from_slice(keys)
        .map_err(|error| Error::format(path, format!("not a valid safetensors file: {error}")))?;
    if let Some(twice) = keys.into_iter().find(|name| !names.insert(name.clone())) {
        let reason = format!("tensor `{twice}` is there twice; expected each tensor once");
        return Err(Error::format(path, reason));
    }
    let entries = header.tensors().into_iter().map(|(name, info)| {
        // In range, since the header was checked against the length of the file.
        let (start, end) = info.data_offsets;
        let entry = TensorEntry {
            encoding: info.dtype.to_string(),
            dtype: loadable_dtype(info.dtype),
            shape: info.shape.clone(),
            bytes: data_start + start..data_start + end,
        };
        (name, entry)
    });
    let metadata = header.metadata().clone().into_iter().flatten();
    Ok((entries.collect(), metadata.collect()))
}

/// The keys of a JSON object, each as often as it is there.
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Keys;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Keys, A::Error> {
                let mut keys = vec![];
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

/// The dtype in candle of a stored one, if candle can compute with it.
fn loadable_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F64 => Some(DType::F64),
        Dtype::U8 => Some(DType::U8),
        Dtype::U32 => Some(DType::U32),
        Dtype::I16 => Some(DType::I16),
        Dtype::I32 => Some(DType::I32),
        Dtype::I64 => Some(DType::I64),
        _ => None,
    }
}

/// What is wrong with a file that is no safetensors file, and what would be right.
fn describe(error: &SafeTensorError, bytes: &[u8]) -> String {
    let length = bytes.len();
    if bytes.starts_with(GIT_LFS_MAGIC) {
        return "this is a Git LFS pointer; expected the safetensors file itself, which `git lfs \
                pull` fetches"
            .to_owned();
    }
    match error {
        SafeTensorError::HeaderTooSmall => {
            format!(
                "truncated: the file has {length} bytes; expected a header of at least {LENGTH_BYTES}"
            )
        }
        SafeTensorError::InvalidHeaderLength => {
            format!(
                "truncated or not a safetensors file: the header ends beyond the {length} bytes of \
                 the file"
            )
        }
        SafeTensorError::MetadataIncompleteBuffer => match expected_length(bytes) {
            Some(expected) if expected > length => {
                format!("truncated: the file has {length} bytes; expected {expected}")
            }
            Some(expected) => {
                format!("the file has {length} bytes; expected {expected}, where its tensors end")
            }
            None => format!("the tensors do not fill the {length} bytes of the file"),
        },
        other => format!("not a valid safetensors file: {other}"),
    }
}

/// The length that the header of a safetensors file calls for.
fn expected_length(bytes: &[u8]) -> Option<usize> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    let header_bytes = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let header: safetensors::tensor::Metadata =
        serde_json::from_slice(rest.get(..header_bytes)?).ok()?;
    header
        .data_len()
        .checked_add(header_bytes)?
        .checked_add(LENGTH_BYTES)
}

#[cfg(test)]
mod tests;
