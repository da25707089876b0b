//! Generations on a thread of the library.

use super::error::{mcandle_error, mcandle_status};
use super::fim::mcandle_fim_context;
use super::generate_options::{mcandle_generate_options, resolve};
use super::generation::{mcandle_chunk_callback, mcandle_generation, on_chunk};
use super::generator::mcandle_generator;
use super::handle::{Result, borrow};
use super::panic::guard;
use super::prompt::Prompt;
use super::task::{self, Completion};
use crate::inference::GenerateOptions;
use std::ffi::{c_char, c_void};

/// Receives what became of a generation, once, on the thread of the library that generated.
///
/// The generator is free again: it may be used for the next generation, or freed.
///
/// @param[in] generation The finished generation, also when it was stopped, which then belongs to
/// the function, to be freed with mcandle_generation_free(); NULL where it failed.
/// @param[in] error Why it failed, which then belongs to the function, to be freed with
/// mcandle_error_free(); NULL where it did not fail.
/// @param[in] user_data As it was given with the callbacks.
pub type mcandle_generation_completion = Option<
    unsafe extern "C-unwind" fn(
        generation: *mut mcandle_generation,
        error: *mut mcandle_error,
        user_data: *mut c_void,
    ),
>;

/// Continues a text as mcandle_generator_generate() does, on a thread of the library, and returns
/// at once.
///
/// While it generates, other calls with the generator get MCANDLE_BUSY; mcandle_generator_cancel()
/// stops it, and so does mcandle_generator_free(), which does not wait. The completion is called in
/// any case. A program that has threads of its own can as well call mcandle_generator_generate() on
/// one of them.
///
/// @param[in,out] generator The generator.
/// @param[in] prompt The text in UTF-8; it is copied.
/// @param[in] prompt_length Its length in bytes.
/// @param[in] options Options, or NULL for the defaults; they are copied.
/// @param[in] callback Receives each token, on the thread of the library; may be NULL.
/// @param[in] completion Receives the generation or an error, exactly once where the call succeeds,
/// and not where it fails.
/// @param[in] user_data Given to callback and completion as it is; it must stay valid until the
/// completion returns.
/// @param[out] error Receives an error where nothing was started; may be NULL.
/// @return MCANDLE_OK where it was started, or MCANDLE_INVALID_UTF8, MCANDLE_INVALID_ARGUMENT,
/// MCANDLE_BUSY, MCANDLE_OUT_OF_MEMORY where there is no room for a thread, MCANDLE_NULL_POINTER.
/// What else mcandle_generator_generate() returns is the status of the error that the completion
/// receives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_generate_async(
    generator: *mut mcandle_generator,
    prompt: *const c_char,
    prompt_length: usize,
    options: *const mcandle_generate_options,
    callback: mcandle_chunk_callback,
    completion: mcandle_generation_completion,
    user_data: *mut c_void,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, readable text and a writable output, or NULL, and
    // callbacks that may be called with `user_data` on another thread.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let prompt = Prompt::text(prompt, prompt_length)?;
            let options = resolve(options)?;
            start(generator, prompt, options, callback, completion, user_data)
        })
    }
}

/// Continues token ids as mcandle_generator_generate_from_ids() does, on a thread of the library,
/// and returns at once; all else is as with mcandle_generator_generate_async().
///
/// @param[in,out] generator The generator.
/// @param[in] ids The token ids of the prompt; they are copied.
/// @param[in] id_count Their number.
/// @param[in] options Options, or NULL for the defaults; they are copied.
/// @param[in] callback Receives each token, on the thread of the library; may be NULL.
/// @param[in] completion Receives the generation or an error, exactly once where the call succeeds,
/// and not where it fails.
/// @param[in] user_data Given to callback and completion as it is; it must stay valid until the
/// completion returns.
/// @param[out] error Receives an error where nothing was started; may be NULL.
/// @return As mcandle_generator_generate_async().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_generate_from_ids_async(
    generator: *mut mcandle_generator,
    ids: *const u32,
    id_count: usize,
    options: *const mcandle_generate_options,
    callback: mcandle_chunk_callback,
    completion: mcandle_generation_completion,
    user_data: *mut c_void,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, readable ids and a writable output, or NULL, and
    // callbacks that may be called with `user_data` on another thread.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let prompt = Prompt::ids(ids, id_count)?;
            let options = resolve(options)?;
            start(generator, prompt, options, callback, completion, user_data)
        })
    }
}

