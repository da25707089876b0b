//! Options of a training run: its evaluations, its end before the last step, and what it writes.

use super::train_options::{copy, mcandle_train_options};
use std::ffi::c_char;

/// Sets the steps between evaluations on the validation rows, which also happen before the first
/// step and after the last.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] steps 0 for none. Default 200.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_eval_every(
    options: *mut mcandle_train_options,
    steps: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.eval_every = steps;
    }
}

/// Sets the most batches of an evaluation.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] batches 0 for all. Default 25.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_eval_batches(
    options: *mut mcandle_train_options,
    batches: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.eval_batches = batches;
    }
}

/// Sets after how many evaluations in a row without a better loss the run ends.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] evaluations 0 for no such end. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_early_stopping_patience(
    options: *mut mcandle_train_options,
    evaluations: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.early_stopping_patience = evaluations;
    }
}

/// Sets by how much a loss must be below the best one to be better.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] min_delta 0 or more. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_early_stopping_min_delta(
    options: *mut mcandle_train_options,
    min_delta: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.early_stopping_min_delta = min_delta;
    }
}

/// Sets the steps between checkpoints, which need an output directory.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] steps 0 for none. Default 100.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_save_every(
    options: *mut mcandle_train_options,
    steps: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.save_every = steps;
    }
}

/// Sets how many of the newest checkpoints are kept, beside the one of the best evaluation.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] count 0 for all. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_keep_checkpoints(
    options: *mut mcandle_train_options,
    count: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.keep_checkpoints = count;
    }
}

/// Sets where checkpoints are written, metrics.jsonl and loss.svg, and at the end the adapter; or
/// the model, in the directory "model" there, where its weights are trained.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] path A directory, NUL-terminated UTF-8; it is copied. NULL for none. Default none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_output_dir(
    options: *mut mcandle_train_options,
    path: *const c_char,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now, and NULL or a
    // NUL-terminated string.
    unsafe {
        if let Some(options) = options.as_mut() {
            options.output_dir = copy(path);
            options.inner.output_dir = None;
        }
    }
}
