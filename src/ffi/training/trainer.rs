//! Trainers.

use super::dataset::mcandle_dataset;
use super::train_event::{mcandle_train_callback, on_event};
use super::train_options::{mcandle_train_options, resolve};
use super::train_summary::mcandle_train_summary;
use crate::cancel::CancelHandle;
use crate::ffi::adapter::mcandle_adapter;
use crate::ffi::error::{MCANDLE_INVALID_ARGUMENT, mcandle_error, mcandle_status};
use crate::ffi::exclusive::Exclusive;
use crate::ffi::handle::{self, Out, Result, borrow, place};
use crate::ffi::model::mcandle_model;
use crate::ffi::panic::guard;
use crate::ffi::task::{self, Completion};
use crate::models::Model;
use crate::training::{Dataset, LoRATrainer, TrainOptions};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// Fine-tunes a model: an adapter beside it, or a copy of its weights. The model itself does not
/// change.
///
/// It serves one call at a time; another call meanwhile gets MCANDLE_BUSY.
#[derive(Debug)]
pub struct mcandle_trainer {
    /// Shared with the thread that trains.
    inner: Arc<Exclusive<LoRATrainer>>,
    cancel: CancelHandle,
    total_steps: usize,
}

impl Drop for mcandle_trainer {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl mcandle_trainer {
    fn new(inner: LoRATrainer) -> Self {
        Self {
            cancel: inner.cancel_handle(),
            total_steps: inner.total_steps(),
            inner: Arc::new(Exclusive::new(inner)),
        }
    }
}

/// What every trainer is made from.
struct Inputs<'a> {
    model: &'a Model,
    train: Dataset,
    validation: Option<Dataset>,
    options: TrainOptions,
}

impl Inputs<'_> {
    /// # Safety
    ///
    /// The pointers are NULL or objects that stay alive for `'a`.
    unsafe fn new(
        model: *const mcandle_model,
        train: *const mcandle_dataset,
        validation: *const mcandle_dataset,
        options: *const mcandle_train_options,
    ) -> Result<Self> {
        // SAFETY: as the caller promises.
        unsafe {
            Ok(Self {
                model: &borrow(model, "model")?.inner,
                train: borrow(train, "train")?.inner.clone(),
                validation: validation.as_ref().map(|rows| rows.inner.clone()),
                options: resolve(options)?,
            })
        }
    }
}

/// Makes a trainer from the start: with a new adapter, or from the weights of the model.
///
/// @param[in] model The model; it need not outlive the trainer.
/// @param[in] train The rows to train on; they need not outlive the trainer.
/// @param[in] validation The rows to evaluate on, or NULL for no evaluation.
/// @param[in] options Options, or NULL for the defaults.
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
            let of = Inputs::new(model, train, validation, options)?;
            let out = Out::new(trainer, "trainer")?;
            let inner = LoRATrainer::new(of.model, of.train, of.validation, of.options)?;
            out.give(mcandle_trainer::new(inner));
            Ok(())
        })
    }
}

/// Makes a trainer that goes on with an adapter, with a new optimizer and from step 0.
///
/// @param[in] model The model; it need not outlive the trainer.
/// @param[in] train The rows to train on; they need not outlive the trainer.
/// @param[in] validation The rows to evaluate on, or NULL for no evaluation.
/// @param[in] options Options, or NULL for the defaults. The settings of the adapter take the place
/// of their method.
/// @param[in] adapter The adapter, which does not change; it need not outlive the trainer.
/// @param[out] trainer Receives the trainer on success, to be freed with mcandle_trainer_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return As mcandle_trainer_new(); MCANDLE_INVALID_ARGUMENT also where the adapter is for a model of
/// another shape.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_from_adapter(
    model: *const mcandle_model,
    train: *const mcandle_dataset,
    validation: *const mcandle_dataset,
    options: *const mcandle_train_options,
    adapter: *const mcandle_adapter,
    trainer: *mut *mut mcandle_trainer,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let of = Inputs::new(model, train, validation, options)?;
            let adapter = borrow(adapter, "adapter")?.inner.clone();
            let out = Out::new(trainer, "trainer")?;
            let inner =
                LoRATrainer::from_adapter(of.model, of.train, of.validation, of.options, adapter)?;
            out.give(mcandle_trainer::new(inner));
            Ok(())
        })
    }
}

