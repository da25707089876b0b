//! Devices, number formats and memory.

use super::error::{MCANDLE_INVALID_ARGUMENT, mcandle_error};
use super::handle::Result;
use crate::backend::{DTypePolicy, DeviceKind, memory};
use candle_core::{DType, Device};
use std::panic::catch_unwind;

/// Where a model computes: one of the MCANDLE_DEVICE_ constants.
pub type mcandle_device = i32;

/// Metal where there is a usable one, else CUDA where the build has it, else the CPU.
pub const MCANDLE_DEVICE_AUTO: mcandle_device = 0;
/// The CPU.
pub const MCANDLE_DEVICE_CPU: mcandle_device = 1;
/// Apple's GPU; needs macOS 15 or iOS 18.
pub const MCANDLE_DEVICE_METAL: mcandle_device = 2;
/// An NVIDIA GPU; needs a build with CUDA, and a driver.
pub const MCANDLE_DEVICE_CUDA: mcandle_device = 3;

/// The number format of weights and activations: one of the MCANDLE_DTYPE_ constants.
pub type mcandle_dtype = i32;

/// What the checkpoint has where the device computes it well, else 32-bit floats.
pub const MCANDLE_DTYPE_AUTO: mcandle_dtype = 0;
/// 32-bit floats.
pub const MCANDLE_DTYPE_F32: mcandle_dtype = 1;
/// 16-bit floats of IEEE 754.
pub const MCANDLE_DTYPE_F16: mcandle_dtype = 2;
/// 16-bit brain floats.
pub const MCANDLE_DTYPE_BF16: mcandle_dtype = 3;

pub(super) fn device_kind(device: mcandle_device) -> Result<DeviceKind> {
    match device {
        MCANDLE_DEVICE_AUTO => Ok(DeviceKind::Auto),
        MCANDLE_DEVICE_CPU => Ok(DeviceKind::Cpu),
        MCANDLE_DEVICE_METAL => Ok(DeviceKind::Metal),
        MCANDLE_DEVICE_CUDA => Ok(DeviceKind::Cuda),
        other => Err(mcandle_error::new(
            MCANDLE_INVALID_ARGUMENT,
            format!("`device` is {other}; expected one of the MCANDLE_DEVICE_ constants"),
        )),
    }
}

pub(super) fn device_of(device: &Device) -> mcandle_device {
    match device {
        Device::Cpu => MCANDLE_DEVICE_CPU,
        Device::Metal(_) => MCANDLE_DEVICE_METAL,
        Device::Cuda(_) => MCANDLE_DEVICE_CUDA,
    }
}

pub(super) fn dtype_policy(dtype: mcandle_dtype) -> Result<DTypePolicy> {
    match dtype {
        MCANDLE_DTYPE_AUTO => Ok(DTypePolicy::Auto),
        MCANDLE_DTYPE_F32 => Ok(DTypePolicy::F32),
        MCANDLE_DTYPE_F16 => Ok(DTypePolicy::F16),
        MCANDLE_DTYPE_BF16 => Ok(DTypePolicy::Bf16),
        other => Err(mcandle_error::new(
            MCANDLE_INVALID_ARGUMENT,
            format!("`dtype` is {other}; expected one of the MCANDLE_DTYPE_ constants"),
        )),
    }
}

pub(super) fn dtype_of(dtype: DType) -> mcandle_dtype {
    match dtype {
        DType::F16 => MCANDLE_DTYPE_F16,
        DType::BF16 => MCANDLE_DTYPE_BF16,
        _ => MCANDLE_DTYPE_F32,
    }
}

/// Tells whether a device can be used on this machine with this build.
///
/// @param[in] device One of the MCANDLE_DEVICE_ constants.
/// @return Whether a model can be loaded to it; false for other numbers.
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_device_is_available(device: mcandle_device) -> bool {
    catch_unwind(|| device_kind(device).is_ok_and(|kind| kind.open().is_ok())).unwrap_or(false)
}

/// Gives the resident memory of the process now, in bytes.
///
/// @return The bytes; 0 where the operating system does not tell.
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_memory_current() -> u64 {
    catch_unwind(|| memory::usage().current).unwrap_or(0)
}

/// Gives the most resident memory that the process has had, in bytes.
///
/// @return The bytes; 0 where the operating system does not tell.
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_memory_peak() -> u64 {
    catch_unwind(|| memory::usage().peak).unwrap_or(0)
}
