//! What a train callback is told when a run begins.

use super::train_event::{mcandle_train_event, of_start};
use std::ffi::c_char;

/// Gives how many numbers are trained.
///
/// @param[in] event The event of a start, or NULL.
/// @return The number; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_trainable_parameters(
    event: *const mcandle_train_event,
) -> u64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_start(event, |info| info.trainable_parameters as u64) }
}

/// Gives how many numbers there are in all: those of the model and those that training adds.
///
/// @param[in] event The event of a start, or NULL.
/// @return The number; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_parameters(event: *const mcandle_train_event) -> u64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_start(event, |info| info.parameters as u64) }
}

/// Gives the number of training rows.
///
/// @param[in] event The event of a start, or NULL.
/// @return The number; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_rows(event: *const mcandle_train_event) -> usize {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_start(event, |info| info.rows) }
}

/// Gives how many training rows were cut to the longest length.
///
/// @param[in] event The event of a start, or NULL.
/// @return The number; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_truncated(event: *const mcandle_train_event) -> usize {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_start(event, |info| info.truncated) }
}

/// Gives how many training rows were left out.
///
/// @param[in] event The event of a start, or NULL.
/// @return The number; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_skipped(event: *const mcandle_train_event) -> usize {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_start(event, |info| info.skipped) }
}

/// Gives the number of batches in which every training row comes once.
///
/// @param[in] event The event of a start, or NULL.
/// @return The number; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_batches_per_epoch(
    event: *const mcandle_train_event,
) -> usize {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_start(event, |info| info.batches_per_epoch) }
}

/// Gives the share of the places of a packed batch that hold tokens.
///
/// @param[in] event The event of a start, or NULL.
/// @return Above 0 and at most 1; 0 where rows are not packed, for NULL and for other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_pack_efficiency(
    event: *const mcandle_train_event,
) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_start(event, |info| info.pack_efficiency.unwrap_or(0.0)) }
}

/// Gives what is trained.
///
/// @param[in] event The event of a start, or NULL.
/// @return "lora", "dora", "qlora", "qdora" or "full", NUL-terminated, which lives only during the
/// callback; empty for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_method(
    event: *const mcandle_train_event,
) -> *const c_char {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { event.as_ref() }.map_or(c"".as_ptr(), |event| event.method.as_ptr())
}

/// Gives what the loss rewards.
///
/// @param[in] event The event of a start, or NULL.
/// @return "sft", "dpo" or "orpo", NUL-terminated, which lives only during the callback; empty for
/// NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_objective(
    event: *const mcandle_train_event,
) -> *const c_char {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { event.as_ref() }.map_or(c"".as_ptr(), |event| event.objective.as_ptr())
}
