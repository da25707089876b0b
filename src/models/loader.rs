//! From where a model is stored to a [`Model`].

use super::decoder::Place;
use super::format::{self, ModelFormat, StoredModel};
use super::weight_source::WeightSource;
use super::{Decoder, Model, ModelConfig, ModelInfo, Quantization, Tokenizer};
use crate::backend::arena::Arena;
use crate::backend::dtype::activations;
use crate::backend::{DTypePolicy, DeviceKind, device, room};
use crate::error::{Error, Result};
#[cfg(feature = "hub")]
use crate::hub::{self, Hub};
use candle_core::{DType, Device};
use std::borrow::Cow;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Loads a model, in any of the [formats](crate::models::ModelFormat) that the library knows.
///
/// These are directories of Hugging Face's layout, with weights in safetensors, as MLX quantised them or
/// in PyTorch's own files, single or in shards, and GGUF files. The format is found by looking at the
/// files. Weights are read through a memory mapping, tensor by tensor, after names, shapes and dtypes of all of them
/// have been checked; beside the weights as they end up, memory is needed for the largest tensor. The
/// files must not be truncated while they load.
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
    memory_budget: Option<u64>,
    progress: Option<Progress>,
    formats: Vec<Arc<dyn ModelFormat>>,
    #[cfg(feature = "hub")]
    hub: Option<Hub>,
}

/// How far a model is loaded; given before each tensor is read, and once at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadProgress {
    /// The tensors that were read.
    pub loaded_tensors: usize,
    /// All tensors.
    pub tensors: usize,
    /// The bytes that the tensors that were read take in the file.
    pub loaded_bytes: usize,
    /// The bytes that all tensors take in the file.
    pub bytes: usize,
}

type Report = dyn Fn(&LoadProgress) -> ControlFlow<()> + Send + Sync;

