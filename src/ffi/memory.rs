//! Memory of the process, of the machine and of a device.

use super::device::{device_kind, mcandle_device};
use super::error::{mcandle_error, mcandle_status};
use super::handle::{self, Out};
use super::panic::guard;
use crate::backend::memory::{self, DeviceMemory, MemoryUsage, SystemMemory};

/// How much memory there is and is used, as it was when this was made.
#[derive(Debug)]
pub struct mcandle_memory_info {
    process: MemoryUsage,
    system: SystemMemory,
    device: DeviceMemory,
}

/// Finds out how much memory there is and is used.
///
/// @param[in] device One of the MCANDLE_DEVICE_ constants: the device whose memory is looked at
/// too.
/// @param[out] info Receives the figures on success, to be freed with mcandle_memory_info_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_DEVICE where there is no such device, MCANDLE_INVALID_ARGUMENT,
/// MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_memory_info_new(
    device: mcandle_device,
    info: *mut *mut mcandle_memory_info,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes writable outputs or NULL.
    unsafe {
        guard(error, || {
            let device = device_kind(device)?;
            let out = Out::new(info, "info")?;
            let device = device.open()?;
            out.give(mcandle_memory_info {
                process: memory::usage(),
                system: memory::system(),
                device: memory::of_device(&device).unwrap_or_default(),
            });
            Ok(())
        })
    }
}

/// Gives the resident memory of the process.
///
/// @param[in] info The figures, or NULL.
/// @return Bytes; 0 for NULL, and where the operating system does not tell.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_memory_info_process_current(
    info: *const mcandle_memory_info,
) -> u64 {
    // SAFETY: the caller passes NULL or live figures.
    unsafe { info.as_ref() }.map_or(0, |info| info.process.current)
}

/// Gives the most resident memory that the process has had.
///
/// @param[in] info The figures, or NULL.
/// @return Bytes; 0 for NULL, and where the operating system does not tell.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_memory_info_process_peak(info: *const mcandle_memory_info) -> u64 {
    // SAFETY: the caller passes NULL or live figures.
    unsafe { info.as_ref() }.map_or(0, |info| info.process.peak)
}

/// Gives the memory of the machine. The limit of a container is not regarded.
///
/// @param[in] info The figures, or NULL.
/// @return Bytes; 0 for NULL, and where the operating system does not tell.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_memory_info_system_total(info: *const mcandle_memory_info) -> u64 {
    // SAFETY: the caller passes NULL or live figures.
    unsafe { info.as_ref() }.map_or(0, |info| info.system.total)
}

/// Gives what a process may still take of the memory of the machine without harm to others; on iOS,
/// what this process may take before it is ended.
///
/// @param[in] info The figures, or NULL.
/// @return Bytes; 0 for NULL, and where the operating system does not tell, as on macOS.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_memory_info_system_available(
    info: *const mcandle_memory_info,
) -> u64 {
    // SAFETY: the caller passes NULL or live figures.
    unsafe { info.as_ref() }.map_or(0, |info| info.system.available)
}

/// Gives what the device can hold and still be fast: of a GPU that shares the memory of the
/// machine, the part that the system recommends.
///
/// @param[in] info The figures, or NULL.
/// @return Bytes; 0 for NULL, and for every device but Metal.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_memory_info_device_total(info: *const mcandle_memory_info) -> u64 {
    // SAFETY: the caller passes NULL or live figures.
    unsafe { info.as_ref() }.map_or(0, |info| info.device.total)
}

/// Gives what the process has allocated on the device.
///
/// @param[in] info The figures, or NULL.
/// @return Bytes; 0 for NULL, and for every device but Metal.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_memory_info_device_used(info: *const mcandle_memory_info) -> u64 {
    // SAFETY: the caller passes NULL or live figures.
    unsafe { info.as_ref() }.map_or(0, |info| info.device.used)
}

/// Frees figures.
///
/// @param[in] info The figures; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_memory_info_free(info: *mut mcandle_memory_info) {
    // SAFETY: the caller passes NULL or figures that it owns.
    unsafe { handle::free(info) }
}
