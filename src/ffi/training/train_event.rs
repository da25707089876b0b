//! What a train callback is told. The numbers of a start are in `train_event_start.rs`, those of
//! preferences in `train_event_preference.rs`.

use super::train_summary::mcandle_train_summary;
use crate::ffi::string::mcandle_string;
use crate::ffi::user_data::UserPointer;
use crate::training::{RunInfo, StepReport, TrainEvent};
use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;

/// What a train callback is told: one of the MCANDLE_TRAIN_EVENT_ constants. There may be more in
/// later versions, so let a callback pass over those that it does not know.
pub type mcandle_train_event_kind = i32;

/// A step is done: all numbers of the step can be read.
pub const MCANDLE_TRAIN_EVENT_STEP: mcandle_train_event_kind = 0;
/// The validation rows were evaluated: mcandle_train_event_loss() is their loss.
pub const MCANDLE_TRAIN_EVENT_EVALUATION: mcandle_train_event_kind = 1;
/// A checkpoint is safe on disk: mcandle_train_event_path() is its directory.
pub const MCANDLE_TRAIN_EVENT_CHECKPOINT: mcandle_train_event_kind = 2;
/// A run, or its resumption, begins: what it is about to do can be read. It comes first.
pub const MCANDLE_TRAIN_EVENT_START: mcandle_train_event_kind = 3;
/// The run is over: mcandle_train_event_summary() tells how it ended. It comes last, and not after an
/// error.
pub const MCANDLE_TRAIN_EVENT_END: mcandle_train_event_kind = 4;

/// Something that happened in training. It lives only during the callback that receives it.
#[derive(Debug)]
pub struct mcandle_train_event {
    pub(super) inner: TrainEvent,
    json: mcandle_string,
    path: mcandle_string,
    pub(super) method: mcandle_string,
    pub(super) objective: mcandle_string,
    summary: Option<mcandle_train_summary>,
}

impl mcandle_train_event {
    pub(super) fn new(event: &TrainEvent) -> Self {
        let (method, objective) = match event {
            TrainEvent::Start(info) => (info.method.as_str(), info.objective.as_str()),
            _ => ("", ""),
        };
        let path = match event {
            TrainEvent::Checkpoint { path, .. } => path.to_string_lossy(),
            _ => "".into(),
        };
        let summary = match event {
            TrainEvent::End(ended) => Some(mcandle_train_summary::new(ended.clone())),
            _ => None,
        };
        // Every event can be written: it has no maps, and paths are made text.
        let json = serde_json::to_string(event).unwrap_or_default();
        Self {
            inner: event.clone(),
            json: mcandle_string::new(&json),
            path: mcandle_string::new(&path),
            method: mcandle_string::new(method),
            objective: mcandle_string::new(objective),
            summary,
        }
    }
}

/// What an event of a callback that runs says, or nothing for NULL.
///
/// # Safety
///
/// `event` is NULL or the event of a callback that runs.
unsafe fn told<'a>(event: *const mcandle_train_event) -> Option<&'a TrainEvent> {
    // SAFETY: as the caller promises.
    unsafe { event.as_ref() }.map(|event| &event.inner)
}

/// A number of a step, or a default for NULL and for other events.
///
/// # Safety
///
/// `event` is NULL or the event of a callback that runs.
pub(super) unsafe fn of_step<T>(
    event: *const mcandle_train_event,
    default: T,
    number: impl FnOnce(&StepReport) -> T,
) -> T {
    // SAFETY: as the caller promises.
    match unsafe { told(event) } {
        Some(TrainEvent::Step(report)) => number(report),
        _ => default,
    }
}

/// A number of a start, or 0 for NULL and for other events.
///
/// # Safety
///
/// `event` is NULL or the event of a callback that runs.
pub(super) unsafe fn of_start<T: Default>(
    event: *const mcandle_train_event,
    number: impl FnOnce(&RunInfo) -> T,
) -> T {
    // SAFETY: as the caller promises.
    match unsafe { told(event) } {
        Some(TrainEvent::Start(info)) => number(info),
        _ => T::default(),
    }
}

