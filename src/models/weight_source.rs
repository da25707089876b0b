//! The weights of a stored model, before they are loaded.

use crate::backend::ops::matrix::Matrix;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use std::fmt;

/// What the header of a file says of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// The size of each dimension, outermost first; of a quantised matrix, those of its numbers.
    pub shape: Vec<usize>,
    /// How its numbers are stored, such as `BF16`, `Q4_K`, or `4-bit affine`.
    pub encoding: String,
    /// The bytes that it takes in the file, with its scales where it has such.
    pub size_in_bytes: usize,
    /// The dtype of its numbers, or of the scales by which they are multiplied.
    pub dtype: DType,
    /// Whether it stays quantised in memory.
    pub quantized: bool,
}

/// The weights of a stored model by their names in Hugging Face checkpoints, such as
/// `model.norm.weight`; read one at a time.
///
/// Opening one reads headers only and checks them, so that what
/// [`stored`](Self::stored) says can be believed.
pub trait WeightSource: fmt::Debug + Send + Sync {
    /// What the header says of a tensor; none where there is no such tensor or it cannot be loaded.
    fn stored(&self, name: &str) -> Option<StoredTensor>;

    /// Checks that there is a tensor of this name and shape, and that it can be loaded.
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`](crate::Error::MissingTensor) and
    /// [`Error::TensorMismatch`](crate::Error::TensorMismatch).
    fn check(&self, name: &str, shape: &[usize]) -> Result<()>;

    /// Reads a tensor to `device`, in `dtype`, whatever it is stored in.
    ///
    /// # Errors
    ///
    /// Those of [`check`](Self::check), and [`Error::Backend`](crate::Error::Backend) where the
    /// device is out of memory.
    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor>;

    /// Reads a matrix to `device` as it is stored where it is quantised, else in `dtype`.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    fn load_matrix(&self, name: &str, dtype: DType, device: &Device) -> Result<Matrix> {
        Ok(Matrix::Dense(self.load(name, dtype, device)?))
    }
}
