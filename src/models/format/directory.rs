//! What all model directories of Hugging Face's layout share.

use super::{ModelText, StoredModel};
use crate::error::Result;
use crate::models::{ChatTemplate, GenerationConfig, ModelConfig, Tokenizer, WeightSource, json};
use serde_json::Value;
use std::path::Path;

const CONFIG: &str = "config.json";
const EXPECTED: &str = "the configuration of the model";

/// Whether `path` is a directory with a configuration and one of the given files.
pub(super) fn has(path: &Path, files: &[&str]) -> bool {
    path.join(CONFIG).exists() && files.iter().any(|file| path.join(file).exists())
}

/// The error of a directory that has no configuration, or one that cannot be used.
pub(super) fn check(path: &Path) -> Result<()> {
    config(path).map(drop)
}

/// Opens a directory; `weights` opens its weights, given the configuration as it is written.
pub(super) fn open<W: WeightSource + 'static>(
    path: &Path,
    weights: impl FnOnce(&Value) -> Result<W>,
) -> Result<StoredModel> {
    let (config_json, config) = config(path)?;
    let weights = Box::new(weights(&config_json)?);
    let path = path.to_owned();
    Ok(StoredModel {
        config,
        config_json,
        weights,
        text: Box::new(move || text(&path)),
    })
}

/// The configuration, as it is written and as it is understood.
fn config(path: &Path) -> Result<(Value, ModelConfig)> {
    let value = config_json(path)?;
    let config = ModelConfig::from_value(&value, &path.join(CONFIG))?;
    Ok((value, config))
}

/// The configuration as it is written.
pub(super) fn config_json(path: &Path) -> Result<Value> {
    json::read(&path.join(CONFIG), EXPECTED)
}

/// Tokenizer, chat template and the ids that end a text.
fn text(path: &Path) -> Result<ModelText> {
    let generation = GenerationConfig::from_file(&path.join("generation_config.json"))?;
    Ok(ModelText {
        tokenizer: Tokenizer::from_dir(path)?,
        chat_template: ChatTemplate::from_dir(path)?,
        eos_token_ids: generation.map_or_else(Vec::new, |settings| settings.eos_token_ids),
        directory: Some(path.to_owned()),
    })
}