/// Gives the kind of an event.
///
/// @param[in] event The event, or NULL.
/// @return One of the MCANDLE_TRAIN_EVENT_ constants; -1 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_kind_of(
    event: *const mcandle_train_event,
) -> mcandle_train_event_kind {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    match unsafe { told(event) } {
        None => -1,
        Some(TrainEvent::Start(_)) => MCANDLE_TRAIN_EVENT_START,
        Some(TrainEvent::Step(_)) => MCANDLE_TRAIN_EVENT_STEP,
        Some(TrainEvent::Evaluation { .. }) => MCANDLE_TRAIN_EVENT_EVALUATION,
        Some(TrainEvent::Checkpoint { .. }) => MCANDLE_TRAIN_EVENT_CHECKPOINT,
        Some(TrainEvent::End(_)) => MCANDLE_TRAIN_EVENT_END,
    }
}

/// Gives everything that an event says as JSON, as it is a line of metrics.jsonl: an object whose
/// key "event" is "start", "step", "evaluation", "checkpoint" or "end". Times are in seconds,
/// numbers that are not finite are null.
///
/// @param[in] event The event, or NULL.
/// @return A NUL-terminated string in UTF-8 that lives only during the callback; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_json(
    event: *const mcandle_train_event,
) -> *const c_char {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { event.as_ref() }.map_or(c"".as_ptr(), |event| event.json.as_ptr())
}

/// Gives the number of steps done.
///
/// @param[in] event The event, or NULL.
/// @return The number, the step of the event included, and at a start those of the run that is
/// resumed; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_step(event: *const mcandle_train_event) -> usize {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    match unsafe { told(event) } {
        None => 0,
        Some(TrainEvent::Start(info)) => info.first_step,
        Some(TrainEvent::Step(report)) => report.step,
        Some(TrainEvent::Evaluation { step, .. } | TrainEvent::Checkpoint { step, .. }) => *step,
        Some(TrainEvent::End(summary)) => summary.steps,
    }
}

/// Gives the number of steps of the whole run.
///
/// @param[in] event The event of a start or step, or NULL.
/// @return The number; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_total_steps(
    event: *const mcandle_train_event,
) -> usize {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    match unsafe { told(event) } {
        Some(TrainEvent::Start(info)) => info.steps,
        Some(TrainEvent::Step(report)) => report.total_steps,
        _ => 0,
    }
}

/// Gives how often every training row was seen, the step of the event included; 1.5 is the middle
/// of the second time.
///
/// @param[in] event The event of a step, or NULL.
/// @return The number; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_epoch(event: *const mcandle_train_event) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_step(event, 0.0, |report| report.epoch) }
}

/// Gives the mean negative log-likelihood of the target tokens: of the step before its update, or
/// of the validation rows. Where preferences are learned it is the mean loss of the pairs.
///
/// @param[in] event The event of a step or evaluation, or NULL.
/// @return The loss; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_loss(event: *const mcandle_train_event) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    match unsafe { told(event) } {
        Some(TrainEvent::Step(report)) => report.loss,
        Some(TrainEvent::Evaluation { loss, .. }) => *loss,
        _ => 0.0,
    }
}

/// Gives e to the power of the loss of the validation rows.
///
/// @param[in] event The event of an evaluation, or NULL.
/// @return The perplexity; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_perplexity(event: *const mcandle_train_event) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    match unsafe { told(event) } {
        Some(TrainEvent::Evaluation { perplexity, .. }) => *perplexity,
        _ => 0.0,
    }
}

/// Tells whether an evaluation has the lowest loss of the run so far, or whether a checkpoint holds
/// the weights of that evaluation.
///
/// @param[in] event The event of an evaluation or checkpoint, or NULL.
/// @return Whether it is the best; false for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_best(event: *const mcandle_train_event) -> bool {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    match unsafe { told(event) } {
        Some(TrainEvent::Evaluation { best, .. } | TrainEvent::Checkpoint { best, .. }) => *best,
        _ => false,
    }
}

/// Gives the learning rate of a step.
///
/// @param[in] event The event of a step, or NULL.
/// @return The learning rate; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_learning_rate(
    event: *const mcandle_train_event,
) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_step(event, 0.0, |report| report.learning_rate) }
}

/// Gives the L2 norm of the gradient of a step, before clipping.
///
/// @param[in] event The event of a step, or NULL.
/// @return The norm; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_grad_norm(event: *const mcandle_train_event) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_step(event, 0.0, |report| report.grad_norm) }
}

/// Gives the number of tokens, without padding: of the step, or at a start of all training rows.
///
/// @param[in] event The event of a start or step, or NULL.
/// @return The number; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_tokens(event: *const mcandle_train_event) -> usize {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    match unsafe { told(event) } {
        Some(TrainEvent::Start(info)) => info.tokens,
        Some(TrainEvent::Step(report)) => report.tokens,
        _ => 0,
    }
}