/// Answers the last message of a conversation as mcandle_generator_chat() does, on a thread of the
/// library, and returns at once; all else is as with mcandle_generator_generate_async().
///
/// @param[in,out] generator The generator.
/// @param[in] messages The whole conversation as a JSON array, as mcandle_generator_chat() takes
/// it; it is copied.
/// @param[in] messages_length Its length in bytes.
/// @param[in] chat_options A JSON object, as mcandle_generator_chat() takes it, or NULL for the
/// defaults; it is copied.
/// @param[in] chat_options_length Its length in bytes.
/// @param[in] options Options, or NULL for the defaults; they are copied.
/// @param[in] callback Receives each token, on the thread of the library; may be NULL.
/// @param[in] completion Receives the generation or an error, exactly once where the call succeeds,
/// and not where it fails.
/// @param[in] user_data Given to callback and completion as it is; it must stay valid until the
/// completion returns.
/// @param[out] error Receives an error where nothing was started; may be NULL.
/// @return As mcandle_generator_generate_async().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_chat_async(
    generator: *mut mcandle_generator,
    messages: *const c_char,
    messages_length: usize,
    chat_options: *const c_char,
    chat_options_length: usize,
    options: *const mcandle_generate_options,
    callback: mcandle_chunk_callback,
    completion: mcandle_generation_completion,
    user_data: *mut c_void,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, readable texts and a writable output, or NULL, and
    // callbacks that may be called with `user_data` on another thread.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let prompt =
                Prompt::chat(messages, messages_length, chat_options, chat_options_length)?;
            let options = resolve(options)?;
            start(generator, prompt, options, callback, completion, user_data)
        })
    }
}

/// Writes the code between a prefix and a suffix as mcandle_generator_complete() does, on a thread
/// of the library, and returns at once; all else is as with mcandle_generator_generate_async().
///
/// @param[in,out] generator The generator.
/// @param[in] prefix The code before in UTF-8; it is copied. May be NULL where the length is 0.
/// @param[in] prefix_length Its length in bytes.
/// @param[in] suffix The code after in UTF-8; it is copied. May be NULL where the length is 0.
/// @param[in] suffix_length Its length in bytes.
/// @param[in] context What else of the repository the model is shown, or NULL; it is copied.
/// @param[in] options Options, or NULL for the defaults; they are copied.
/// @param[in] callback Receives each token, on the thread of the library; may be NULL.
/// @param[in] completion Receives the generation or an error, exactly once where the call succeeds,
/// and not where it fails.
/// @param[in] user_data Given to callback and completion as it is; it must stay valid until the
/// completion returns.
/// @param[out] error Receives an error where nothing was started; may be NULL.
/// @return As mcandle_generator_generate_async().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_complete_async(
    generator: *mut mcandle_generator,
    prefix: *const c_char,
    prefix_length: usize,
    suffix: *const c_char,
    suffix_length: usize,
    context: *const mcandle_fim_context,
    options: *const mcandle_generate_options,
    callback: mcandle_chunk_callback,
    completion: mcandle_generation_completion,
    user_data: *mut c_void,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, readable texts and a writable output, or NULL, and
    // callbacks that may be called with `user_data` on another thread.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let prompt = Prompt::middle(prefix, prefix_length, suffix, suffix_length, context)?;
            let options = resolve(options)?;
            start(generator, prompt, options, callback, completion, user_data)
        })
    }
}

/// # Safety
///
/// The callbacks may be called with `user_data` on another thread until the completion returns.
unsafe fn start(
    generator: &mcandle_generator,
    prompt: Prompt,
    options: GenerateOptions,
    callback: mcandle_chunk_callback,
    completion: mcandle_generation_completion,
    user_data: *mut c_void,
) -> Result<()> {
    // SAFETY: as the caller promises.
    let (completion, on_chunk) = unsafe {
        let completion = Completion::new(completion, user_data)?;
        (completion, on_chunk(callback, user_data))
    };
    let taken = generator.inner.take("generator")?;
    let announced = generator.cancel.announce();
    task::start(completion, move || {
        let finished = taken.with(|inner| {
            let finished = prompt.generate(inner, &options, on_chunk);
            drop(announced);
            Ok(finished?)
        })?;
        Ok(mcandle_generation::new(finished))
    })
}
