//! The threads that compute on the CPU.

use super::error::{mcandle_error, mcandle_status};
use super::panic::guard;
use crate::backend::threads;
use std::panic::catch_unwind;

/// Sets how many threads compute on the CPU, in the whole process.
///
/// Any thread may call it at any time. What runs goes on with the threads that it has to the end of
/// its token or batch, and takes up the new ones then; threads that are not needed end. It has no
/// effect on threads of Apple's Accelerate.
///
/// Losses of training may differ in the last bits between two counts, because each thread sums a
/// share of the rows.
///
/// @param[in] count The number of threads, up to 1024; 0 for the default, which is what the
/// environment variable RAYON_NUM_THREADS says, or one for each logical CPU.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT where the number is too large or the system does
/// not start so many; all then is as before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_set_thread_count(
    count: usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a writable output or NULL.
    unsafe { guard(error, || Ok(threads::set_count(count)?)) }
}

/// Gives how many threads compute on the CPU. Where there are none yet, they are started.
///
/// @return The number.
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_thread_count() -> usize {
    catch_unwind(threads::count).unwrap_or(0)
}
