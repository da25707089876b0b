//! How keys and values are kept: as they are, or in eight bits.

use crate::backend::ops::int8::{dequantize, quantize};
use crate::error::Error;
use crate::models::ModelConfig;
use candle_core::{DType, Result, Tensor};
use serde::{Deserialize, Serialize};

/// Numbers of one head that share a scale, as in llama.cpp; a head that it does not divide has one.
/// Of 64, the largest is never smaller and so neither is the error; perplexities did not tell the two
/// apart (BENCHMARKS.md).
const GROUP: usize = 32;

/// The form in which a key-value cache keeps its numbers.
///
/// # Example
///
/// ```
/// use metal_candle::ModelLoader;
/// use metal_candle::models::KvCacheType;
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// let cache = model.decoder().new_cache_of(KvCacheType::Int8);
/// assert_eq!(cache.cache_type(), KvCacheType::from_name("int8")?);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KvCacheType {
    /// In the dtype of the model.
    #[default]
    Full,
    /// In eight bits: whole steps from -127 to 127, with a `bf16` for the length of a step for each 32
    /// numbers of a head (for the whole head where 32 does not divide it).
    ///
    /// It takes 0.53 of the memory of 16 bits, 0.27 of that of `f32`. A number is off by at most 1/252
    /// of the largest of its group, and rounded once to the dtype of the model. A token takes longer,
    /// because a layer's keys and values are widened while the layer is computed; on the CPU about twice
    /// as long after a thousand tokens (tiny-coder in `bf16`). llama.cpp has nearly the same as cache
    /// type `q8_0`, mlx-lm as `kv_bits` 8.
    Int8,
}

/// One of the tensors that keep keys or values, each of shape (batch, `kv_heads`, capacity, width).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// What it is called behind `keys` or `values` in a file.
    pub suffix: &'static str,
    pub width: usize,
    pub dtype: DType,
}

impl KvCacheType {
    /// All forms.
    pub const ALL: [Self; 2] = [Self::Full, Self::Int8];

    /// `full` or `int8`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Int8 => "int8",
        }
    }

    /// The form by its name: `full` or `int8`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for any other name.
    pub fn from_name(name: &str) -> crate::Result<Self> {
        Self::ALL
            .into_iter()
            .find(|form| form.name() == name)
            .ok_or_else(|| Error::option("cache_type", format!("`{name}`"), "`full` or `int8`"))
    }

    /// The bytes that keys and values of one token of one sequence take, in all layers.
    pub(crate) fn bytes_per_token(self, config: &ModelConfig, dtype: DType) -> usize {
        let parts = self.parts(config.head_dim, dtype);
        let widths = parts
            .iter()
            .map(|part| part.width * part.dtype.size_in_bytes());
        2 * widths.sum::<usize>() * config.num_key_value_heads * config.num_hidden_layers
    }

    /// The parts that keep heads of `head_dim` numbers of `dtype`.
    pub(crate) fn parts(self, head_dim: usize, dtype: DType) -> Vec<Part> {
        let part = |suffix, width, dtype| Part {
            suffix,
            width,
            dtype,
        };
        match self {
            Self::Full => vec![part("", head_dim, dtype)],
            Self::Int8 => vec![
                part("", head_dim, DType::U8),
                part(".scales", head_dim / group(head_dim), DType::BF16),
            ],
        }
    }

    /// The parts of `x`, of shape (batch, `kv_heads`, n, `head_dim`).
    pub(super) fn encode(self, x: &Tensor, dtype: DType) -> Result<Vec<Tensor>> {
        match self {
            Self::Full => Ok(vec![x.to_dtype(dtype)?.contiguous()?]),
            Self::Int8 => {
                let (codes, scales) = quantize(x, group(x.dim(3)?))?;
                Ok(vec![codes, scales])
            }
        }
    }

    /// The numbers that [`encode`](Self::encode) was given, as nearly as their parts have them.
    ///
    /// The parts may be views of longer buffers; the result is one only if it is the buffer's own.
    pub(super) fn decode(self, parts: &[Tensor], dtype: DType) -> Result<Tensor> {
        match (self, parts) {
            (Self::Full, [x]) => x.to_dtype(dtype),
            (Self::Int8, [codes, scales]) => dequantize(codes, scales, dtype),
            _ => Err(candle_core::Error::Msg(format!(
                "{} parts are not those of a cache of type {}",
                parts.len(),
                self.name()
            ))),
        }
    }
}

fn group(head_dim: usize) -> usize {
    if head_dim.is_multiple_of(GROUP) {
        GROUP
    } else {
        head_dim
    }
}