#[derive(Clone)]
struct Progress(Arc<Report>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
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

    /// Sets the dtype of weights and activations. Weights that are stored quantised stay so, and
    /// compute with activations of this dtype.
    #[must_use]
    pub fn with_dtype(mut self, dtype: DTypePolicy) -> Self {
        self.dtype = dtype;
        self
    }

    /// Keeps the weights of the linear maps in fewer bits, or as they are. They are quantised one by one
    /// as they are read; those that are stored in fewer bits stay as they are.
    #[must_use]
    pub fn with_quantization(mut self, quantization: Option<Quantization>) -> Self {
        self.quantization = quantization;
        self
    }

    /// Refuses a model whose weights take more bytes of memory, on the device that it is loaded to, before
    /// any of them is read; none is no limit.
    ///
    /// The weights count as they end up, widened or quantised. Beside them, memory is needed for the largest
    /// tensor while the model is loaded, and for [keys and values](crate::GenerateOptions::max_kv_bytes)
    /// when it is used.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::{Error, ModelLoader};
    ///
    /// let loader = ModelLoader::new().with_memory_budget(Some(1 << 20));
    /// let error = loader.load("assets/tiny-coder").unwrap_err();
    /// assert!(matches!(error, Error::MemoryBudget { budget: 1_048_576, .. }));
    /// ```
    #[must_use]
    pub fn with_memory_budget(mut self, bytes: Option<u64>) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// Reports how far a model is loaded; [`ControlFlow::Break`] ends the loading with
    /// [`Error::Cancelled`].
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::{Error, ModelLoader};
    /// use std::ops::ControlFlow;
    ///
    /// let loader = ModelLoader::new().with_progress(|progress| {
    ///     if progress.loaded_bytes < progress.bytes / 2 {
    ///         ControlFlow::Continue(())
    ///     } else {
    ///         ControlFlow::Break(())
    ///     }
    /// });
    /// assert!(matches!(loader.load("assets/tiny-coder"), Err(Error::Cancelled)));
    /// ```
    #[must_use]
    pub fn with_progress(
        mut self,
        progress: impl Fn(&LoadProgress) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.progress = Some(Progress(Arc::new(progress)));
        self
    }

    /// Adds a format, which is asked before those that the library knows.
    #[must_use]
    pub fn with_format(mut self, format: impl ModelFormat + 'static) -> Self {
        self.formats.push(Arc::new(format));
        self
    }

    /// Sets the hub that a model is downloaded from where [`load`](Self::load) is given its name there;
    /// otherwise it is that of the environment.
    #[cfg(feature = "hub")]
    #[must_use]
    pub fn with_hub(mut self, hub: Hub) -> Self {
        self.hub = Some(hub);
        self
    }

    /// Loads the model at `path`, a directory or a file.
    ///
    /// With the feature `hub` it may also be the name of a model on the Hugging Face hub, such as
    /// `Qwen/Qwen2.5-Coder-0.5B-Instruct`, with `@REVISION` behind it where it is not the newest. What is
    /// not in the cache is downloaded; see the module `hub`. A path that exists is
    /// never taken for a name.
    ///
    /// # Errors
    ///
    /// An error that names the file, and in it the key or tensor, what was found and what was
    /// expected: [`Error::FileNotFound`], [`Error::InvalidFormat`], [`Error::InvalidConfig`],
    /// [`Error::Unsupported`], [`Error::MissingTensor`], [`Error::TensorMismatch`],
    /// [`Error::Tokenizer`]; [`Error::DeviceUnavailable`] where the device cannot be had,
    /// [`Error::InvalidOption`] for a quantisation that does not fit the model,
    /// [`Error::MemoryBudget`], and [`Error::Cancelled`].
    pub fn load(&self, path: impl AsRef<Path>) -> Result<Model> {
        let started = Instant::now();
        let path = self.locate(path.as_ref())?;
        let format = self.format(&path)?;
        tracing::debug!(path = %path.display(), format = format.name(), "loading a model");
        let model = format.load(&path, self)?;
        tracing::info!(
            path = %path.display(),
            format = format.name(),
            device = device::describe(model.device()),
            dtype = ?model.dtype(),
            parameters = model.parameter_count(),
            bytes = model.decoder().weights_size_in_bytes(),
            tokenizer = model.tokenizer().is_ok(),
            chat_template = model.has_chat_template(),
            seconds = started.elapsed().as_secs_f32(),
            "loaded a model"
        );
        Ok(model)
    }

    /// Where the model lies, after it was downloaded if need be.
    #[cfg_attr(
        not(feature = "hub"),
        allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "the hub's")
    )]
    fn locate<'a>(&self, path: &'a Path) -> Result<Cow<'a, Path>> {
        #[cfg(feature = "hub")]
        if !path.exists()
            && let Some(name) = path.to_str().filter(|name| hub::is_repo_name(name))
        {
            let hub = self.hub.clone().unwrap_or_default();
            return Ok(Cow::Owned(hub.fetch(name)?));
        }
        Ok(Cow::Borrowed(path))
    }

    /// What the model at `path` is, without loading its weights; nothing is downloaded.
    ///
    /// # Errors
    ///
    /// Those of [`load`](Self::load) that headers show.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::ModelLoader;
    /// use metal_candle::backend::DType;
    ///
    /// let info = ModelLoader::new().inspect("assets/tiny-coder")?;
    /// assert_eq!((info.format, info.parameter_count), ("safetensors", 6_297_856));
    /// assert_eq!(info.weights_size_in_bytes(DType::F32), 4 * 6_297_856);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn inspect(&self, path: impl AsRef<Path>) -> Result<ModelInfo> {
        let path = path.as_ref();
        self.format(path)?.inspect(path)
    }

    fn format(&self, path: &Path) -> Result<&dyn ModelFormat> {
        format::detect(path, self.formats.iter().map(AsRef::as_ref))
    }

    /// Loads a model that a [`ModelFormat`] opened; `path` is where it is stored.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn assemble(&self, path: &Path, stored: StoredModel) -> Result<Model> {
        let StoredModel {
            config,
            config_json,
            weights,
            text,
        } = stored;
        if let Some(quantization) = self.quantization {
            quantization.check(&config)?;
        }
        let specs = config.tensors();
        for spec in &specs {
            weights.check(&spec.name, &spec.shape)?;
        }
        let mut text = text()?;
        if let Some(tokenizer) = &text.tokenizer {
            let file = match &text.directory {
                Some(directory) => &directory.join("config.json"),
                None => path,
            };
            check_vocabulary(tokenizer, config.vocab_size, file)?;
        }
        if text.eos_token_ids.is_empty() {
            text.eos_token_ids.clone_from(&config.eos_token_ids);
        }
        if text.eos_token_ids.is_empty() {
            let of_tokenizer = text.tokenizer.as_ref().and_then(Tokenizer::eos_token_id);
            text.eos_token_ids.extend(of_tokenizer);
        }

        let device = self.device.open()?;
        let stored = weights.stored(&Place::Embedding.name());
        let stored = stored.map_or(DType::F32, |tensor| tensor.dtype);
        let dtype = self.dtype.resolve(stored);
        let needed = self.check_memory(&config, dtype, &device, &*weights)?;
        let size = |name: &str| {
            weights
                .stored(name)
                .map_or(0, |tensor| tensor.size_in_bytes)
        };
        let mut progress = LoadProgress {
            loaded_tensors: 0,
            tensors: specs.len(),
            loaded_bytes: 0,
            bytes: specs.iter().map(|spec| size(&spec.name)).sum(),
        };
        let decoder = Decoder::new(
            config,
            dtype,
            &device,
            self.quantization,
            &*weights,
            Arena::new(needed),
            &mut |place| {
                self.report(&progress)?;
                progress.loaded_tensors += 1;
                progress.loaded_bytes += size(&place.name());
                Ok(())
            },
        )?;
        self.report(&progress)?;
        Ok(Model::new(path, decoder, text, config_json))
    }

    /// The bytes that the weights take, which are within the budget, and within what the system gives.
    fn check_memory(
        &self,
        config: &ModelConfig,
        dtype: DType,
        device: &Device,
        weights: &dyn WeightSource,
    ) -> Result<usize> {
        const WHAT: &str = "the weights of the model";
        let dtypes = (dtype, activations(dtype, device));
        let needed = weights_size(config, dtypes, self.quantization, weights);
        match self.memory_budget {
            Some(budget) if needed as u64 > budget => Err(Error::MemoryBudget {
                what: WHAT.to_owned(),
                needed: needed as u64,
                budget,
                hint: "a dtype of 16 bits, a quantization of 4 or 8 bits or a smaller model takes less",
            }),
            _ => {
                room::check(device, needed, 1, WHAT)?;
                Ok(needed)
            }
        }
    }

    fn report(&self, progress: &LoadProgress) -> Result<()> {
        match &self.progress {
            Some(Progress(report)) if report(progress).is_break() => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }
}

