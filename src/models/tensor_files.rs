//! Named tensors in one or more memory-mapped files.

use super::json::{self, Object};
use super::shard_index::{check_inside, shard_names};
use super::{StoredTensor, TensorSpec, WeightSource};
use crate::backend::mapped_file::MappedFile;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The tensors of one or more files, seen as one set.
#[derive(Debug)]
pub(crate) struct TensorFiles {
    /// The directory or file that was opened.
    path: PathBuf,
    files: Vec<MappedFile>,
    /// With the file of each.
    tensors: BTreeMap<String, (usize, TensorEntry)>,
}

/// Where a tensor lies, and what it is.
#[derive(Debug)]
pub(crate) struct TensorEntry {
    /// As the file calls its dtype.
    pub encoding: String,
    /// Where it can be loaded.
    pub dtype: Option<DType>,
    pub shape: Vec<usize>,
    /// Its bytes, from the start of the file; in the file, and as many as shape and dtype take.
    pub bytes: Range<usize>,
}

impl TensorFiles {
    /// No tensors yet.
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
        }
    }

    /// The shards that `index`, a file in the directory, lists; `read` gives the tensors of each.
    pub(crate) fn open_shards(
        index: &Path,
        mut read: impl FnMut(&mut Self, &Path) -> Result<()>,
    ) -> Result<Self> {
        let dir = index.parent().unwrap_or(Path::new(""));
        let value = json::read(index, "the list of the shards of the model")?;
        let weight_map = shard_names(&Object::new(&value, index)?)?;
        let mut this = Self::new(dir);
        let shards: BTreeSet<&str> = weight_map.values().copied().collect();
        let mut file_of_shard = BTreeMap::new();
        for shard in shards {
            let path = dir.join(shard);
            check_inside(dir, &path)?;
            file_of_shard.insert(shard, this.files.len());
            read(&mut this, &path)?;
        }
        for (name, shard) in weight_map {
            let found = this.tensors.get(name).map(|(file, _)| *file);
            if found != file_of_shard.get(shard).copied() {
                return Err(Error::MissingTensor {
                    path: dir.join(shard),
                    name: name.to_owned(),
                    expected: Vec::new(),
                });
            }
        }
        Ok(this)
    }

    /// Adds the tensors of a file.
    pub(crate) fn add(
        &mut self,
        file: MappedFile,
        tensors: impl IntoIterator<Item = (String, TensorEntry)>,
    ) -> Result<()> {
        for (name, entry) in tensors {
            if let Some((other, _)) = self.tensors.get(&name) {
                let other = self.files.get(*other).unwrap_or(&file).path().display();
                return Err(Error::format(
                    file.path(),
                    format!("tensor `{name}` is also in {other}; expected each tensor once"),
                ));
            }
            self.tensors.insert(name, (self.files.len(), entry));
        }
        self.files.push(file);
        Ok(())
    }

    /// The names of all tensors, in alphabetical order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What is known of a tensor.
    pub(crate) fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(name).map(|(_, entry)| entry)
    }

    /// Checks that every expected tensor is there, with its shape and as floating-point numbers.
    pub(crate) fn validate(&self, expected: &[TensorSpec]) -> Result<()> {
        for spec in expected {
            self.check(&spec.name, &spec.shape)?;
        }
        let expected: HashSet<&str> = expected.iter().map(|spec| spec.name.as_str()).collect();
        for name in self.names().filter(|name| !expected.contains(name)) {
            tracing::debug!(path = %self.path.display(), name, "tensor is not used");
        }
        Ok(())
    }

    /// Copies a tensor to `device`, converted to `dtype` if one is given.
    ///
    /// The conversion happens on the CPU, so that the device never holds both copies.
    pub(crate) fn read(&self, name: &str, dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        let (file, entry) = self.entry(name, &[])?;
        let stored = entry.dtype.ok_or_else(|| {
            let expected = "F32, F16, BF16, F64, U8, U32, I16, I32 or I64";
            mismatch(file, name, "dtype", &entry.encoding, expected)
        })?;
        let bytes = file.bytes().get(entry.bytes.clone()).ok_or_else(|| {
            Error::format(file.path(), format!("tensor `{name}` is not in the file"))
        })?;
        let tensor = Tensor::from_raw_buffer(bytes, stored, &entry.shape, &Device::Cpu)?;
        // Otherwise the file would stay in memory beside the weights.
        file.release(entry.bytes.clone());
        let tensor = tensor.to_dtype(dtype.unwrap_or(stored))?;
        Ok(tensor.to_device(device)?)
    }

    fn entry(&self, name: &str, expected: &[usize]) -> Result<(&MappedFile, &TensorEntry)> {
        let found = self.tensors.get(name);
        let found = found.and_then(|(file, entry)| Some((self.files.get(*file)?, entry)));
        found.ok_or_else(|| Error::MissingTensor {
            path: self.path.clone(),
            name: name.to_owned(),
            expected: expected.to_vec(),
        })
    }
}

fn mismatch(
    file: &MappedFile,
    name: &str,
    property: &'static str,
    found: &str,
    expected: &str,
) -> Error {
    Error::TensorMismatch {
        path: file.path().to_owned(),
        name: name.to_owned(),
        property,
        found: found.to_owned(),
        expected: expected.to_owned(),
    }
}

impl WeightSource for TensorFiles {
    fn stored(&self, name: &str) -> Option<StoredTensor> {
        let entry = self.get(name)?;
        Some(StoredTensor {
            shape: entry.shape.clone(),
            encoding: entry.encoding.clone(),
            size_in_bytes: entry.bytes.len(),
            dtype: entry.dtype?,
            quantized: false,
        })
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        let (file, entry) = self.entry(name, shape)?;
        if entry.shape != shape {
            let (found, expected) = (format!("{:?}", entry.shape), format!("{shape:?}"));
            return Err(mismatch(file, name, "shape", &found, &expected));
        }
        if !matches!(entry.dtype, Some(DType::F32 | DType::F16 | DType::BF16)) {
            return Err(mismatch(
                file,
                name,
                "dtype",
                &entry.encoding,
                "F32, F16 or BF16",
            ));
        }
        Ok(())
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.read(name, Some(dtype), device)
    }
}
