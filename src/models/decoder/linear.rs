//! A linear map of a decoder layer, with weights as they are kept.

use crate::backend::ops::affine::AffineWeight;
use crate::backend::ops::linear::{LowRank, adapted_linear, add_bias, add_branch, linear};
use crate::models::Quantization;
use candle_core::{DType, Result, Tensor};
use std::sync::Arc;

/// A linear map and its bias.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    pub weight: Matrix,
    pub bias: Option<Tensor>,
}

/// A weight matrix of shape (out, in).
#[derive(Debug, Clone)]
pub(crate) enum Matrix {
    /// In the decoder's dtype.
    Dense(Tensor),
    /// Of a few bits a number; never trained.
    Quantized(Arc<AffineWeight>),
}

impl Matrix {
    /// A matrix as it is, or in fewer bits.
    pub(super) fn new(weight: Tensor, quantization: Option<Quantization>) -> Result<Self> {
        let Some(Quantization { bits, group_size }) = quantization else {
            return Ok(Self::Dense(weight));
        };
        // The rounding of a scale to `bf16` adds more to the error than that of codes of 8 bits.
        let scales = match (bits, weight.dtype()) {
            (8, DType::BF16) => DType::F32,
            (_, dtype) => dtype,
        };
        let quantized = AffineWeight::quantize(&weight, bits, group_size, scales)?;
        Ok(Self::Quantized(Arc::new(quantized)))
    }

    /// (out, in)
    pub(crate) fn dims(&self) -> Vec<usize> {
        match self {
            Self::Dense(weight) => weight.dims().to_vec(),
            Self::Quantized(weight) => <[usize; 2]>::from(weight.dims()).to_vec(),
        }
    }

    /// All numbers in one tensor, which is made where there is none.
    pub(crate) fn dense(&self, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => weight.to_dtype(dtype),
            Self::Quantized(weight) => weight.dequantize(dtype),
        }
    }

    /// `x Wᵀ`
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => linear(x, weight, None),
            Self::Quantized(weight) => weight.forward(x),
        }
    }

    /// `dy W`
    pub(super) fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => dy.matmul(weight),
            Self::Quantized(weight) => weight.backward(dy),
        }
    }
}

impl Linear {
    /// The map of `x`, (tokens, in).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        add_bias(self.weight.forward(x)?, self.bias.as_ref())
    }

    /// The map with a branch beside it, whose input may be another one, such as `x` after dropout.
    pub(super) fn with_branch(
        &self,
        x: &Tensor,
        branch: LowRank<'_>,
        branch_input: Option<&Tensor>,
    ) -> Result<Tensor> {
        match (&self.weight, branch_input) {
            (Matrix::Dense(weight), None) => adapted_linear(x, weight, self.bias.as_ref(), branch),
            (weight, input) => {
                let y = add_branch(weight.forward(x)?, input.unwrap_or(x), branch)?;
                add_bias(y, self.bias.as_ref())
            }
        }
    }
}
