//! Weights in safetensors files.

mod header;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::backend::mapped_file::MappedFile;
use crate::error::{Error, Result};
use crate::models::tensor_files::TensorFiles;
use crate::models::tensor_spec::TensorSpec;
use header::Metadata;
pub(crate) use header::entries;

/// The name of the weights of a model in one file.
pub(super) const SINGLE_FILE: &str = "model.safetensors";
/// The name of the file that lists the shards of a model in several files.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";

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

#[cfg(test)]
mod tests;
