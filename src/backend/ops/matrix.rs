//! A weight matrix, as it is kept.

use super::affine::AffineWeight;
use super::blocks::BlockWeight;
use super::linear::{add_into, linear, linear_backward};
use crate::backend::kernels;
use candle_core::{DType, Result, Tensor};
use std::sync::Arc;

/// The weight matrix of a linear map or of an embedding, of shape (out, in).
///
/// A quantised matrix is frozen: its product and the gradient of its input are computed, never a
/// gradient of its own. Cloning is cheap and shares the numbers.
///
/// # Example
///
/// ```
/// use metal_candle::backend::ops::matrix::Matrix;
/// use metal_candle::backend::{DType, Device, Tensor};
///
/// let weight = Matrix::Dense(Tensor::ones((2, 3), DType::F32, &Device::Cpu)?);
/// let x = Tensor::ones((1, 3), DType::F32, &Device::Cpu)?;
/// assert_eq!(weight.forward(&x)?.to_vec2::<f32>()?, [[3.0, 3.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Matrix {
    /// In the dtype of the activations; on the CPU `f16` and `bf16` stand beside activations in `f32`, too.
    Dense(Tensor),
    /// In groups that share a scale and a bias, as MLX keeps them.
    Affine(Arc<AffineWeight>),
    /// In blocks, as GGUF files keep them.
    Blocks(BlockWeight),
}

impl Matrix {
    /// The numbers of features: (out, in).
    ///
    /// # Errors
    ///
    /// When a dense matrix does not have two dimensions.
    pub fn dims(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(weight) => weight.dims2(),
            Self::Affine(weight) => Ok(weight.dims()),
            Self::Blocks(weight) => Ok(weight.dims()),
        }
    }

    /// Whether the numbers are kept in fewer bits than those of a float.
    #[must_use]
    pub fn is_quantized(&self) -> bool {
        !matches!(self, Self::Dense(_))
    }

    /// The bytes that the numbers take.
    #[must_use]
    pub fn size_in_bytes(&self) -> usize {
        match self {
            Self::Dense(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Self::Affine(weight) => weight.size_in_bytes(),
            Self::Blocks(weight) => weight.size_in_bytes(),
        }
    }

    /// The matrix, with its tensors moved by `place` where they are on the CPU.
    pub(crate) fn moved(self, place: &mut dyn FnMut(Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(match self {
            Self::Dense(weight) => Self::Dense(place(weight)?),
            Self::Affine(weight) => {
                Self::Affine(Arc::new(Arc::unwrap_or_clone(weight).moved(place)?))
            }
            Self::Blocks(weight) => Self::Blocks(weight.moved(place)?),
        })
    }

    /// All numbers in one tensor of `dtype`, which is made where there is none.
    ///
    /// # Errors
    ///
    /// When the device fails, for example for lack of memory.
    pub fn dense(&self, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => weight.to_dtype(dtype),
            Self::Affine(weight) => weight.dequantize(dtype),
            Self::Blocks(weight) => weight.dequantize(dtype),
        }
    }

    /// `x Wᵀ`, of shape (n, out), for `x` of shape (n, in), in the dtype of `x`.
    ///
    /// # Errors
    ///
    /// When shapes, dtypes or devices do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => linear(x, weight, None),
            Self::Affine(weight) => weight.forward(x),
            Self::Blocks(weight) => weight.forward(x),
        }
    }

    /// [`forward`](Self::forward) as inference has it: with the blocks of a GGUF file, activations may be
    /// rounded to eight bits ([`BlockWeight::infer`]).
    ///
    /// # Errors
    ///
    /// When shapes, dtypes or devices do not fit.
    pub fn infer(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Blocks(weight) => weight.infer(x),
            _ => self.forward(x),
        }
    }

    /// The gradient of [`forward`](Self::forward) with respect to `x`: `dy W`, of shape (n, in), for
    /// `dy` of shape (n, out), in its dtype.
    ///
    /// # Errors
    ///
    /// When shapes, dtypes or devices do not fit.
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => linear_backward(dy, weight),
            Self::Affine(weight) => weight.backward(dy),
            Self::Blocks(weight) => weight.backward(dy),
        }
    }

    /// `dx` and [`backward`](Self::backward), in the memory of `dx`, which has no other holder.
    pub(crate) fn backward_onto(&self, dx: Option<Tensor>, dy: &Tensor) -> Result<Tensor> {
        match (dx, self) {
            (None, _) => self.backward(dy),
            #[cfg(feature = "cuda")]
            (Some(dx), Self::Dense(weight)) if kernels::cuda::takes_all([&dx, dy, weight]) => {
                kernels::cuda::add_product(&dx, dy, weight, 1.0)?;
                Ok(dx)
            }
            (Some(dx), Self::Dense(weight))
                if kernels::takes(&dx) && kernels::takes_product(dy, weight) =>
            {
                kernels::dense_backward_onto(&dx, dy, weight)?;
                Ok(dx)
            }
            (Some(dx), _) => add_into(dx, &self.backward(dy)?),
        }
    }

    /// The rows of the given ids, (n) of dtype `u32`, as (n, in) in `dtype`: the lookup of an
    /// embedding.
    ///
    /// # Errors
    ///
    /// When the device fails, or on the CPU when an id is no row.
    pub fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => weight.index_select(ids, 0)?.to_dtype(dtype),
            Self::Affine(weight) => weight.rows(ids)?.dequantize(dtype),
            Self::Blocks(weight) => weight.rows(ids)?.to_dtype(dtype),
        }
    }
}
