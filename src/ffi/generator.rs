//! Generators.

use super::adapter::mcandle_adapter;
use super::error::{MCANDLE_INVALID_ARGUMENT, mcandle_error, mcandle_status};
use super::exclusive::Exclusive;
use super::generate_options::{mcandle_generate_options, resolve};
use super::generation::{mcandle_chunk_callback, mcandle_generation, on_chunk};
use super::handle::{self, Out, Result, borrow};
use super::logits_processor::{CallbackProcessor, mcandle_logits_callback};
use super::model::mcandle_model;
use super::panic::guard;
use super::prompt::Prompt;
use super::string::mcandle_tokens;
use super::user_data::{UserData, mcandle_free_callback};
use crate::cancel::CancelHandle;
use crate::inference::{GenerateOptions, Generator};
use crate::models::KvCacheType;
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// How keys and values are kept: one of the MCANDLE_CACHE_ constants.
pub type mcandle_cache_type = i32;

/// In the number format of the model.
pub const MCANDLE_CACHE_FULL: mcandle_cache_type = 0;
/// In eight bits: about half the memory of 16 bits, a quarter of that of 32. Tokens take somewhat
/// longer, and a few may differ.
pub const MCANDLE_CACHE_INT8: mcandle_cache_type = 1;

pub(super) fn cache_type_of(cache_type: mcandle_cache_type) -> Result<KvCacheType> {
    match cache_type {
        MCANDLE_CACHE_FULL => Ok(KvCacheType::Full),
        MCANDLE_CACHE_INT8 => Ok(KvCacheType::Int8),
        other => Err(mcandle_error::new(
            MCANDLE_INVALID_ARGUMENT,
            format!("`cache_type` is {other}; expected one of the MCANDLE_CACHE_ constants"),
        )),
    }
}

/// Generates text with a model, and the adapters that are active on it or that were set.
///
/// It keeps what it has read: where a prompt starts as the last prompt and its answer did, that start
/// is not computed again. So a conversation costs only what is new in it.
///
/// It serves one call at a time; another call meanwhile gets MCANDLE_BUSY. Make one for each thread:
/// they share the weights of the model.
#[derive(Debug)]
pub struct mcandle_generator {
    /// Shared with the thread that generates.
    pub(super) inner: Arc<Exclusive<Generator>>,
    pub(super) cancel: CancelHandle,
}

impl Drop for mcandle_generator {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl mcandle_generator {
    fn new(inner: Generator) -> Self {
        Self {
            cancel: inner.cancel_handle(),
            inner: Arc::new(Exclusive::new(inner)),
        }
    }
}

/// Makes a generator.
///
/// @param[in] model The model; it need not outlive the generator.
/// @param[out] generator Receives the generator on success, to be freed with
/// mcandle_generator_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_new(
    model: *const mcandle_model,
    generator: *mut *mut mcandle_generator,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let out = Out::new(generator, "generator")?;
            out.give(mcandle_generator::new(Generator::new(&model.inner)));
            Ok(())
        })
    }
}

/// Makes a generator that keeps keys and values in another form.
///
/// @param[in] model The model; it need not outlive the generator.
/// @param[in] cache_type One of the MCANDLE_CACHE_ constants. mcandle_generator_new() takes
/// MCANDLE_CACHE_FULL.
/// @param[out] generator Receives the generator on success, to be freed with
/// mcandle_generator_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_new_with_cache_type(
    model: *const mcandle_model,
    cache_type: mcandle_cache_type,
    generator: *mut *mut mcandle_generator,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let cache_type = cache_type_of(cache_type)?;
            let out = Out::new(generator, "generator")?;
            let inner = Generator::with_cache_type(&model.inner, cache_type);
            out.give(mcandle_generator::new(inner));
            Ok(())
        })
    }
}

/// Makes a generator that has read the same as another, and goes its own way from here: two
/// continuations of one conversation. It has the same adapter and draft model, and no logits
/// callback.
///
/// @param[in] generator The generator to copy.
/// @param[out] fork Receives the copy on success, to be freed with mcandle_generator_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_BACKEND where memory is lacking, MCANDLE_BUSY,
/// MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_fork(
    generator: *const mcandle_generator,
    fork: *mut *mut mcandle_generator,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live generator and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let out = Out::new(fork, "fork")?;
            let inner = generator
                .inner
                .with("generator", |inner| Ok(inner.fork()?))?;
            out.give(mcandle_generator::new(inner));
            Ok(())
        })
    }
}

