//! Asks the system for large pages.

use candle_core::Tensor;

/// Asks for large pages for a tensor of the CPU, of which nothing is written yet: pages keep the size that
/// they have when they are first written. Where a system has none, nothing happens.
pub(in crate::backend) fn use_large_pages(tensor: &Tensor) {
    #[cfg(target_os = "linux")]
    {
        use candle_core::{CpuStorage, Storage};
        let (storage, _) = tensor.storage_and_layout();
        if let Storage::Cpu(storage) = &*storage {
            match storage {
                CpuStorage::U8(numbers) => advise(numbers),
                CpuStorage::F32(numbers) => advise(numbers),
                CpuStorage::F16(numbers) => advise(numbers),
                CpuStorage::BF16(numbers) => advise(numbers),
                _ => {}
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = tensor;
}

#[cfg(target_os = "linux")]
fn advise<T>(numbers: &[T]) {
    /// The large pages of x86-64, and of `AArch64` with small ones of 4 KiB.
    const LARGE_PAGE: usize = 2 << 20;
    let start = numbers.as_ptr().cast::<u8>();
    let skipped = start.align_offset(LARGE_PAGE);
    let bytes = size_of_val(numbers).saturating_sub(skipped) / LARGE_PAGE * LARGE_PAGE;
    if bytes > 0 {
        #[allow(unsafe_code, reason = "the advice is a foreign function")]
        // SAFETY: the range lies within the numbers, and the advice changes nothing of what is read there.
        unsafe {
            libc::madvise(
                start.wrapping_add(skipped).cast_mut().cast(),
                bytes,
                libc::MADV_HUGEPAGE,
            );
        }
    }
}
