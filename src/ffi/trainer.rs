//! Trainers.

use super::adapter::mcandle_adapter;
use super::dataset::mcandle_dataset;
use super::error::{MCANDLE_INVALID_ARGUMENT, mcandle_error, mcandle_status};
use super::handle::{self, Exclusive, Out, Result, borrow};
use super::model::mcandle_model;
use super::panic::guard;
use super::string::mcandle_string;
use super::train_options::mcandle_train_options;
use crate::cancel::CancelHandle;
use crate::checkpoint;
use crate::training::{LoRATrainer, StepReport, TrainEvent, TrainOptions, TrainSummary};
use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;

/// What a train callback is told: one of the MCANDLE_TRAIN_EVENT_ constants.
pub type mcandle_train_event_kind = i32;

/// A step is done: all numbers of the step can be read.
pub const MCANDLE_TRAIN_EVENT_STEP: mcandle_train_event_kind = 0;
/// The validation rows were evaluated: mcandle_train_event_loss() is their loss.
pub const MCANDLE_TRAIN_EVENT_EVALUATION: mcandle_train_event_kind = 1;
/// A checkpoint is safe on disk: mcandle_train_event_path() is its directory.
pub const MCANDLE_TRAIN_EVENT_CHECKPOINT: mcandle_train_event_kind = 2;

/// Something that happened in training. It lives only during the callback that receives it.
#[derive(Debug)]
pub struct mcandle_train_event {
    inner: TrainEvent,
    path: mcandle_string,
}

impl mcandle_train_event {
    fn new(event: &TrainEvent) -> Self {
        let path = match event {
            TrainEvent::Checkpoint { path, .. } => path.to_string_lossy().into_owned(),
            _ => String::new(),
        };
        Self {
            inner: event.clone(),
            path: mcandle_string::new(&path),
        }
    }
}

/// A number of a step, or a default for NULL and for other events.
///
/// # Safety
///
/// `event` is NULL or the event of a callback that runs.
unsafe fn of_step<T>(
    event: *const mcandle_train_event,
    default: T,
    number: impl FnOnce(&StepReport) -> T,
) -> T {
    // SAFETY: as the caller promises.
    match unsafe { event.as_ref() }.map(|event| &event.inner) {
        Some(TrainEvent::Step(report)) => number(report),
        _ => default,
    }
}

/// Gives the kind of an event.
///
/// @param event The event, or NULL.
/// @return One of the MCANDLE_TRAIN_EVENT_ constants; -1 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_kind_of(
    event: *const mcandle_train_event,
) -> mcandle_train_event_kind {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    match unsafe { event.as_ref() }.map(|event| &event.inner) {
        None | Some(TrainEvent::Start(_) | TrainEvent::End(_)) => -1,
        Some(TrainEvent::Step(_)) => MCANDLE_TRAIN_EVENT_STEP,
        Some(TrainEvent::Evaluation { .. }) => MCANDLE_TRAIN_EVENT_EVALUATION,
        Some(TrainEvent::Checkpoint { .. }) => MCANDLE_TRAIN_EVENT_CHECKPOINT,
    }
}

/// Gives the number of steps done.
///
/// @param event The event, or NULL.
/// @return The number, the step of the event included; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_step(event: *const mcandle_train_event) -> usize {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    match unsafe { event.as_ref() }.map(|event| &event.inner) {
        None => 0,
        Some(TrainEvent::Step(report)) => report.step,
        Some(TrainEvent::Evaluation { step, .. } | TrainEvent::Checkpoint { step, .. }) => *step,
        Some(TrainEvent::Start(run)) => run.first_step,
        Some(TrainEvent::End(summary)) => summary.steps,
    }
}

/// Gives the number of steps of the whole run.
///
/// @param event The event of a step.
/// @return The number; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_total_steps(
    event: *const mcandle_train_event,
) -> usize {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_step(event, 0, |report| report.total_steps) }
}

/// Gives the mean negative log-likelihood of the target tokens: of the step before its update, or of
/// the validation rows.
///
/// @param event The event of a step or evaluation.
/// @return The loss; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_loss(event: *const mcandle_train_event) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    match unsafe { event.as_ref() }.map(|event| &event.inner) {
        Some(TrainEvent::Step(report)) => report.loss,
        Some(TrainEvent::Evaluation { loss, .. }) => *loss,
        _ => 0.0,
    }
}

/// Gives the learning rate of a step.
///
/// @param event The event of a step.
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
/// @param event The event of a step.
/// @return The norm; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_grad_norm(event: *const mcandle_train_event) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_step(event, 0.0, |report| report.grad_norm) }
}

/// Gives the speed of a step.
///
/// @param event The event of a step.
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
/// @param event The event of a step.
/// @return Seconds; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_seconds_elapsed(
    event: *const mcandle_train_event,
) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_step(event, 0.0, |report| report.elapsed.as_secs_f64()) }
}

