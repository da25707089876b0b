//! GGUF files, the format of llama.cpp.

use super::{ModelFormat, ModelText, StoredModel};
use crate::backend::ops::blocks::{BlockType, BlockWeight};
use crate::backend::ops::matrix::Matrix;
use crate::error::{Error, Result};
use crate::models::gguf::{self, GgufCheckpoint};
use crate::models::{StoredTensor, TensorSpec, WeightSource};
use candle_core::{DType, Device, Tensor};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A GGUF file of version 2 or 3, or a directory in which there is just one and no other model; of a
/// model in several files, the first of them.
///
/// Configuration, tokenizer and chat template are those of its metadata. Weights that are quantised
/// stay so.
#[derive(Debug, Clone, Copy)]
pub struct GgufFormat;

impl ModelFormat for GgufFormat {
    fn name(&self) -> &'static str {
        "gguf"
    }

    fn detect(&self, path: &Path) -> Result<bool> {
        Ok(find(path)?.is_some())
    }

    fn open(&self, path: &Path) -> Result<StoredModel> {
        let path = find(path)?.unwrap_or_else(|| path.to_owned());
        let file = Arc::new(GgufCheckpoint::open(&path)?);
        file.validate(&file.config().tensors())?;
        let text = Arc::clone(&file);
        Ok(StoredModel {
            config: file.config().clone(),
            config_json: file.config_json().clone(),
            weights: Box::new(GgufWeights(file)),
            text: Box::new(move || {
                Ok(ModelText {
                    tokenizer: text.tokenizer()?,
                    chat_template: text.chat_template()?,
                    ..ModelText::default()
                })
            }),
        })
    }
}

/// The GGUF file that is meant by a path.
fn find(path: &Path) -> Result<Option<PathBuf>> {
    if !path.is_dir() {
        return Ok(gguf::is_gguf(path)?.then(|| path.to_owned()));
    }
    let unreadable = |error| Error::io(path, "a model directory", error);
    let mut found = None;
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if !gguf::is_gguf(&file)? || gguf::is_later_part(&file) {
            continue;
        }
        if let Some(other) = found.replace(file.clone()) {
            let (file, other) = (file.display(), other.display());
            let reason = format!("holds {file} and {other}; expected one GGUF file, or its path");
            return Err(Error::format(path, reason));
        }
    }
    Ok(found)
}

#[derive(Debug)]
struct GgufWeights(Arc<GgufCheckpoint>);

impl GgufWeights {
    /// The type of a tensor's blocks, unless it is of plain numbers.
    fn block_type(&self, name: &str) -> Option<BlockType> {
        BlockType::from_ggml_id(self.0.ggml_type(name)?.id())
    }

    fn blocks(&self, name: &str, kind: BlockType, device: &Device) -> Result<BlockWeight> {
        let shape = self.0.shape(name).unwrap_or_default();
        let (output, input) = match *shape {
            [output, input] => (output, input),
            _ => (1, shape.iter().product()),
        };
        let bytes = self.0.bytes(name)?;
        let weight = BlockWeight::from_bytes(&*bytes, kind, output, input, device)?;
        self.0.release(name);
        Ok(weight)
    }
}

impl WeightSource for GgufWeights {
    fn stored(&self, name: &str) -> Option<StoredTensor> {
        let (shape, kind) = (self.0.shape(name)?, self.0.ggml_type(name)?);
        let quantized = self.block_type(name).is_some();
        Some(StoredTensor {
            shape: shape.to_vec(),
            encoding: kind.to_string(),
            size_in_bytes: self.0.size_in_bytes(name)?,
            dtype: match kind {
                gguf::GgmlType::F32 => DType::F32,
                gguf::GgmlType::F16 => DType::F16,
                // Beside blocks the wide range of `bf16` loses less than it rounds.
                _ => DType::BF16,
            },
            quantized,
        })
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.0.check(&TensorSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
        })
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        match self.block_type(name) {
            Some(kind) => {
                let numbers = self.blocks(name, kind, &Device::Cpu)?.dequantize(dtype)?;
                let shape = self.0.shape(name).unwrap_or_default();
                Ok(numbers.reshape(shape)?.to_device(device)?)
            }
            None => self.0.load_dense(name, Some(dtype), device),
        }
    }

    fn load_matrix(&self, name: &str, dtype: DType, device: &Device) -> Result<Matrix> {
        match self.block_type(name) {
            Some(kind) => Ok(Matrix::Blocks(self.blocks(name, kind, device)?)),
            None => Ok(Matrix::Dense(self.load(name, dtype, device)?)),
        }
    }
}
