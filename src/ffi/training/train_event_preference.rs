//! What a train callback is told about preferences.
//!
//! A reward is the log-probability of an answer times beta, less that of the model before training
//! where the objective has one.

use super::train_event::{mcandle_train_event, of_step};
use crate::training::PreferenceReport;

/// A number of the pairs of a step, or NaN where there is none.
///
/// # Safety
///
/// `event` is NULL or the event of a callback that runs.
unsafe fn of_pairs(
    event: *const mcandle_train_event,
    number: impl FnOnce(PreferenceReport) -> f64,
) -> f64 {
    // SAFETY: as the caller promises.
    unsafe { of_step(event, None, |report| report.preference) }.map_or(f64::NAN, number)
}

/// Gives the mean reward of the answers of a step that were chosen.
///
/// A reward is the log-probability of an answer times beta, with DPO less that of the model before
/// training; with ORPO it is lambda times the mean of the log-probabilities of its tokens.
///
/// @param[in] event The event of a step, or NULL.
/// @return The reward; NaN for NULL, other events, and where no preferences are learned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_reward_chosen(
    event: *const mcandle_train_event,
) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_pairs(event, |pairs| pairs.reward_chosen) }
}

/// Gives the mean reward of the answers of a step that were rejected.
///
/// @param[in] event The event of a step, or NULL.
/// @return The reward; NaN for NULL, other events, and where no preferences are learned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_reward_rejected(
    event: *const mcandle_train_event,
) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_pairs(event, |pairs| pairs.reward_rejected) }
}

/// Gives the mean of the differences of rewards in a step, chosen less rejected.
///
/// @param[in] event The event of a step, or NULL.
/// @return The difference; NaN for NULL, other events, and where no preferences are learned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_reward_margin(
    event: *const mcandle_train_event,
) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_pairs(event, |pairs| pairs.margin) }
}

/// Gives the share of the pairs of a step whose chosen answer has the higher reward.
///
/// @param[in] event The event of a step, or NULL.
/// @return 0 to 1; NaN for NULL, other events, and where no preferences are learned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_reward_accuracy(
    event: *const mcandle_train_event,
) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_pairs(event, |pairs| pairs.accuracy) }
}