/// The bytes that weights take in memory once they are loaded: matrices in the first dtype, vectors in the
/// second.
fn weights_size(
    config: &ModelConfig,
    (dtype, of_vectors): (DType, DType),
    quantization: Option<Quantization>,
    weights: &dyn WeightSource,
) -> usize {
    let size = |place: Place| {
        let stored = weights.stored(&place.name());
        if let Some(stored) = stored.filter(|tensor| tensor.quantized) {
            return stored.size_in_bytes;
        }
        let shape = place.shape(config);
        let numbers: usize = shape.iter().product();
        match (quantization, place) {
            (Some(quantization), Place::Weight(..)) => quantization.size_in_bytes(numbers, dtype),
            _ if shape.len() == 1 => numbers * of_vectors.size_in_bytes(),
            _ => numbers * dtype.size_in_bytes(),
        }
    };
    Place::all(config).into_iter().map(size).sum()
}

/// Refuses a tokenizer that gives ids of which the embedding has no row; `path` is the file that says how
/// many there are.
fn check_vocabulary(tokenizer: &Tokenizer, rows: usize, path: &Path) -> Result<()> {
    let count = tokenizer.vocab_size();
    let expected = if count > rows {
        format!("at least the {count} tokens of the tokenizer")
    } else if let Some(highest) = tokenizer.highest_id().filter(|&id| id as usize >= rows) {
        format!("a number above the highest id of the tokenizer, which is {highest}")
    } else {
        return Ok(());
    };
    Err(Error::InvalidConfig {
        path: path.to_owned(),
        key: "vocab_size".to_owned(),
        found: rows.to_string(),
        expected,
    })
}
