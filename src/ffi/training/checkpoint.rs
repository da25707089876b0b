//! The checkpoints of a training run.

use crate::checkpoint;
use crate::ffi::error::{mcandle_error, mcandle_status};
use crate::ffi::handle::{self, Out, give_number};
use crate::ffi::panic::guard;
use crate::ffi::string::mcandle_string;
use std::ffi::c_char;

/// Finds the checkpoint with the most steps in an output directory.
///
/// @param[in] output_dir The directory, NUL-terminated UTF-8.
/// @param[out] checkpoint Receives its path, to be freed with mcandle_string_free(), or NULL where
/// there is no checkpoint.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, also where there is none, or MCANDLE_IO and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_latest_checkpoint(
    output_dir: *const c_char,
    checkpoint: *mut *mut mcandle_string,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a NUL-terminated path and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let directory = handle::path(output_dir, "output_dir")?;
            let out = Out::new(checkpoint, "checkpoint")?;
            match checkpoint::latest(directory)? {
                Some(path) => out.give(mcandle_string::new(&path.to_string_lossy())),
                None => out.give_nothing(),
            }
            Ok(())
        })
    }
}

/// Finds the checkpoint of the evaluation with the lowest loss in an output directory.
///
/// @param[in] output_dir The directory, NUL-terminated UTF-8.
/// @param[out] checkpoint Receives its path, to be freed with mcandle_string_free(), or NULL where no
/// such checkpoint was written. It is not looked whether somebody removed it since.
/// @param[out] step Receives the steps done before it, where there is one; may be NULL.
/// @param[out] loss Receives its validation loss, where there is one; may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, also where there is none, or MCANDLE_INVALID_FORMAT where best.json in the
/// directory is damaged, MCANDLE_IO and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_checkpoint_best(
    output_dir: *const c_char,
    checkpoint: *mut *mut mcandle_string,
    step: *mut usize,
    loss: *mut f64,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a NUL-terminated path and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let directory = handle::path(output_dir, "output_dir")?;
            let out = Out::new(checkpoint, "checkpoint")?;
            match checkpoint::best(directory)? {
                Some(best) => {
                    out.give(mcandle_string::new(&best.path.to_string_lossy()));
                    give_number(step, best.step);
                    give_number(loss, best.loss);
                }
                None => out.give_nothing(),
            }
            Ok(())
        })
    }
}

/// The checkpoints in an output directory, by their steps, ascending.
#[derive(Debug)]
pub struct mcandle_checkpoints {
    checkpoints: Vec<(usize, mcandle_string)>,
}

impl mcandle_checkpoints {
    /// # Safety
    ///
    /// `checkpoints` is NULL or live for `'a`.
    unsafe fn at<'a>(
        checkpoints: *const Self,
        index: usize,
    ) -> Option<&'a (usize, mcandle_string)> {
        // SAFETY: as the caller promises.
        unsafe { checkpoints.as_ref() }?.checkpoints.get(index)
    }
}

/// Lists the checkpoints in an output directory that are whole.
///
/// @param[in] output_dir The directory, NUL-terminated UTF-8; where it does not exist there are
/// none.
/// @param[out] checkpoints Receives the list on success, to be freed with mcandle_checkpoints_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_IO and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_checkpoint_list(
    output_dir: *const c_char,
    checkpoints: *mut *mut mcandle_checkpoints,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a NUL-terminated path and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let directory = handle::path(output_dir, "output_dir")?;
            let out = Out::new(checkpoints, "checkpoints")?;
            let found = checkpoint::checkpoints(directory)?.into_iter();
            let checkpoints =
                found.map(|(step, path)| (step, mcandle_string::new(&path.to_string_lossy())));
            out.give(mcandle_checkpoints {
                checkpoints: checkpoints.collect(),
            });
            Ok(())
        })
    }
}

/// Gives the number of checkpoints.
///
/// @param[in] checkpoints The list, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_checkpoints_length(
    checkpoints: *const mcandle_checkpoints,
) -> usize {
    // SAFETY: the caller passes NULL or a live list.
    unsafe { checkpoints.as_ref() }.map_or(0, |list| list.checkpoints.len())
}

/// Gives the steps done before a checkpoint.
///
/// @param[in] checkpoints The list, or NULL.
/// @param[in] index The place of the checkpoint, below their number.
/// @return The number; 0 for NULL and places out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_checkpoints_step(
    checkpoints: *const mcandle_checkpoints,
    index: usize,
) -> usize {
    // SAFETY: the caller passes NULL or a live list.
    unsafe { mcandle_checkpoints::at(checkpoints, index) }.map_or(0, |(step, _)| *step)
}

/// Gives the directory of a checkpoint.
///
/// @param[in] checkpoints The list, or NULL.
/// @param[in] index The place of the checkpoint, below their number.
/// @return A NUL-terminated path that lives as long as the list; empty for NULL and places out of
/// range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_checkpoints_path(
    checkpoints: *const mcandle_checkpoints,
    index: usize,
) -> *const c_char {
    // SAFETY: the caller passes NULL or a live list.
    unsafe { mcandle_checkpoints::at(checkpoints, index) }
        .map_or(c"".as_ptr(), |(_, path)| path.as_ptr())
}

/// Frees a list of checkpoints; the checkpoints stay.
///
/// @param[in] checkpoints The list; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_checkpoints_free(checkpoints: *mut mcandle_checkpoints) {
    // SAFETY: the caller passes NULL or a list that it owns.
    unsafe { handle::free(checkpoints) }
}
