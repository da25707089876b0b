//! Directories of Hugging Face's layout with PyTorch's own files.

use super::safetensors::refuse_quantized;
use super::{ModelFormat, StoredModel, directory};
use crate::error::Result;
use crate::models::pytorch::{self, INDEX_FILE, SINGLE_FILE};
use std::path::Path;

/// A directory with `config.json` and the weights as `pytorch_model.bin`, or as the shards that
/// `pytorch_model.bin.index.json` lists, as `torch.save` writes them since PyTorch 1.6.
///
/// Such files are programs; nothing in them is executed but what puts tensors together, and what asks
/// for more is refused by name. Where there is safetensors too, that is taken.
#[derive(Debug, Clone, Copy)]
pub struct PytorchFormat;

impl ModelFormat for PytorchFormat {
    fn name(&self) -> &'static str {
        "pytorch"
    }

    fn detect(&self, path: &Path) -> Result<bool> {
        Ok(directory::has(path, &[SINGLE_FILE, INDEX_FILE]))
    }

    fn open(&self, path: &Path) -> Result<StoredModel> {
        directory::open(path, |config| {
            refuse_quantized(config, path)?;
            pytorch::open(path)
        })
    }
}
