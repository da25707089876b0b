//! Batches: many texts at once.

use super::adapter::mcandle_adapter;
use super::batch_results::mcandle_batch_results;
use super::error::{mcandle_error, mcandle_status};
use super::exclusive::Exclusive;
use super::generate_options::{mcandle_generate_options, resolve};
use super::generation::{mcandle_chunk_callback, on_chunk};
use super::handle::{self, Out, borrow};
use super::logits_processor::{CallbackProcessor, mcandle_logits_callback};
use super::model::mcandle_model;
use super::panic::guard;
use super::task::{self, Completion};
use super::user_data::{UserData, mcandle_free_callback};
use crate::cancel::CancelHandle;
use crate::inference::BatchGenerator;
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// Generates many texts at the same time, each with options of its own.
///
/// The weights are read once for the next tokens of all texts, so that a batch takes little longer
/// than its longest text alone. Each text gets the tokens that it gets alone, but for rounding.
/// Finished texts leave and waiting ones join. Nothing is drafted.
///
/// It serves one call at a time; another call meanwhile gets MCANDLE_BUSY.
#[derive(Debug)]
pub struct mcandle_batch {
    /// Shared with the thread that generates.
    inner: Arc<Exclusive<BatchGenerator>>,
    cancel: CancelHandle,
}

impl Drop for mcandle_batch {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Makes a batch without texts.
///
/// @param[in] model The model; it need not outlive the batch.
/// @param[in] max_batch_size The most texts to work on at once, at least 1; more wait. Memory grows
/// with it.
/// @param[out] batch Receives the batch on success, to be freed with mcandle_batch_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_new(
    model: *const mcandle_model,
    max_batch_size: usize,
    batch: *mut *mut mcandle_batch,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let out = Out::new(batch, "batch")?;
            let inner = BatchGenerator::new(&model.inner, max_batch_size)?;
            out.give(mcandle_batch {
                cancel: inner.cancel_handle(),
                inner: Arc::new(Exclusive::new(inner)),
            });
            Ok(())
        })
    }
}

/// Uses an adapter for the texts that are added from now on, whatever is active on the model.
///
/// @param[in,out] batch The batch. Texts that it has already go on as they are.
/// @param[in] adapter The adapter, or NULL for those that are active on the model when a text is
/// added; it need not outlive the call.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT where the adapter is for another model,
/// MCANDLE_BUSY, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_set_adapter(
    batch: *mut mcandle_batch,
    adapter: *const mcandle_adapter,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects or NULL.
    unsafe {
        guard(error, || {
            let batch = borrow(batch, "batch")?;
            let adapter = adapter.as_ref().map(|adapter| adapter.inner.clone());
            batch
                .inner
                .with("batch", |inner| Ok(inner.set_adapter(adapter)?))
        })
    }
}

/// Adds a text to be continued, also between steps, while others are being generated.
///
/// @param[in,out] batch The batch.
/// @param[in] prompt The text in UTF-8; it is copied.
/// @param[in] prompt_length Its length in bytes.
/// @param[in] options Options, or NULL for the defaults; they are copied.
/// @param[out] sequence Receives the number of the text, which counts from 0; may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_UTF8, MCANDLE_INVALID_ARGUMENT, MCANDLE_CONTEXT_FULL,
/// MCANDLE_TOKENIZER, MCANDLE_BUSY, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_push(
    batch: *mut mcandle_batch,
    prompt: *const c_char,
    prompt_length: usize,
    options: *const mcandle_generate_options,
    sequence: *mut usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, readable text and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let batch = borrow(batch, "batch")?;
            let prompt = handle::text(prompt, prompt_length, "prompt")?;
            let options = resolve(options)?;
            let number = batch
                .inner
                .with("batch", |inner| Ok(inner.push(prompt, &options)?))?;
            handle::give_number(sequence, number);
            Ok(())
        })
    }
}

/// Adds token ids to be continued, as mcandle_batch_push() adds a text. The model needs no tokenizer.
///
/// @param[in,out] batch The batch.
/// @param[in] ids The token ids of the prompt; they are copied.
/// @param[in] id_count Their number.
/// @param[in] options Options, or NULL for the defaults; they are copied.
/// @param[out] sequence Receives the number of the text; may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return As mcandle_batch_push(); MCANDLE_INVALID_ARGUMENT also for an id outside the vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_push_ids(
    batch: *mut mcandle_batch,
    ids: *const u32,
    id_count: usize,
    options: *const mcandle_generate_options,
    sequence: *mut usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, readable ids and writable outputs, or NULL; there is no
    // callback.
    unsafe {
        let nothing = std::ptr::null_mut();
        mcandle_batch_push_ids_with(
            batch, ids, id_count, options, None, nothing, None, sequence, error,
        )
    }
}

