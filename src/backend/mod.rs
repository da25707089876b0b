//! Where numbers live: devices, data types, memory figures and the decoder's operations.
//!
//! This layer knows no model. Everything above it holds [`candle_core::Tensor`]s and calls
//! [`ops`]; nothing above it asks which device it runs on.

pub(crate) mod arena;
pub mod device;
pub mod dtype;
mod kernels;
pub(crate) mod mapped_file;
pub mod memory;
pub mod ops;
pub(crate) mod room;
#[cfg(any(
    feature = "cuda",
    feature = "metal",
    target_os = "macos",
    target_os = "ios"
))]
mod shared_device;
#[cfg(test)]
pub(crate) mod testing;
pub mod threads;

pub use candle_core::{DType, Device, Tensor};
pub use device::DeviceKind;
pub use dtype::DTypePolicy;
