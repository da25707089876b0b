//! Memory of this process, of the machine and of a device, as the operating system counts it.

use candle_core::Device;
use nix::sys::resource::{UsageWho, getrusage};

/// Resident memory of the process, in bytes.
///
/// On Apple Silicon the GPU shares this memory, so buffers of the Metal device that are mapped into
/// the process count as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUsage {
    /// Resident now; 0 where the operating system does not tell.
    pub current: u64,
    /// The most that was resident since the process started; 0 where the system does not tell.
    pub peak: u64,
}

/// Reads the memory figures of this process.
///
/// # Example
///
/// ```
/// let memory = metal_candle::backend::memory::usage();
/// assert!(memory.peak > 0);
/// ```
#[must_use]
pub fn usage() -> MemoryUsage {
    let current = memory_stats::memory_stats().map_or(0, |stats| stats.physical_mem as u64);
    // Kilobytes everywhere but on Apple's systems.
    let unit = if cfg!(target_vendor = "apple") {
        1
    } else {
        1024
    };
    let peak = getrusage(UsageWho::RUSAGE_SELF)
        .ok()
        .and_then(|usage| u64::try_from(usage.max_rss()).ok())
        .map_or(0, |max_rss| max_rss * unit);
    MemoryUsage {
        current,
        peak: peak.max(current),
    }
}

/// Memory of the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SystemMemory {
    /// All that there is; 0 where the operating system does not tell. The limit of a container is not
    /// regarded.
    pub total: u64,
    /// What a process may still take without harm to others, on iOS what this one may; 0 where the system
    /// does not tell, as on macOS.
    pub available: u64,
}

/// Reads the memory figures of the machine.
///
/// # Example
///
/// ```
/// let memory = metal_candle::backend::memory::system();
/// assert!(memory.available <= memory.total);
/// ```
#[must_use]
pub fn system() -> SystemMemory {
    SystemMemory {
        total: system::total().unwrap_or(0),
        available: system::available().unwrap_or(0),
    }
}

/// Memory of a GPU, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceMemory {
    /// What the device can hold and still be fast: of a GPU that shares the memory of the machine, the
    /// part that the system recommends.
    pub total: u64,
    /// What this process has allocated there.
    pub used: u64,
}

/// Reads the memory figures of a device: those of Metal, and none of other devices.
#[must_use]
pub fn of_device(device: &Device) -> Option<DeviceMemory> {
    match device {
        #[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
        Device::Metal(metal) => Some(DeviceMemory {
            total: metal.device().recommended_max_working_set_size() as u64,
            used: metal.device().current_allocated_size() as u64,
        }),
        _ => None,
    }
}

#[cfg(not(target_vendor = "apple"))]
mod system {
    pub fn total() -> Option<u64> {
        kilobytes("MemTotal:")
    }

    pub fn available() -> Option<u64> {
        kilobytes("MemAvailable:")
    }

    fn kilobytes(name: &str) -> Option<u64> {
        let figures = std::fs::read_to_string("/proc/meminfo").ok()?;
        let figure = figures.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = figure.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kilobytes * 1024)
    }
}

#[cfg(target_vendor = "apple")]
#[allow(unsafe_code, reason = "the figures come from foreign functions")]
mod system {
    use std::mem::size_of;

    pub fn total() -> Option<u64> {
        let (mut total, mut size) = (0u64, size_of::<u64>());
        // SAFETY: the name ends with a NUL, `total` has room for `size` bytes, and nothing is set.
        let status = unsafe {
            libc::sysctlbyname(
                c"hw.memsize".as_ptr(),
                (&raw mut total).cast(),
                &raw mut size,
                std::ptr::null_mut(),
                0,
            )
        };
        (status == 0 && size == size_of::<u64>()).then_some(total)
    }

    #[cfg(target_os = "ios")]
    pub fn available() -> Option<u64> {
        unsafe extern "C" {
            /// Of <os/proc.h>, since iOS 13.
            safe fn os_proc_available_memory() -> usize;
        }
        Some(os_proc_available_memory() as u64)
    }

    #[cfg(not(target_os = "ios"))]
    pub fn available() -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_machine_has_more_memory_than_the_process() {
        let (machine, process) = (system(), usage());
        assert!(machine.total > process.current, "{machine:?} {process:?}");
        assert!(machine.available > 0 && machine.available <= machine.total);
    }

    #[test]
    fn the_device_under_test_tells_where_it_is_a_gpu() {
        let device = crate::backend::testing::device();
        let _used = candle_core::Tensor::zeros(1 << 20, candle_core::DType::F32, device).unwrap();
        match of_device(device) {
            Some(memory) => assert!(memory.total > 0 && memory.used >= 4 << 20, "{memory:?}"),
            None => assert!(!device.is_metal()),
        }
    }

    #[test]
    fn the_peak_sees_an_allocation() {
        let block = vec![1u8; 64 << 20];
        let usage = usage();
        assert!(usage.peak >= block.len() as u64, "{usage:?}");
        assert!(
            usage.current > 0 && usage.current <= usage.peak,
            "{usage:?}"
        );
    }
}