/// Adds token ids to be continued, as mcandle_batch_push_ids(), with a callback that changes the
/// logits of the tokens that follow.
///
/// The user data belongs to the batch from this call on, also where the call fails. It is freed when
/// the text is finished or the batch is freed; at once where the call fails or the callback is NULL.
///
/// @param[in,out] batch The batch.
/// @param[in] ids The token ids of the prompt; they are copied.
/// @param[in] id_count Their number.
/// @param[in] options Options, or NULL for the defaults; they are copied.
/// @param[in] callback Changes the logits of this text alone; may be NULL.
/// @param[in] user_data Given to the callback as it is.
/// @param[in] free_user_data Called once to free the user data; may be NULL.
/// @param[out] sequence Receives the number of the text; may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return As mcandle_batch_push(); MCANDLE_INVALID_ARGUMENT also for an id outside the vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_push_ids_with(
    batch: *mut mcandle_batch,
    ids: *const u32,
    id_count: usize,
    options: *const mcandle_generate_options,
    callback: mcandle_logits_callback,
    user_data: *mut c_void,
    free_user_data: mcandle_free_callback,
    sequence: *mut usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, readable ids and writable outputs, or NULL, and
    // callbacks that may be called with `user_data`.
    unsafe {
        let processor = CallbackProcessor::new(callback, UserData::new(user_data, free_user_data));
        guard(error, || {
            let batch = borrow(batch, "batch")?;
            let ids = handle::items(ids, id_count, "ids")?;
            let options = resolve(options)?;
            let number = batch.inner.with("batch", |inner| {
                Ok(match processor {
                    Some(processor) => inner.push_ids_with(ids, &options, processor)?,
                    None => inner.push_ids(ids, &options)?,
                })
            })?;
            handle::give_number(sequence, number);
            Ok(())
        })
    }
}

/// Gives the number of texts that are not finished.
///
/// @param[in] batch The batch.
/// @param[out] length Receives the number.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_BUSY, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_length(
    batch: *const mcandle_batch,
    length: *mut usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live batch and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let batch = borrow(batch, "batch")?;
            let length = handle::place(length, "length")?;
            length.write(batch.inner.with("batch", |inner| Ok(inner.len()))?);
            Ok(())
        })
    }
}

/// Generates until all texts are finished. A text that fails stops no other.
///
/// @param[in,out] batch The batch.
/// @param[in] callback Receives the tokens of all texts as they come; may be NULL. By returning
/// false it ends the text whose token it received.
/// @param[in] user_data Given to the callback as it is; not used after the call.
/// @param[out] results Receives what became of each text, in the order in which they finished, to be
/// freed with mcandle_batch_results_free(); may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, also where texts were stopped or failed, or MCANDLE_BUSY,
/// MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_run(
    batch: *mut mcandle_batch,
    callback: mcandle_chunk_callback,
    user_data: *mut c_void,
    results: *mut *mut mcandle_batch_results,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live batch, writable outputs or NULL, and a callback that may be
    // called with `user_data`.
    unsafe {
        guard(error, || {
            let batch = borrow(batch, "batch")?;
            let on_chunk = on_chunk(callback, user_data);
            let finished = batch.inner.with("batch", |inner| Ok(inner.run(on_chunk)))?;
            handle::give_object(results, mcandle_batch_results::new(finished));
            Ok(())
        })
    }
}

/// Receives what became of the texts of a batch, once, on the thread of the library that generated.
///
/// The batch is free again: it may be used, or freed.
///
/// @param[in] results What became of each text, which then belongs to the function, to be freed
/// with mcandle_batch_results_free(); NULL where the run failed.
/// @param[in] error Why it failed, which then belongs to the function, to be freed with
/// mcandle_error_free(); NULL where it did not fail.
/// @param[in] user_data As it was given with the callbacks.
pub type mcandle_batch_completion = Option<
    unsafe extern "C-unwind" fn(
        results: *mut mcandle_batch_results,
        error: *mut mcandle_error,
        user_data: *mut c_void,
    ),
