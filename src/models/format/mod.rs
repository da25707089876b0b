//! The ways in which models are stored, one file each, and how they are told apart.

mod directory;
mod gguf;
mod mlx;
mod pytorch;
mod safetensors;

pub use gguf::GgufFormat;
pub use mlx::MlxFormat;
pub use pytorch::PytorchFormat;
pub use safetensors::SafetensorsFormat;

use super::{ChatTemplate, Model, ModelConfig, ModelInfo, ModelLoader, Tokenizer, WeightSource};
use crate::error::{Error, Result};
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// A way in which models are stored.
///
/// An application that has a format of its own implements [`detect`](Self::detect) and
/// [`open`](Self::open), and gives it to [`ModelLoader::with_format`].
pub trait ModelFormat: fmt::Debug + Send + Sync {
    /// The name, such as `safetensors`.
    fn name(&self) -> &'static str;

    /// Whether there is such a model at `path`, a file or a directory; decided by what is in it, not by
    /// how it is called.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where it cannot be read.
    fn detect(&self, path: &Path) -> Result<bool>;

    /// Opens the model at `path`: reads its configuration and the headers of its weights.
    ///
    /// # Errors
    ///
    /// An error that names the file, and in it the key or tensor, what was found and what was expected.
    fn open(&self, path: &Path) -> Result<StoredModel>;

    /// What the model at `path` is, without loading its weights.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    fn inspect(&self, path: &Path) -> Result<ModelInfo> {
        ModelInfo::new(self.name(), &self.open(path)?)
    }

    /// Loads the model at `path`.
    ///
    /// # Errors
    ///
    /// As [`ModelLoader::load`].
    fn load(&self, path: &Path, loader: &ModelLoader) -> Result<Model> {
        loader.assemble(path, self.open(path)?)
    }
}

/// A model that was opened and not yet loaded.
pub struct StoredModel {
    /// The configuration.
    pub config: ModelConfig,
    /// The configuration as `config.json` has it, which is written where the model is saved.
    pub config_json: Value,
    /// The weights.
    pub weights: Box<dyn WeightSource>,
    /// Reads what the model has for text, which takes a moment where the vocabulary is large.
    pub text: Box<dyn Fn() -> Result<ModelText> + Send + Sync>,
}

impl fmt::Debug for StoredModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredModel")
            .field("config", &self.config)
            .field("weights", &self.weights)
            .finish_non_exhaustive()
    }
}

/// What a stored model has beside its weights, to be used with text.
#[derive(Debug, Default)]
pub struct ModelText {
    /// The tokenizer.
    pub tokenizer: Option<Tokenizer>,
    /// The chat template.
    pub chat_template: Option<ChatTemplate>,
    /// The ids that end a text, where they differ from those of the configuration.
    pub eos_token_ids: Vec<u32>,
    /// The directory with the files that this was read from, where they are as transformers has them:
    /// where the model is saved they are copied, and else made of what is here.
    pub directory: Option<PathBuf>,
}

/// The formats that the library knows, in the order in which they are asked.
pub(super) const FORMATS: &[&dyn ModelFormat] =
    &[&MlxFormat, &SafetensorsFormat, &PytorchFormat, &GgufFormat];

/// The format of the model at `path`, one of `further` before the library's own.
pub(super) fn detect<'a>(
    path: &Path,
    further: impl Iterator<Item = &'a dyn ModelFormat>,
) -> Result<&'a dyn ModelFormat> {
    for format in further.chain(FORMATS.iter().copied()) {
        if format.detect(path)? {
            return Ok(format);
        }
    }
    let missing = |path: &Path, expected: &str| {
        Err(Error::FileNotFound {
            path: path.to_owned(),
            expected: expected.to_owned(),
        })
    };
    if !path.exists() {
        missing(
            path,
            "a model directory with config.json and model.safetensors, or a GGUF file",
        )
    } else if path.is_dir() {
        directory::check(path)?;
        missing(
            &path.join("model.safetensors"),
            "the weights of the model: model.safetensors, model.safetensors.index.json, \
             pytorch_model.bin, pytorch_model.bin.index.json or a GGUF file",
        )
    } else {
        let reason = "is a file; expected a model directory, or a GGUF file";
        Err(Error::format(path, reason))
    }
}