/// Uses an adapter from the next generation on, whatever is active on the model. What was read before
/// is forgotten.
///
/// @param[in,out] generator The generator.
/// @param[in] adapter The adapter, or NULL for those that are active on the model; it need not
/// outlive the call.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT where the adapter is for another model,
/// MCANDLE_BUSY, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_set_adapter(
    generator: *mut mcandle_generator,
    adapter: *const mcandle_adapter,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects or NULL.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let adapter = adapter.as_ref().map(|adapter| adapter.inner.clone());
            generator
                .inner
                .with("generator", |inner| Ok(inner.set_adapter(adapter)?))
        })
    }
}

/// Lets a smaller model draft tokens that the generator's model checks, several at once.
///
/// Greedy text stays the same, and sampled text keeps its distribution. It pays where the smaller
/// model is much faster and mostly right; mcandle_generation_accepted_tokens() tells.
///
/// @param[in,out] generator The generator.
/// @param[in] draft The smaller model, or NULL for none; it need not outlive the call.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT where it has other tokens, MCANDLE_BUSY,
/// MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_set_draft_model(
    generator: *mut mcandle_generator,
    draft: *const mcandle_model,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects or NULL.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let draft = draft.as_ref().map(|draft| &draft.inner);
            generator
                .inner
                .with("generator", |inner| Ok(inner.set_draft_model(draft)?))
        })
    }
}

/// Lets a callback change the logits of every token from the next generation on.
///
/// The user data belongs to the generator from this call on, also where the call fails. It is freed
/// when the callback is replaced or removed, or the generator is freed; at once where the call fails
/// or the callback is NULL. Callback and user data may be used by every thread that uses the
/// generator.
///
/// @param[in,out] generator The generator.
/// @param[in] callback The callback, or NULL for none.
/// @param[in] user_data Given to the callback as it is.
/// @param[in] free_user_data Called once to free the user data; may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_BUSY, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_set_logits_processor(
    generator: *mut mcandle_generator,
    callback: mcandle_logits_callback,
    user_data: *mut c_void,
    free_user_data: mcandle_free_callback,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live generator or NULL, and callbacks that may be called with
    // `user_data`.
    unsafe {
        let processor = CallbackProcessor::new(callback, UserData::new(user_data, free_user_data));
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            generator.inner.with("generator", |inner| {
                match processor {
                    Some(processor) => inner.set_logits_processor(processor),
                    None => inner.remove_logits_processor(),
                }
                Ok(())
            })
        })
    }
}

/// Continues a text, and hands each token to a callback as it comes.
///
/// @param[in,out] generator The generator.
/// @param[in] prompt The text in UTF-8.
/// @param[in] prompt_length Its length in bytes.
/// @param[in] options Options, or NULL for the defaults.
/// @param[in] callback Receives each token; may be NULL.
/// @param[in] user_data Given to the callback as it is; not used after the call.
/// @param[out] generation Receives the finished generation, also when it was stopped, to be freed
/// with mcandle_generation_free(); may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, also when it was stopped, or MCANDLE_INVALID_UTF8, MCANDLE_INVALID_ARGUMENT,
/// MCANDLE_CONTEXT_FULL, MCANDLE_TOKENIZER, MCANDLE_BUSY, MCANDLE_NON_FINITE, MCANDLE_BACKEND,
/// MCANDLE_NULL_POINTER; MCANDLE_CANCELLED where a logits callback failed it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_generate(
    generator: *mut mcandle_generator,
    prompt: *const c_char,
    prompt_length: usize,
    options: *const mcandle_generate_options,
    callback: mcandle_chunk_callback,
    user_data: *mut c_void,
    generation: *mut *mut mcandle_generation,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, readable text and writable outputs, or NULL, and a
    // callback that may be called with `user_data`.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let prompt = Prompt::text(prompt, prompt_length)?;
            let options = resolve(options)?;
            run(
                generator, &prompt, &options, callback, user_data, generation,
            )
        })
    }
}

/// Continues token ids, as mcandle_generator_generate() continues a text. The model needs no
/// tokenizer.
///
/// @param[in,out] generator The generator.
/// @param[in] ids The token ids of the prompt.
/// @param[in] id_count Their number.
/// @param[in] options Options, or NULL for the defaults.
/// @param[in] callback Receives each token; may be NULL.
/// @param[in] user_data Given to the callback as it is; not used after the call.
/// @param[out] generation Receives the finished generation, also when it was stopped, to be freed
/// with mcandle_generation_free(); may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return As mcandle_generator_generate(); MCANDLE_INVALID_ARGUMENT also for an id outside the
/// vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_generate_from_ids(
    generator: *mut mcandle_generator,
    ids: *const u32,
    id_count: usize,
    options: *const mcandle_generate_options,
    callback: mcandle_chunk_callback,
    user_data: *mut c_void,
    generation: *mut *mut mcandle_generation,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, readable ids and writable outputs, or NULL, and a
    // callback that may be called with `user_data`.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let prompt = Prompt::ids(ids, id_count)?;
            let options = resolve(options)?;
            run(
                generator, &prompt, &options, callback, user_data, generation,
            )
        })
    }
}