/// Makes a trainer that goes on where a checkpoint was written. On the CPU its losses are, bit for
/// bit, those of the run that was not interrupted.
///
/// @param[in] model The model of the earlier run.
/// @param[in] train The rows of the earlier run.
/// @param[in] validation The rows to evaluate on, or NULL for no evaluation.
/// @param[in] options The options of the earlier run, or NULL for the defaults; what does not
/// change the losses may differ.
/// @param[in] checkpoint The directory of the checkpoint, NUL-terminated UTF-8.
/// @param[out] trainer Receives the trainer on success, to be freed with mcandle_trainer_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return As mcandle_trainer_new(), and MCANDLE_NOT_FOUND, MCANDLE_IO, MCANDLE_INVALID_FORMAT,
/// MCANDLE_INVALID_UTF8, or MCANDLE_INCOMPATIBLE where the checkpoint was made with other settings or
/// rows.
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
            let of = Inputs::new(model, train, validation, options)?;
            let checkpoint = handle::path(checkpoint, "checkpoint")?;
            let out = Out::new(trainer, "trainer")?;
            let inner =
                LoRATrainer::resume(of.model, of.train, of.validation, of.options, checkpoint)?;
            out.give(mcandle_trainer::new(inner));
            Ok(())
        })
    }
}

/// Trains until all steps are done, or until the callback or another thread stops it.
///
/// A run that is cancelled leaves a checkpoint of its last whole step where there is an output
/// directory, and another call goes on.
///
/// @param[in,out] trainer The trainer.
/// @param[in] callback Receives what happens; may be NULL.
/// @param[in] user_data Given to the callback as it is; not used after the call.
/// @param[out] summary Receives how it ended, also when it was stopped, to be freed with
/// mcandle_train_summary_free(); may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, also when it was stopped, or MCANDLE_NON_FINITE with the rows and the last
/// checkpoint in the message, MCANDLE_INVALID_ARGUMENT where the output directory has the checkpoints
/// of another run, MCANDLE_IO, MCANDLE_INVALID_FORMAT where what is in that directory is damaged,
/// MCANDLE_BACKEND, MCANDLE_BUSY, MCANDLE_NULL_POINTER. What is trained is after MCANDLE_NON_FINITE as
/// it was before the step.
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
            let on_event = on_event(callback, user_data);
            let ended = trainer
                .inner
                .with("trainer", |inner| Ok(inner.train(on_event)?))?;
            handle::give_object(summary, mcandle_train_summary::new(ended));
            Ok(())
        })
    }
}

/// Receives how a training ended, once, on the thread of the library that trained.
///
/// The trainer is free again: it may be used, or freed.
///
/// @param[in] summary How it ended, also when it was stopped, which then belongs to the function,
/// to be freed with mcandle_train_summary_free(); NULL where it failed.
/// @param[in] error Why it failed, which then belongs to the function, to be freed with
/// mcandle_error_free(); NULL where it did not fail.
/// @param[in] user_data As it was given with the callbacks.
pub type mcandle_train_completion = Option<
    unsafe extern "C-unwind" fn(
        summary: *mut mcandle_train_summary,
        error: *mut mcandle_error,
        user_data: *mut c_void,
    ),
>;

/// Trains as mcandle_trainer_train() does, on a thread of the library, and returns at once.
///
/// While it trains, other calls with the trainer get MCANDLE_BUSY; mcandle_trainer_cancel() stops
/// it, and so does mcandle_trainer_free(), which does not wait. The completion is called in any
/// case. A program that has threads of its own can as well call mcandle_trainer_train() on one of
/// them.
///
/// @param[in,out] trainer The trainer.
/// @param[in] callback Receives what happens, on the thread of the library; may be NULL.
/// @param[in] completion Receives the summary or an error, exactly once where the call succeeds,
/// and not where it fails.
/// @param[in] user_data Given to callback and completion as it is; it must stay valid until the
/// completion returns.
/// @param[out] error Receives an error where nothing was started; may be NULL.
/// @return MCANDLE_OK where it was started, or MCANDLE_BUSY, MCANDLE_OUT_OF_MEMORY where there is
/// no room for a thread, MCANDLE_NULL_POINTER. What else mcandle_trainer_train() returns is the
/// status of the error that the completion receives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_train_async(
    trainer: *mut mcandle_trainer,
    callback: mcandle_train_callback,
    completion: mcandle_train_completion,
    user_data: *mut c_void,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live trainer, a writable output or NULL, and callbacks that may be
    // called with `user_data` on another thread.
    unsafe {
        guard(error, || {
            let trainer = borrow(trainer, "trainer")?;
            let on_event = on_event(callback, user_data);
            let completion = Completion::new(completion, user_data)?;
            let taken = trainer.inner.take("trainer")?;
            let announced = trainer.cancel.announce();
            task::start(completion, move || {
                let ended = taken.with(|inner| {
                    let ended = inner.train(on_event);
                    drop(announced);
                    Ok(ended?)
                })?;
                Ok(mcandle_train_summary::new(ended))
            })
        })
    }
}