/// Gives the number of tokens that are scored: of the step, or at a start of all training rows.
///
/// @param[in] event The event of a start or step, or NULL.
/// @return The number; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_target_tokens(
    event: *const mcandle_train_event,
) -> usize {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    match unsafe { told(event) } {
        Some(TrainEvent::Start(info)) => info.target_tokens,
        Some(TrainEvent::Step(report)) => report.target_tokens,
        _ => 0,
    }
}

/// Gives the number of tokens since the first step, that of the event included, over all
/// resumptions.
///
/// @param[in] event The event of a step, or NULL.
/// @return The number; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_tokens_so_far(
    event: *const mcandle_train_event,
) -> usize {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_step(event, 0, |report| report.tokens_so_far) }
}

/// Gives the speed of a step.
///
/// @param[in] event The event of a step, or NULL.
/// @return Tokens per second, without padding; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_tokens_per_second(
    event: *const mcandle_train_event,
) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_step(event, 0.0, |report| report.tokens_per_second) }
}

/// Gives the time since the run, or its resumption, began.
///
/// @param[in] event The event of a step, evaluation or end, or NULL.
/// @return Seconds; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_seconds_elapsed(
    event: *const mcandle_train_event,
) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    match unsafe { told(event) } {
        Some(TrainEvent::Step(report)) => report.elapsed.as_secs_f64(),
        Some(TrainEvent::Evaluation { elapsed, .. }) => elapsed.as_secs_f64(),
        Some(TrainEvent::End(summary)) => summary.elapsed.as_secs_f64(),
        _ => 0.0,
    }
}

/// Gives the time that the remaining steps will take at the pace so far.
///
/// @param[in] event The event of a step, or NULL.
/// @return Seconds; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_seconds_remaining(
    event: *const mcandle_train_event,
) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_step(event, 0.0, |report| report.remaining.as_secs_f64()) }
}

/// Gives the memory that the process holds at the end of a step.
///
/// @param[in] event The event of a step, or NULL.
/// @return Bytes; 0 for NULL, other events, and where the operating system does not tell.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_memory(event: *const mcandle_train_event) -> u64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_step(event, 0, |report| report.memory) }
}

/// Gives the most memory that the process has held, at the end of a step.
///
/// @param[in] event The event of a step, or NULL.
/// @return Bytes; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_peak_memory(event: *const mcandle_train_event) -> u64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_step(event, 0, |report| report.peak_memory) }
}

/// Gives the directory of a checkpoint.
///
/// @param[in] event The event of a checkpoint, or NULL.
/// @return A NUL-terminated path that lives only during the callback; empty for NULL and other
/// events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_path(
    event: *const mcandle_train_event,
) -> *const c_char {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { event.as_ref() }.map_or(c"".as_ptr(), |event| event.path.as_ptr())
}

/// Gives how a run ended.
///
/// @param[in] event The event of an end, or NULL.
/// @return A summary that lives only during the callback and is not to be freed; NULL for NULL and
/// other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_summary(
    event: *const mcandle_train_event,
) -> *const mcandle_train_summary {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { event.as_ref() }
        .and_then(|event| event.summary.as_ref())
        .map_or(std::ptr::null(), std::ptr::from_ref)
}

/// Receives what happens in training, on the thread that called; of an `_async` function, on the thread of
/// the library.
///
/// It must not use the trainer that calls it, except to cancel it.
///
/// @param[in] event What happened, which lives only during the call.
/// @param[in] user_data As it was given with the callback.
/// @return True to go on, false to stop.
pub type mcandle_train_callback = Option<
    unsafe extern "C-unwind" fn(event: *const mcandle_train_event, user_data: *mut c_void) -> bool,
>;

/// What hands events to a callback.
///
/// # Safety
///
/// The callback may be called with `user_data` as long as the result lives.
pub(super) unsafe fn on_event(
    callback: mcandle_train_callback,
    user_data: *mut c_void,
) -> impl FnMut(&TrainEvent) -> ControlFlow<()> + Send {
    let user_data = UserPointer::new(user_data);
    move |event| {
        let Some(callback) = callback else {
            return ControlFlow::Continue(());
        };
        let event = mcandle_train_event::new(event);
        // SAFETY: as the caller promises; the event outlives the call.
        if unsafe { callback(&raw const event, user_data.get()) } {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}
