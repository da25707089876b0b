//! Directories of Hugging Face's layout with safetensors, as transformers writes them.

use super::{ModelFormat, StoredModel, directory};
use crate::error::{Error, Result};
use crate::models::safetensors::{INDEX_FILE, SINGLE_FILE};
use crate::models::{SafetensorsCheckpoint, json};
use serde_json::Value;
use std::path::Path;

/// A directory with `config.json` and the weights as `model.safetensors`, or as the shards that
/// `model.safetensors.index.json` lists, and for text `tokenizer.json` (with `tokenizer_config.json`
/// and `generation_config.json` where there are such).
///
/// The weights are mapped into memory. The files must not be shortened while they are open.
#[derive(Debug, Clone, Copy)]
pub struct SafetensorsFormat;

impl ModelFormat for SafetensorsFormat {
    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn detect(&self, path: &Path) -> Result<bool> {
        Ok(directory::has(path, &[SINGLE_FILE, INDEX_FILE]))
    }

    fn open(&self, path: &Path) -> Result<StoredModel> {
        directory::open(path, |config| {
            refuse_quantized(config, path)?;
            Ok(SafetensorsCheckpoint::open(path)?.into_files())
        })
    }
}

/// Refuses weights in the formats of other programs' quantisation.
pub(super) fn refuse_quantized(config: &Value, path: &Path) -> Result<()> {
    let settings = config.get("quantization_config");
    match settings.filter(|settings| !settings.is_null()) {
        None => Ok(()),
        Some(settings) => Err(Error::Unsupported {
            path: path.join("config.json"),
            what: "weight quantization",
            found: format!("quantization_config: {}", json::quote(Some(settings))),
            supported:
                "float32, float16 and bfloat16 weights, MLX's affine quantization, and GGUF \
                        files"
                    .to_owned(),
        }),
    }
}
