//! How a training run ended.

use crate::ffi::handle;
use crate::ffi::string::mcandle_string;
use crate::training::{StopReason, TrainSummary};
use std::ffi::c_char;

/// Why a training run ended: one of the MCANDLE_TRAIN_STOP_ constants.
pub type mcandle_train_stop = i32;

/// All steps are done.
pub const MCANDLE_TRAIN_STOP_FINISHED: mcandle_train_stop = 0;
/// A callback or another thread stopped it before its last step.
pub const MCANDLE_TRAIN_STOP_CANCELLED: mcandle_train_stop = 1;
/// The validation loss no longer fell.
pub const MCANDLE_TRAIN_STOP_EARLY_STOPPING: mcandle_train_stop = 2;

/// How a training run ended.
#[derive(Debug)]
pub struct mcandle_train_summary {
    inner: TrainSummary,
    best_path: mcandle_string,
}

impl mcandle_train_summary {
    pub(super) fn new(inner: TrainSummary) -> Self {
        let best_path = inner.best.as_ref().and_then(|best| best.path.as_ref());
        let best_path = best_path.map(|path| path.to_string_lossy());
        Self {
            best_path: mcandle_string::new(&best_path.unwrap_or_default()),
            inner,
        }
    }
}

/// Gives the number of steps done in all.
///
/// @param[in] summary The summary, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_steps(
    summary: *const mcandle_train_summary,
) -> usize {
    // SAFETY: the caller passes NULL or a live summary.
    unsafe { summary.as_ref() }.map_or(0, |summary| summary.inner.steps)
}

/// Gives the loss of the last step.
///
/// @param[in] summary The summary, or NULL.
/// @return The loss; NaN for NULL and where no step was done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_loss(summary: *const mcandle_train_summary) -> f64 {
    // SAFETY: the caller passes NULL or a live summary.
    unsafe { summary.as_ref() }.map_or(f64::NAN, |summary| summary.inner.loss)
}

/// Gives the last loss of the validation rows.
///
/// @param[in] summary The summary, or NULL.
/// @return The loss; NaN for NULL and where there was no evaluation.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_validation_loss(
    summary: *const mcandle_train_summary,
) -> f64 {
    // SAFETY: the caller passes NULL or a live summary.
    unsafe { summary.as_ref() }
        .and_then(|summary| summary.inner.validation_loss)
        .unwrap_or(f64::NAN)
}

/// Tells whether a callback or another thread stopped the run before its last step.
///
/// @param[in] summary The summary, or NULL.
/// @return Whether it was stopped; false for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_cancelled(
    summary: *const mcandle_train_summary,
) -> bool {
    // SAFETY: the caller passes NULL or a live summary.
    unsafe { summary.as_ref() }.is_some_and(|summary| summary.inner.cancelled())
}

/// Gives why the run ended.
///
/// @param[in] summary The summary, or NULL.
/// @return One of the MCANDLE_TRAIN_STOP_ constants; -1 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_stop_reason(
    summary: *const mcandle_train_summary,
) -> mcandle_train_stop {
    // SAFETY: the caller passes NULL or a live summary.
    match unsafe { summary.as_ref() }.map(|summary| summary.inner.stop) {
        None => -1,
        Some(StopReason::Finished) => MCANDLE_TRAIN_STOP_FINISHED,
        Some(StopReason::Cancelled) => MCANDLE_TRAIN_STOP_CANCELLED,
        Some(StopReason::EarlyStopping) => MCANDLE_TRAIN_STOP_EARLY_STOPPING,
    }
}

/// Gives the number of steps done before the evaluation with the lowest loss.
///
/// @param[in] summary The summary, or NULL.
/// @return The number; 0 for NULL, where there was no evaluation, and where none was better than
/// that before the first step.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_best_step(
    summary: *const mcandle_train_summary,
) -> usize {
    // SAFETY: the caller passes NULL or a live summary.
    unsafe { summary.as_ref() }
        .and_then(|summary| summary.inner.best.as_ref())
        .map_or(0, |best| best.step)
}

/// Gives the lowest loss of the validation rows, over all resumptions.
///
/// @param[in] summary The summary, or NULL.
/// @return The loss; NaN for NULL and where there was no evaluation.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_best_loss(
    summary: *const mcandle_train_summary,
) -> f64 {
    // SAFETY: the caller passes NULL or a live summary.
    unsafe { summary.as_ref() }
        .and_then(|summary| summary.inner.best.as_ref())
        .map_or(f64::NAN, |best| best.loss)
}

/// Gives the checkpoint with the weights of the lowest validation loss.
///
/// @param[in] summary The summary, or NULL.
/// @return A NUL-terminated path that lives as long as the summary; empty for NULL and where no
/// such checkpoint was written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_best_path(
    summary: *const mcandle_train_summary,
) -> *const c_char {
    // SAFETY: the caller passes NULL or a live summary.
    unsafe { summary.as_ref() }.map_or(c"".as_ptr(), |summary| summary.best_path.as_ptr())
}

/// Gives the number of tokens since the first step, over all resumptions.
///
/// @param[in] summary The summary, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_tokens(
    summary: *const mcandle_train_summary,
) -> usize {
    // SAFETY: the caller passes NULL or a live summary.
    unsafe { summary.as_ref() }.map_or(0, |summary| summary.inner.tokens)
}

/// Gives the time of the run.
///
/// @param[in] summary The summary, or NULL.
/// @return Seconds; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_seconds(
    summary: *const mcandle_train_summary,
) -> f64 {
    // SAFETY: the caller passes NULL or a live summary.
    unsafe { summary.as_ref() }.map_or(0.0, |summary| summary.inner.elapsed.as_secs_f64())
}

/// Frees a summary.
///
/// @param[in] summary The summary; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_free(summary: *mut mcandle_train_summary) {
    // SAFETY: the caller passes NULL or a summary that it owns.
    unsafe { handle::free(summary) }
}
