//! Memory of this process, as the operating system counts it.

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

#[cfg(test)]
mod tests {
    use super::*;

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