/// Runs a generation, and gives it where there is a place for it.
///
/// # Safety
///
/// `generation` is NULL or writable, and the callback may be called with `user_data` during the call.
pub(super) unsafe fn run(
    generator: &mcandle_generator,
    prompt: &Prompt,
    options: &GenerateOptions,
    callback: mcandle_chunk_callback,
    user_data: *mut c_void,
    generation: *mut *mut mcandle_generation,
) -> Result<()> {
    // SAFETY: as the caller promises.
    let on_chunk = unsafe { on_chunk(callback, user_data) };
    let finished = generator.inner.with("generator", |inner| {
        Ok(prompt.generate(inner, options, on_chunk)?)
    })?;
    // SAFETY: as the caller promises.
    unsafe { handle::give_object(generation, mcandle_generation::new(finished)) };
    Ok(())
}

/// Gives the tokens that were read and are kept: the last prompt, and its answer but for the last
/// token.
///
/// @param[in] generator The generator.
/// @param[out] context Receives a copy on success, to be freed with mcandle_tokens_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_BUSY, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_context(
    generator: *const mcandle_generator,
    context: *mut *mut mcandle_tokens,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live generator and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let out = Out::new(context, "context")?;
            let ids = generator
                .inner
                .with("generator", |inner| Ok(inner.context().to_vec()))?;
            out.give(mcandle_tokens { ids });
            Ok(())
        })
    }
}

/// Forgets tokens at the end of what was read.
///
/// @param[in,out] generator The generator.
/// @param[in] length How many tokens are left; 0 forgets all, and more than there are changes
/// nothing.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_BUSY, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_truncate(
    generator: *mut mcandle_generator,
    length: usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live generator or NULL.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            generator.inner.with("generator", |inner| {
                inner.truncate(length);
                Ok(())
            })
        })
    }
}

/// Saves what a generator has read, so that mcandle_generator_load_session() goes on from it at
/// another time or in another process.
///
/// @param[in] generator The generator. Adapter, draft model and logits callback are not saved.
/// @param[in] path The file, NUL-terminated UTF-8, which appears whole or not at all; folders above
/// it are made.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_IO, MCANDLE_INVALID_FORMAT where the path names no file,
/// MCANDLE_BACKEND, MCANDLE_BUSY, and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_save_session(
    generator: *const mcandle_generator,
    path: *const c_char,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live generator and a NUL-terminated path, or NULL.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let path = handle::path(path, "path")?;
            generator
                .inner
                .with("generator", |inner| Ok(inner.save_session(path)?))
        })
    }
}

/// Goes on from a file that mcandle_generator_save_session() wrote. Keys and values then are in the
/// form of the saved ones. A generator whose call fails is as before.
///
/// @param[in,out] generator The generator, with the model and adapter that the file was saved with.
/// @param[in] path The file, NUL-terminated UTF-8.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NOT_FOUND, MCANDLE_IO, MCANDLE_INVALID_FORMAT where it is no
/// session, MCANDLE_INCOMPATIBLE where it belongs to another model or adapter, MCANDLE_BACKEND,
/// MCANDLE_BUSY, and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_load_session(
    generator: *mut mcandle_generator,
    path: *const c_char,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live generator and a NUL-terminated path, or NULL.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let path = handle::path(path, "path")?;
            generator
                .inner
                .with("generator", |inner| Ok(inner.load_session(path)?))
        })
    }
}

/// Stops the generation that runs, before its next token. Any thread may call it at any time while
/// the generator lives; without a running generation it does nothing.
///
/// @param[in] generator The generator; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_cancel(generator: *const mcandle_generator) {
    // SAFETY: the caller passes NULL or a live generator, whose handle is shared between threads.
    if let Some(generator) = unsafe { generator.as_ref() } {
        generator.cancel.cancel();
    }
}

/// Frees a generator, and stops a generation that a thread of the library is doing with it: that
/// ends before its next token, and its completion is still called. No other call may be using it.
///
/// @param[in] generator The generator; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_free(generator: *mut mcandle_generator) {
    // SAFETY: the caller passes NULL or a generator that it owns.
    unsafe { handle::free(generator) }
}