/// Gives the time that the remaining steps will take at the pace so far.
///
/// @param event The event of a step.
/// @return Seconds; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_seconds_remaining(
    event: *const mcandle_train_event,
) -> f64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_step(event, 0.0, |report| report.remaining.as_secs_f64()) }
}

/// Gives the most memory that the process has held, at the end of a step.
///
/// @param event The event of a step.
/// @return Bytes; 0 for NULL and other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_peak_memory(event: *const mcandle_train_event) -> u64 {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { of_step(event, 0, |report| report.peak_memory) }
}

/// Gives the directory of a checkpoint.
///
/// @param event The event of a checkpoint.
/// @return A NUL-terminated path that lives only during the callback; empty for NULL and other
/// events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_event_path(
    event: *const mcandle_train_event,
) -> *const c_char {
    // SAFETY: the caller passes NULL or the event of a callback that runs.
    unsafe { event.as_ref() }.map_or(c"".as_ptr(), |event| event.path.as_ptr())
}

/// Receives what happens in training, on the thread that called.
///
/// It returns true to go on, and false to stop. It must not unwind, jump out or throw, and must not
/// use the trainer that calls it, except to cancel it.
pub type mcandle_train_callback =
    Option<unsafe extern "C" fn(event: *const mcandle_train_event, user_data: *mut c_void) -> bool>;

/// How a training run ended.
#[derive(Debug)]
pub struct mcandle_train_summary {
    inner: TrainSummary,
}

/// Gives the number of steps done in all.
///
/// @param summary The summary, or NULL.
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
/// @param summary The summary, or NULL.
/// @return The loss; NaN for NULL and where no step was done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_loss(summary: *const mcandle_train_summary) -> f64 {
    // SAFETY: the caller passes NULL or a live summary.
    unsafe { summary.as_ref() }.map_or(f64::NAN, |summary| summary.inner.loss)
}

/// Gives the last loss of the validation rows.
///
/// @param summary The summary, or NULL.
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
/// @param summary The summary, or NULL.
/// @return Whether it was stopped; false for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_cancelled(
    summary: *const mcandle_train_summary,
) -> bool {
    // SAFETY: the caller passes NULL or a live summary.
    unsafe { summary.as_ref() }.is_some_and(|summary| summary.inner.cancelled())
}

/// Gives the time of the run.
///
/// @param summary The summary, or NULL.
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
/// @param summary The summary; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_summary_free(summary: *mut mcandle_train_summary) {
    // SAFETY: the caller passes NULL or a summary that it owns.
    unsafe { handle::free(summary) }
}

/// Trains a LoRA adapter for a model; the model itself does not change.
///
/// It serves one call at a time; another call meanwhile gets MCANDLE_BUSY.
#[derive(Debug)]
pub struct mcandle_trainer {
    inner: Exclusive<LoRATrainer>,
    cancel: CancelHandle,
}

impl mcandle_trainer {
    fn new(inner: LoRATrainer) -> Self {
        Self {
            cancel: inner.cancel_handle(),
            inner: Exclusive::new(inner),
        }
    }
}

/// Makes a trainer with a new adapter.
///
/// @param model The model; it need not outlive the trainer.
/// @param train The rows to train on; they need not outlive the trainer.
/// @param validation The rows to evaluate on, or NULL for no evaluation.
/// @param options Options, or NULL for the defaults.
/// @param[out] trainer Receives the trainer on success, to be freed with mcandle_trainer_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT, MCANDLE_CONTEXT_FULL where a row is too long for
/// the model, MCANDLE_BACKEND, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_new(
    model: *const mcandle_model,
    train: *const mcandle_dataset,
    validation: *const mcandle_dataset,
    options: *const mcandle_train_options,
    trainer: *mut *mut mcandle_trainer,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let train = borrow(train, "train")?.inner.clone();
            let validation = validation.as_ref().map(|rows| rows.inner.clone());
            let out = Out::new(trainer, "trainer")?;
            let options = resolve(options)?;
            let inner = LoRATrainer::new(&model.inner, train, validation, options)?;
            out.give(mcandle_trainer::new(inner));
            Ok(())
        })
    }
}

