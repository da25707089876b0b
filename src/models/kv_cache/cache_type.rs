//! How keys and values are kept: as they are, or in eight bits.

use candle_core::{D, DType, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Numbers of one head that share a scale, as in mlx-lm; a head that it does not divide has one.
const GROUP: usize = 64;
/// The code of zero: codes are unsigned, because no device computes with signed bytes.
const ZERO: f64 = 128.0;
/// The largest distance of a code from [`ZERO`].
const STEPS: f64 = 127.0;

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
    /// In eight bits: whole steps from -127 to 127, with a `bf16` for the length of a step for each 64
    /// numbers of a head (for the whole head where 64 does not divide it).
    ///
    /// Heads of 64 or 128 take 0.52 of the memory of 16 bits, 0.26 of that of `f32`. A number is off
    /// by at most 1/252 of the largest of its group. A token takes longer, because a layer's keys and
    /// values are widened while the layer is computed. llama.cpp calls this cache type `q8_0`, mlx-lm
    /// has `kv_bits` 8.
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
                part(".scales", groups(head_dim), DType::BF16),
            ],
        }
    }

    /// The parts of `x`, of shape (batch, `kv_heads`, n, `head_dim`).
    pub(super) fn encode(self, x: &Tensor) -> Result<Vec<Tensor>> {
        match self {
            Self::Full => Ok(vec![x.contiguous()?]),
            Self::Int8 => {
                let (batch, heads, len, head_dim) = x.dims4()?;
                let groups = groups(head_dim);
                let x = x.to_dtype(DType::F32)?.contiguous()?;
                let x = x.reshape((batch * heads, len, groups, head_dim / groups))?;
                // Scales are exact in every dtype that they are multiplied in: a rounding of a scale
                // would move all products of a query with the group one way. They are a little
                // longer, so that after the rounding 127 of them still reach the largest number; and
                // a group of zeros has one.
                let largest = x.abs()?.max_keepdim(D::Minus1)?;
                let scales = largest.affine((1.0 + 1.0 / 256.0) / STEPS, 1e-30)?;
                let scales = scales.to_dtype(DType::BF16)?;
                // A cast truncates, so that half a step more rounds to the nearest code.
                let codes = x.broadcast_div(&scales.to_dtype(DType::F32)?)?;
                let codes = codes.affine(1.0, ZERO + 0.5)?.to_dtype(DType::U8)?;
                Ok(vec![
                    codes
                        .to_dtype(DType::U8)?
                        .reshape((batch, heads, len, head_dim))?,
                    scales.reshape((batch, heads, len, groups))?,
                ])
            }
        }
    }

    /// The numbers that [`encode`](Self::encode) was given, as nearly as their parts have them.
    ///
    /// The parts may be views of longer buffers; the result is one only if it is the buffer's own.
    pub(super) fn decode(self, parts: &[Tensor], dtype: DType) -> Result<Tensor> {
        match (self, parts) {
            (Self::Full, [x]) => Ok(x.clone()),
            (Self::Int8, [codes, scales]) => {
                let shape = codes.dims4()?;
                let (batch, heads, len, head_dim) = shape;
                let groups = scales.dim(3)?;
                // Every code is exact in 16 bits, too.
                let steps = codes.to_dtype(dtype)?.affine(1.0, -ZERO)?;
                let steps = steps.reshape((batch * heads, len, groups, head_dim / groups))?;
                let scales = scales.to_dtype(dtype)?.contiguous()?;
                let scales = scales.reshape((batch * heads, len, groups, 1))?;
                steps.broadcast_mul(&scales)?.reshape(shape)
            }
            _ => Err(candle_core::Error::Msg(format!(
                "{} parts are not those of a cache of type {}",
                parts.len(),
                self.name()
            ))),
        }
    }
}

fn groups(head_dim: usize) -> usize {
    if head_dim.is_multiple_of(GROUP) {
        head_dim / GROUP
    } else {
        1
    }
}
