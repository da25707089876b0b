//! From a model directory to a [`Model`].

use super::{
    ChatTemplate, Decoder, GenerationConfig, Model, ModelConfig, Quantization,
    SafetensorsCheckpoint, Tokenizer,
};
use crate::backend::{DTypePolicy, DeviceKind};
use crate::error::{Error, Result};
use std::path::Path;

/// Loads a model from a Hugging Face directory.
///
/// The directory holds `config.json`, the weights as `model.safetensors` or as shards named by
/// `model.safetensors.index.json`, and for text `tokenizer.json` (with `tokenizer_config.json` and
/// `generation_config.json` where there are such). Weights are read through a memory mapping, tensor
/// by tensor, after names, shapes and dtypes of all of them have been checked. The files must not be
/// truncated while they load.
///
/// # Example
///
/// ```
/// use metal_candle::backend::{DTypePolicy, DeviceKind};
/// use metal_candle::ModelLoader;
///
/// let model = ModelLoader::new()
///     .with_device(DeviceKind::Cpu)
///     .with_dtype(DTypePolicy::F32)
///     .load("assets/tiny-coder")?;
/// assert_eq!(model.config().num_hidden_layers, 6);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct ModelLoader {
    device: DeviceKind,
    dtype: DTypePolicy,
    quantization: Option<Quantization>,
}

impl ModelLoader {
    /// A loader that chooses device and dtype itself.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the device.
    #[must_use]
    pub fn with_device(mut self, device: DeviceKind) -> Self {
        self.device = device;
        self
    }

    /// Sets the dtype.
    #[must_use]
    pub fn with_dtype(mut self, dtype: DTypePolicy) -> Self {
        self.dtype = dtype;
        self
    }

    /// Keeps the weights of the linear maps in fewer bits, or as they are. They are quantised one by one
    /// as they are read.
    #[must_use]
    pub fn with_quantization(mut self, quantization: Option<Quantization>) -> Self {
        self.quantization = quantization;
        self
    }

    /// Loads the model in `directory`.
    ///
    /// # Errors
    ///
    /// An error that names the file, and in it the key or tensor, what was found and what was
    /// expected: [`Error::FileNotFound`], [`Error::InvalidFormat`], [`Error::InvalidConfig`],
    /// [`Error::Unsupported`], [`Error::MissingTensor`], [`Error::TensorMismatch`],
    /// [`Error::Tokenizer`]; [`Error::DeviceUnavailable`] where the device cannot be had,
    /// [`Error::InvalidOption`] for a quantisation that does not fit the model.
    pub fn load(&self, directory: impl AsRef<Path>) -> Result<Model> {
        let directory = directory.as_ref();
        if !directory.is_dir() {
            return Err(if directory.exists() {
                Error::format(directory, "is a file; expected a model directory")
            } else {
                Error::FileNotFound {
                    path: directory.to_owned(),
                    expected: "a model directory with config.json and model.safetensors".to_owned(),
                }
            });
        }
        let config = ModelConfig::from_file(&directory.join("config.json"))?;
        if let Some(quantization) = self.quantization {
            quantization.check(&config)?;
        }
        let generation = GenerationConfig::from_file(&directory.join("generation_config.json"))?;
        let tokenizer = Tokenizer::from_dir(directory)?;
        let chat_template = ChatTemplate::from_dir(directory)?;
        let checkpoint = SafetensorsCheckpoint::open(directory)?;
        checkpoint.validate(&config.tensors())?;
        if let Some(tokenizer) = tokenizer.as_ref()
            && tokenizer.vocab_size() > config.vocab_size
        {
            return Err(Error::InvalidConfig {
                path: directory.join("config.json"),
                key: "vocab_size".to_owned(),
                found: config.vocab_size.to_string(),
                expected: format!(
                    "at least the {} tokens of tokenizer.json",
                    tokenizer.vocab_size()
                ),
            });
        }

        let device = self.device.open()?;
        let stored = checkpoint
            .dtype("model.embed_tokens.weight")
            .unwrap_or(candle_core::DType::F32);
        let dtype = self.dtype.resolve(stored, &device);
        let eos_token_ids = [
            generation.map_or_else(Vec::new, |generation| generation.eos_token_ids),
            config.eos_token_ids.clone(),
            tokenizer
                .as_ref()
                .and_then(Tokenizer::eos_token_id)
                .into_iter()
                .collect(),
        ]
        .into_iter()
        .find(|ids| !ids.is_empty())
        .unwrap_or_default();
        let decoder = Decoder::new(config, dtype, &device, self.quantization, |name| {
            checkpoint.load(name, Some(dtype), &device)
        })?;
        Ok(Model::new(
            directory,
            decoder,
            tokenizer,
            eos_token_ids,
            chat_template,
        ))
    }
}
