//! Weights in fewer bits.

use super::{ModelConfig, Projection};
use crate::backend::ops::affine::AffineWeight;
use crate::backend::ops::matrix::Matrix;
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// How the weights of a model's linear maps are kept: in groups that share a scale and a bias, as MLX
/// does by default (affine quantisation). [`ModelLoader`](crate::ModelLoader) leaves embedding, norms,
/// biases and head as they are stored; what mlx-lm quantised has an embedding of few bits as well.
///
/// A model of 4 bits takes 4.5 bits a weight with 16-bit scales in groups of 64, and can still be
/// fine-tuned by adapters beside it (QLoRA, Dettmers et al., 2023, <https://arxiv.org/abs/2305.14314>).
///
/// # Example
///
/// ```
/// use metal_candle::ModelLoader;
/// use metal_candle::models::Quantization;
///
/// let model = ModelLoader::new()
///     .with_quantization(Some(Quantization::default()))
///     .load("assets/tiny-coder")?;
/// assert_eq!(model.quantization(), Some(Quantization { bits: 4, group_size: 64 }));
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// Bits of a weight, 4 or 8. Default 4.
    pub bits: usize,
    /// Weights of a row that share a scale, 32, 64 or 128; it divides the inputs of every linear map.
    /// Default 64.
    pub group_size: usize,
}

impl Default for Quantization {
    fn default() -> Self {
        Self {
            bits: 4,
            group_size: 64,
        }
    }
}

impl Quantization {
    /// A weight in fewer bits.
    pub(crate) fn apply(self, weight: &Tensor) -> Result<Matrix> {
        let scales = self.scales(weight.dtype());
        let quantized = AffineWeight::quantize(weight, self.bits, self.group_size, scales)?;
        Ok(Matrix::Affine(Arc::new(quantized)))
    }

    /// The dtype of scales and biases of weights in `dtype`.
    fn scales(self, dtype: DType) -> DType {
        match (self.bits, dtype) {
            // The rounding of a scale to `bf16` adds more to the error than that of codes of 8 bits.
            (8, DType::BF16) => DType::F32,
            (_, dtype) => dtype,
        }
    }

    /// The bytes of so many weights of `dtype` in fewer bits.
    pub(crate) fn size_in_bytes(self, weights: usize, dtype: DType) -> usize {
        let groups = weights / self.group_size;
        weights * self.bits / 8 + groups * 2 * self.scales(dtype).size_in_bytes()
    }

    /// Checks the ranges of both fields, and that they fit the model.
    pub(crate) fn check(self, model: &ModelConfig) -> Result<()> {
        if !matches!(self.bits, 4 | 8) {
            return Err(Error::option("bits", self.bits, "4 or 8"));
        }
        if !matches!(self.group_size, 32 | 64 | 128) {
            return Err(Error::option(
                "group_size",
                self.group_size,
                "32, 64 or 128",
            ));
        }
        for projection in Projection::ALL {
            let (_, input) = projection.dims(model);
            if !input.is_multiple_of(self.group_size) {
                let expected = format!("a divisor of the {input} inputs of {}", projection.name());
                return Err(Error::option("group_size", self.group_size, expected));
            }
        }
        Ok(())
    }
}
