//! Lists of numbers.

use super::handle;

/// Numbers that the library made.
#[derive(Debug)]
pub struct mcandle_floats {
    pub(super) values: Vec<f32>,
}

/// Gives the numbers.
///
/// @param[in] floats The numbers, or NULL.
/// @return A pointer that lives as long as the object; NULL for NULL. With a length of 0 it must not
/// be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_floats_data(floats: *const mcandle_floats) -> *const f32 {
    // SAFETY: the caller passes NULL or an object that it has not freed.
    unsafe { floats.as_ref() }.map_or(std::ptr::null(), |floats| floats.values.as_ptr())
}

/// Gives how many numbers there are.
///
/// @param[in] floats The numbers, or NULL.
/// @return How many; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_floats_length(floats: *const mcandle_floats) -> usize {
    // SAFETY: the caller passes NULL or an object that it has not freed.
    unsafe { floats.as_ref() }.map_or(0, |floats| floats.values.len())
}

/// Frees numbers.
///
/// @param[in] floats The numbers; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_floats_free(floats: *mut mcandle_floats) {
    // SAFETY: the caller passes NULL or an object that it owns.
    unsafe { handle::free(floats) }
}