/// Makes a trainer that goes on where a checkpoint was written. On the CPU its losses are, bit for
/// bit, those of the run that was not interrupted.
///
/// @param model The model of the earlier run.
/// @param train The rows of the earlier run.
/// @param validation The rows to evaluate on, or NULL for no evaluation.
/// @param options The options of the earlier run, or NULL for the defaults; what does not change the
/// losses may differ.
/// @param checkpoint The directory of the checkpoint, NUL-terminated UTF-8.
/// @param[out] trainer Receives the trainer on success, to be freed with mcandle_trainer_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return As mcandle_trainer_new(), and MCANDLE_NOT_FOUND, MCANDLE_INVALID_FORMAT, or
/// MCANDLE_INCOMPATIBLE where the checkpoint was made with other settings or rows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_resume(
    model: *const mcandle_model,
    train: *const mcandle_dataset,
    validation: *const mcandle_dataset,
    options: *const mcandle_train_options,
    checkpoint: *const c_char,
    trainer: *mut *mut mcandle_trainer,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, a NUL-terminated path and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let train = borrow(train, "train")?.inner.clone();
            let validation = validation.as_ref().map(|rows| rows.inner.clone());
            let checkpoint = handle::path(checkpoint, "checkpoint")?;
            let out = Out::new(trainer, "trainer")?;
            let options = resolve(options)?;
            let inner = LoRATrainer::resume(&model.inner, train, validation, options, checkpoint)?;
            out.give(mcandle_trainer::new(inner));
            Ok(())
        })
    }
}

/// Finds the checkpoint with the most steps in an output directory.
///
/// @param output_dir The directory, NUL-terminated UTF-8.
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

/// Trains until all steps are done, or until the callback or another thread stops it.
///
/// A stopped run leaves a checkpoint where there is an output directory, and another call goes on.
///
/// @param trainer The trainer.
/// @param callback Receives what happens; may be NULL.
/// @param user_data Given to the callback as it is; not used after the call.
/// @param[out] summary Receives how it ended, also when it was stopped, to be freed with
/// mcandle_train_summary_free(); may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, also when it was stopped, or MCANDLE_NON_FINITE, MCANDLE_IO,
/// MCANDLE_BACKEND, MCANDLE_BUSY, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_train(
    trainer: *mut mcandle_trainer,
    callback: mcandle_train_callback,
    user_data: *mut c_void,
    summary: *mut *mut mcandle_train_summary,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live trainer, writable outputs or NULL, and a callback that may be
    // called with `user_data`.
    unsafe {
        guard(error, || {
            let trainer = borrow(trainer, "trainer")?;
            let ended = trainer.inner.with("trainer", |inner| {
                Ok(inner.train(|event| {
                    let Some(callback) = callback else {
                        return ControlFlow::Continue(());
                    };
                    let event = mcandle_train_event::new(event);
                    if callback(&raw const event, user_data) {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                })?)
            })?;
            if !summary.is_null() {
                Out::new(summary, "summary")?.give(mcandle_train_summary { inner: ended });
            }
            Ok(())
        })
    }
}

/// Stops the training that runs, before its next step. Any thread may call it at any time while the
/// trainer lives; without a running training it does nothing.
///
/// @param trainer The trainer; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_cancel(trainer: *const mcandle_trainer) {
    // SAFETY: the caller passes NULL or a live trainer, whose handle is shared between threads.
    if let Some(trainer) = unsafe { trainer.as_ref() } {
        trainer.cancel.cancel();
    }
}

/// Gives the adapter as trained so far.
///
/// @param trainer The trainer.
/// @param[out] adapter Receives a copy on success, to be freed with mcandle_adapter_free(); further
/// training does not change it.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_BUSY, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_adapter(
    trainer: *const mcandle_trainer,
    adapter: *mut *mut mcandle_adapter,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live trainer and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let trainer = borrow(trainer, "trainer")?;
            let out = Out::new(adapter, "adapter")?;
            let inner = trainer
                .inner
                .with("trainer", |inner| match inner.adapter() {
                    Some(adapter) => Ok(adapter.clone()),
                    None => Err(mcandle_error::new(
                        MCANDLE_INVALID_ARGUMENT,
                        "the trainer trains the weights of the model; there is no adapter",
                    )),
                })?;
            out.give(mcandle_adapter { inner });
            Ok(())
        })
    }
}

/// Writes a checkpoint, from which mcandle_trainer_resume() goes on.
///
/// @param trainer The trainer.
/// @param path The directory, NUL-terminated UTF-8, which appears whole or not at all.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_IO, MCANDLE_BUSY, and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_save_checkpoint(
    trainer: *const mcandle_trainer,
    path: *const c_char,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live trainer and a NUL-terminated path, or NULL.
    unsafe {
        guard(error, || {
            let trainer = borrow(trainer, "trainer")?;
            let path = handle::path(path, "path")?;
            trainer
                .inner
                .with("trainer", |inner| Ok(inner.save_checkpoint(path)?))
        })
    }
}

/// Frees a trainer. No call may be using it.
///
/// @param trainer The trainer; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_free(trainer: *mut mcandle_trainer) {
    // SAFETY: the caller passes NULL or a trainer that it owns.
    unsafe { handle::free(trainer) }
}

/// The options given, or the defaults for NULL.
///
/// # Safety
///
/// `options` is NULL or live.
unsafe fn resolve(options: *const mcandle_train_options) -> Result<TrainOptions> {
    // SAFETY: as the caller promises.
    match unsafe { options.as_ref() } {
        Some(options) => options.resolve(),
        None => Ok(TrainOptions::default()),
    }
}
