//! What a stored model is, by its headers.

use super::{Architecture, KvCacheType, ModelConfig, StoredModel};
use crate::error::Result;
use candle_core::DType;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a stored model is, found without loading its weights.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// The format in which it is stored, such as `safetensors`.
    pub format: &'static str,
    /// The configuration.
    pub config: ModelConfig,
    /// The number of parameters; a tied embedding counts once.
    pub parameter_count: usize,
    /// What is stored in each encoding, such as `BF16` or `Q4_K`, by its name.
    pub encodings: BTreeMap<String, StoredNumbers>,
}

/// The tensors that are stored in one encoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredNumbers {
    /// The number of tensors.
    pub tensors: usize,
    /// The number of parameters in them.
    pub parameters: usize,
    /// The bytes that they take in the file.
    pub bytes: usize,
    /// Whether they stay quantised in memory.
    pub quantized: bool,
}

impl ModelInfo {
    /// Finds out about a model that was opened; `format` is the name of its format.
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`](crate::Error::MissingTensor) and
    /// [`Error::TensorMismatch`](crate::Error::TensorMismatch) where the weights are not those that
    /// the configuration calls for.
    pub fn new(format: &'static str, model: &StoredModel) -> Result<Self> {
        let mut encodings: BTreeMap<String, StoredNumbers> = BTreeMap::new();
        for spec in model.config.tensors() {
            model.weights.check(&spec.name, &spec.shape)?;
            if let Some(tensor) = model.weights.stored(&spec.name) {
                let numbers = encodings.entry(tensor.encoding).or_default();
                numbers.tensors += 1;
                numbers.parameters += spec.shape.iter().product::<usize>();
                numbers.bytes += tensor.size_in_bytes;
                numbers.quantized = tensor.quantized;
            }
        }
        Ok(Self {
            format,
            config: model.config.clone(),
            parameter_count: model.config.parameter_count(),
            encodings,
        })
    }

    /// The model family.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.config.architecture
    }

    /// The encoding of most of the numbers that stay quantised, such as `Q4_K`; none where there are no
    /// such.
    #[must_use]
    pub fn quantization(&self) -> Option<&str> {
        let quantized = self
            .encodings
            .iter()
            .filter(|(_, numbers)| numbers.quantized);
        let most = quantized.max_by_key(|(_, numbers)| numbers.parameters);
        most.map(|(encoding, _)| encoding.as_str())
    }

    /// The bytes of memory that the weights take where those that are not quantised are kept in
    /// `dtype`.
    #[must_use]
    pub fn weights_size_in_bytes(&self, dtype: DType) -> usize {
        let sizes = self.encodings.values().map(|numbers| {
            if numbers.quantized {
                numbers.bytes
            } else {
                numbers.parameters.saturating_mul(dtype.size_in_bytes())
            }
        });
        sizes.fold(0, usize::saturating_add)
    }

    /// The bytes of memory that keys and values of so many tokens of one sequence take, in a cache of
    /// the model's dtype where `cache_type` says no other; all layers counted as if none had a sliding
    /// window.
    #[must_use]
    pub fn cache_size_in_bytes(
        &self,
        tokens: usize,
        dtype: DType,
        cache_type: KvCacheType,
    ) -> usize {
        let per_token = cache_type.bytes_per_token(&self.config, dtype);
        per_token.saturating_mul(tokens)
    }

    /// All of this as a JSON object, sizes in bytes:
    ///
    /// ```json
    /// {"format": "safetensors", "architecture": "qwen2", "parameters": 494032768, "layers": 24,
    ///  "hidden_size": 896, "vocab_size": 151936, "context_length": 32768, "quantization": null,
    ///  "encodings": {"BF16": {"tensors": 290, "parameters": 494032768, "bytes": 988065536}},
    ///  "memory": {"weights": {"f32": 1976131072, "f16": 988065536, "bf16": 988065536},
    ///             "cache_per_1000_tokens": {"f32": 24576000, "f16": 12288000, "bf16": 12288000}}}
    /// ```
    #[must_use]
    pub fn to_json(&self) -> Value {
        let encodings = self.encodings.iter().map(|(name, numbers)| {
            let StoredNumbers {
                tensors,
                parameters,
                bytes,
                ..
            } = numbers;
            let numbers = json!({"tensors": tensors, "parameters": parameters, "bytes": bytes});
            (name.clone(), numbers)
        });
        let by_dtype = |size: &dyn Fn(DType) -> usize| json!({"f32": size(DType::F32), "f16": size(DType::F16), "bf16": size(DType::BF16)});
        let cache = |dtype| self.cache_size_in_bytes(1000, dtype, KvCacheType::default());
        json!({
            "format": self.format,
            "architecture": self.architecture().model_type(),
            "parameters": self.parameter_count,
            "layers": self.config.num_hidden_layers,
            "hidden_size": self.config.hidden_size,
            "vocab_size": self.config.vocab_size,
            "context_length": self.config.max_position_embeddings,
            "quantization": self.quantization(),
            "encodings": encodings.collect::<serde_json::Map<_, _>>(),
            "memory": {
                "weights": by_dtype(&|dtype| self.weights_size_in_bytes(dtype)),
                "cache_per_1000_tokens": by_dtype(&cache),
            },
        })
    }
}
