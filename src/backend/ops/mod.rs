//! The decoder's operations, each with its own backward.
//!
//! A forward takes tensors and gives a tensor; its backward takes what the forward took and the
//! gradient of its result, and gives the gradients of its inputs. Nothing is recorded: candle's
//! automatic differentiation keeps gradients of frozen weights and loses those behind its fused
//! kernels, so the order of backwards is written out where the layers are.
//!
//! Gradients are those of the *sum* of the losses of all target tokens. The division by the number
//! of tokens happens once, in `f32`, when a step's gradients are complete; this keeps 16-bit
//! gradients away from underflow and makes accumulation exact.
//!
//! Activations are two-dimensional, (tokens, features), except around attention.

pub(crate) mod adam;
pub mod affine;
pub mod attention;
mod batched;
pub mod blocks;
pub mod cross_entropy;
#[cfg(any(
    feature = "cuda",
    feature = "metal",
    target_os = "macos",
    target_os = "ios"
))]
pub(crate) mod decode;
pub mod dropout;
pub(crate) mod heads;
mod held;
pub mod int8;
pub mod linear;
pub mod matrix;
pub(crate) mod most_likely;
pub mod rms_norm;
pub mod rope;
pub(crate) mod rows;
pub(crate) mod step;
pub mod swiglu;

#[cfg(test)]
mod device_tests;
#[cfg(test)]
pub(crate) mod gradcheck;