>;

/// Generates until all texts are finished as mcandle_batch_run() does, on a thread of the library,
/// and returns at once.
///
/// While it generates, other calls with the batch get MCANDLE_BUSY; mcandle_batch_cancel() stops
/// it, and so does mcandle_batch_free(), which does not wait. The completion is called in any case.
///
/// @param[in,out] batch The batch.
/// @param[in] callback Receives the tokens of all texts, on the thread of the library; may be NULL.
/// By returning false it ends the text whose token it received.
/// @param[in] completion Receives the results, exactly once where the call succeeds, and not where
/// it fails.
/// @param[in] user_data Given to callback and completion as it is; it must stay valid until the
/// completion returns.
/// @param[out] error Receives an error where nothing was started; may be NULL.
/// @return MCANDLE_OK where it was started, or MCANDLE_BUSY, MCANDLE_OUT_OF_MEMORY where there is
/// no room for a thread, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_run_async(
    batch: *mut mcandle_batch,
    callback: mcandle_chunk_callback,
    completion: mcandle_batch_completion,
    user_data: *mut c_void,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live batch, a writable output or NULL, and callbacks that may be
    // called with `user_data` on another thread.
    unsafe {
        guard(error, || {
            let batch = borrow(batch, "batch")?;
            let on_chunk = on_chunk(callback, user_data);
            let completion = Completion::new(completion, user_data)?;
            let taken = batch.inner.take("batch")?;
            let announced = batch.cancel.announce();
            task::start(completion, move || {
                let finished = taken.with(|inner| {
                    let finished = inner.run(on_chunk);
                    drop(announced);
                    Ok(finished)
                })?;
                Ok(mcandle_batch_results::new(finished))
            })
        })
    }
}

/// Computes the next token of every text, or a part of its prompt where that is long. Texts can be
/// added between steps.
///
/// @param[in,out] batch The batch; without texts nothing is computed.
/// @param[in] callback Receives the tokens of all texts; may be NULL. By returning false it ends
/// the text whose token it received.
/// @param[in] user_data Given to the callback as it is; not used after the call.
/// @param[out] results Receives what became of the texts that finished, often none, to be freed with
/// mcandle_batch_results_free(); may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, also where texts were stopped or failed, or MCANDLE_BUSY,
/// MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_step(
    batch: *mut mcandle_batch,
    callback: mcandle_chunk_callback,
    user_data: *mut c_void,
    results: *mut *mut mcandle_batch_results,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live batch, writable outputs or NULL, and a callback that may be
    // called with `user_data`.
    unsafe {
        guard(error, || {
            let batch = borrow(batch, "batch")?;
            let on_chunk = on_chunk(callback, user_data);
            let finished = batch
                .inner
                .with("batch", |inner| Ok(inner.step(on_chunk)))?;
            handle::give_object(results, mcandle_batch_results::new(finished));
            Ok(())
        })
    }
}

/// Ends one text before its next token; the next step gives it among its results.
///
/// @param[in,out] batch The batch.
/// @param[in] sequence The number of the text.
/// @param[out] found Receives whether it was there and not finished; may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, also where it was not there, or MCANDLE_BUSY, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_cancel_sequence(
    batch: *mut mcandle_batch,
    sequence: usize,
    found: *mut bool,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live batch and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let batch = borrow(batch, "batch")?;
            let ended = batch
                .inner
                .with("batch", |inner| Ok(inner.cancel(sequence)))?;
            handle::give_number(found, ended);
            Ok(())
        })
    }
}

/// Stops all texts of the run that is under way, before their next tokens, and those that wait. Any
/// thread may call it at any time while the batch lives; between steps it stops what the next step
/// finds.
///
/// @param[in] batch The batch; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_cancel(batch: *const mcandle_batch) {
    // SAFETY: the caller passes NULL or a live batch, whose handle is shared between threads.
    if let Some(batch) = unsafe { batch.as_ref() } {
        batch.cancel.cancel();
    }
}

/// Frees a batch, and texts that are not finished. A run that a thread of the library is doing is
/// stopped: it ends before the next tokens, and its completion is still called. No other call may
/// be using the batch.
///
/// @param[in] batch The batch; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_free(batch: *mut mcandle_batch) {
    // SAFETY: the caller passes NULL or a batch that it owns.
    unsafe { handle::free(batch) }
}