/// Stops the training or evaluation that runs, within a step. Any thread may call it at any time while
/// the trainer lives; without a running one it does nothing.
///
/// @param[in] trainer The trainer; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_cancel(trainer: *const mcandle_trainer) {
    // SAFETY: the caller passes NULL or a live trainer, whose handle is shared between threads.
    if let Some(trainer) = unsafe { trainer.as_ref() } {
        trainer.cancel.cancel();
    }
}

/// Evaluates the validation rows with what is trained so far, as the events of evaluations do.
///
/// @param[in] trainer The trainer.
/// @param[out] loss Receives the mean negative log-likelihood of a target token, or the mean loss of a
/// pair where preferences are learned; NaN where there are no validation rows.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NON_FINITE, MCANDLE_CANCELLED, MCANDLE_BACKEND, MCANDLE_BUSY,
/// MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_evaluate(
    trainer: *const mcandle_trainer,
    loss: *mut f64,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live trainer and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let trainer = borrow(trainer, "trainer")?;
            let out = place(loss, "loss")?;
            let loss = trainer.inner.with("trainer", |inner| {
                // What stopped the last training does not stop this.
                trainer.cancel.reset();
                Ok(inner.evaluate()?)
            })?;
            out.write(loss.unwrap_or(f64::NAN));
            Ok(())
        })
    }
}

/// Gives the number of steps of the whole run: those of the options, or those that the epochs take.
///
/// @param[in] trainer The trainer, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_total_steps(trainer: *const mcandle_trainer) -> usize {
    // SAFETY: the caller passes NULL or a live trainer.
    unsafe { trainer.as_ref() }.map_or(0, |trainer| trainer.total_steps)
}

/// Gives the adapter as trained so far.
///
/// @param[in] trainer The trainer.
/// @param[out] adapter Receives a copy on success, to be freed with mcandle_adapter_free(); further
/// training does not change it.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT where the weights of the model are trained,
/// MCANDLE_BUSY, MCANDLE_NULL_POINTER.
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

/// Gives the model as trained so far: with the adapter merged into its weights, or with its new weights.
///
/// @param[in] trainer The trainer.
/// @param[out] model Receives a model of its own on success, to be freed with mcandle_model_free();
/// further training does not change it.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_BACKEND where there is too little memory, MCANDLE_BUSY,
/// MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_model(
    trainer: *const mcandle_trainer,
    model: *mut *mut mcandle_model,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live trainer and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let trainer = borrow(trainer, "trainer")?;
            let out = Out::new(model, "model")?;
            let inner = trainer
                .inner
                .with("trainer", |inner| Ok(inner.trained_model()?))?;
            out.give(mcandle_model { inner });
            Ok(())
        })
    }
}

/// Writes a checkpoint, from which mcandle_trainer_resume() goes on.
///
/// @param[in] trainer The trainer.
/// @param[in] path The directory, NUL-terminated UTF-8, which appears whole or not at all.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_IO, MCANDLE_INVALID_FORMAT where the path names no directory,
/// MCANDLE_BACKEND, MCANDLE_BUSY, and those of bad arguments.
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

/// Frees a trainer, and stops a training that a thread of the library is doing with it: that ends
/// within a step, leaves a checkpoint where there is an output directory, and its completion is
/// still called. No other call may be using it.
///
/// @param[in] trainer The trainer; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_trainer_free(trainer: *mut mcandle_trainer) {
    // SAFETY: the caller passes NULL or a trainer that it owns.
    unsafe { handle::free(trainer) }
}
