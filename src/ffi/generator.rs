//! Generators.

use super::adapter::mcandle_adapter;
use super::error::{mcandle_error, mcandle_status};
use super::handle::{self, Exclusive, Out, borrow};
use super::model::mcandle_model;
use super::panic::guard;
use super::string::mcandle_string;
use crate::cancel::CancelHandle;
use crate::inference::{FinishReason, GenerateOptions, Generation, Generator};
use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;

/// How a text is continued.
#[derive(Debug)]
pub struct mcandle_generate_options {
    inner: GenerateOptions,
}

/// Makes options with the defaults: greedy, at most 256 tokens.
///
/// @return Options, to be freed with mcandle_generate_options_free().
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_generate_options_new() -> *mut mcandle_generate_options {
    Box::into_raw(Box::new(mcandle_generate_options {
        inner: GenerateOptions::default(),
    }))
}

/// Sets the most tokens to generate. Values out of range are reported by the call that uses the
/// options; so it is for all options.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param max_tokens At least 1. Default 256.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_max_tokens(
    options: *mut mcandle_generate_options,
    max_tokens: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.max_tokens = max_tokens;
    }
}

/// Sets the temperature of sampling.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param temperature 0 for always the most likely token, or more. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_temperature(
    options: *mut mcandle_generate_options,
    temperature: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.temperature = temperature;
    }
}

/// Sets how many of the most likely tokens are sampled from.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param top_k 0 for all. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_top_k(
    options: *mut mcandle_generate_options,
    top_k: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.top_k = top_k;
    }
}

/// Sets the probability that the most likely tokens must reach together to be sampled from.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param top_p Above 0 and at most 1, which is for all. Default 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_top_p(
    options: *mut mcandle_generate_options,
    top_p: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.top_p = top_p;
    }
}

/// Sets the seed of sampling. The same seed, model and device give the same tokens.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param seed Any number. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_seed(
    options: *mut mcandle_generate_options,
    seed: u64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.seed = seed;
    }
}

/// Sets how many prompt tokens are computed at once; memory grows with it.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param prefill_chunk At least 1. Default 512.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_prefill_chunk(
    options: *mut mcandle_generate_options,
    prefill_chunk: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.prefill_chunk = prefill_chunk;
    }
}

/// Sets whether to go on after a token that ends the text.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param ignore_eos Default false.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_ignore_eos(
    options: *mut mcandle_generate_options,
    ignore_eos: bool,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.ignore_eos = ignore_eos;
    }
}

/// Frees options.
///
/// @param options The options; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_free(options: *mut mcandle_generate_options) {
    // SAFETY: the caller passes NULL or options that it owns.
    unsafe { handle::free(options) }
}

/// One generated token. It lives only during the callback that receives it.
#[derive(Debug)]
pub struct mcandle_chunk {
    index: usize,
    token: u32,
    text: mcandle_string,
}

/// Gives the place of a token among the generated ones, from 0.
///
/// @param chunk The chunk, or NULL.
/// @return The place; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_chunk_index(chunk: *const mcandle_chunk) -> usize {
    // SAFETY: the caller passes NULL or the chunk of a callback that runs.
    unsafe { chunk.as_ref() }.map_or(0, |chunk| chunk.index)
}

/// Gives the id of a token.
///
/// @param chunk The chunk, or NULL.
/// @return The id; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_chunk_token(chunk: *const mcandle_chunk) -> u32 {
    // SAFETY: the caller passes NULL or the chunk of a callback that runs.
    unsafe { chunk.as_ref() }.map_or(0, |chunk| chunk.token)
}

/// Gives the text that became complete with a token: whole UTF-8 characters only. It is empty while
/// the bytes of a character are still coming.
///
/// @param chunk The chunk, or NULL.
/// @param[out] length Receives the length in bytes; may be NULL.
/// @return The text, with a NUL behind it, which lives only during the callback; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_chunk_text(
    chunk: *const mcandle_chunk,
    length: *mut usize,
) -> *const c_char {
    // SAFETY: the caller passes NULL or the chunk of a callback that runs, and NULL or a writable
    // length.
    unsafe {
        let text = chunk.as_ref().map(|chunk| &chunk.text);
        if let Some(length) = length.as_mut() {
            *length = text.map_or(0, mcandle_string::len);
        }
        text.map_or(c"".as_ptr(), mcandle_string::as_ptr)
    }
}

/// Receives each token as it is generated, on the thread that called.
///
/// It returns true to go on, and false to stop. It must not unwind, jump out or throw, and must not
/// use the generator that calls it, except to cancel it.
pub type mcandle_chunk_callback =
    Option<unsafe extern "C" fn(chunk: *const mcandle_chunk, user_data: *mut c_void) -> bool>;

/// Why a generation ended: one of the MCANDLE_FINISH_ constants.
pub type mcandle_finish_reason = i32;

/// The model ended the text.
pub const MCANDLE_FINISH_STOP: mcandle_finish_reason = 0;
/// The most tokens were generated.
pub const MCANDLE_FINISH_LENGTH: mcandle_finish_reason = 1;
/// The callback or another thread stopped it.
pub const MCANDLE_FINISH_CANCELLED: mcandle_finish_reason = 2;
/// A stop string was generated.
pub const MCANDLE_FINISH_STOP_STRING: mcandle_finish_reason = 3;
/// The context is full.
pub const MCANDLE_FINISH_CONTEXT_FULL: mcandle_finish_reason = 4;
/// The time is over.
pub const MCANDLE_FINISH_TIME_LIMIT: mcandle_finish_reason = 5;

/// A finished generation.
#[derive(Debug)]
pub struct mcandle_generation {
    text: mcandle_string,
    inner: Generation,
}

/// Gives the generated text, without special tokens.
///
/// @param generation The generation, or NULL.
/// @param[out] length Receives the length in bytes; may be NULL.
/// @return The text, with a NUL behind it, which lives as long as the generation; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_text(
    generation: *const mcandle_generation,
    length: *mut usize,
) -> *const c_char {
    // SAFETY: the caller passes NULL or a live generation, and NULL or a writable length.
    unsafe {
        let text = generation.as_ref().map(|generation| &generation.text);
        if let Some(length) = length.as_mut() {
            *length = text.map_or(0, mcandle_string::len);
        }
        text.map_or(c"".as_ptr(), mcandle_string::as_ptr)
    }
}

/// Gives the generated tokens, without the one that ended the text.
///
/// @param generation The generation, or NULL.
/// @param[out] count Receives their number; may be NULL.
/// @return The ids, which live as long as the generation; NULL for NULL. With a count of 0 they must
/// not be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_tokens(
    generation: *const mcandle_generation,
    count: *mut usize,
) -> *const u32 {
    // SAFETY: the caller passes NULL or a live generation, and NULL or a writable count.
    unsafe {
        let tokens = generation
            .as_ref()
            .map(|generation| &generation.inner.tokens);
        if let Some(count) = count.as_mut() {
            *count = tokens.map_or(0, Vec::len);
        }
        tokens.map_or(std::ptr::null(), Vec::as_ptr)
    }
}

/// Gives the number of tokens of the prompt.
///
/// @param generation The generation, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_prompt_tokens(
    generation: *const mcandle_generation,
) -> usize {
    // SAFETY: the caller passes NULL or a live generation.
    unsafe { generation.as_ref() }.map_or(0, |generation| generation.inner.prompt_tokens)
}

/// Gives the time from the call to the first token.
///
/// @param generation The generation, or NULL.
/// @return Seconds; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_time_to_first_token(
    generation: *const mcandle_generation,
) -> f64 {
    // SAFETY: the caller passes NULL or a live generation.
    unsafe { generation.as_ref() }.map_or(0.0, |generation| {
        generation.inner.time_to_first_token.as_secs_f64()
    })
}

/// Gives the speed after the first token.
///
/// @param generation The generation, or NULL.
/// @return Tokens per second; 0 for NULL, and where there was no second token.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_tokens_per_second(
    generation: *const mcandle_generation,
) -> f64 {
    // SAFETY: the caller passes NULL or a live generation.
    unsafe { generation.as_ref() }.map_or(0.0, |generation| generation.inner.tokens_per_second)
}

/// Gives the reason why a generation ended.
///
/// @param generation The generation, or NULL.
/// @return One of the MCANDLE_FINISH_ constants; MCANDLE_FINISH_STOP for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_finish_reason(
    generation: *const mcandle_generation,
) -> mcandle_finish_reason {
    // SAFETY: the caller passes NULL or a live generation.
    match unsafe { generation.as_ref() }.map(|generation| generation.inner.finish_reason) {
        None | Some(FinishReason::Stop) => MCANDLE_FINISH_STOP,
        Some(FinishReason::Length) => MCANDLE_FINISH_LENGTH,
        Some(FinishReason::Cancelled) => MCANDLE_FINISH_CANCELLED,
        Some(FinishReason::StopString) => MCANDLE_FINISH_STOP_STRING,
        Some(FinishReason::ContextFull) => MCANDLE_FINISH_CONTEXT_FULL,
        Some(FinishReason::TimeLimit) => MCANDLE_FINISH_TIME_LIMIT,
    }
}

/// Frees a generation.
///
/// @param generation The generation; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_free(generation: *mut mcandle_generation) {
    // SAFETY: the caller passes NULL or a generation that it owns.
    unsafe { handle::free(generation) }
}

/// Generates text with a model, and perhaps an adapter.
///
/// It serves one call at a time; another call meanwhile gets MCANDLE_BUSY. Make one for each thread:
/// they share the weights of the model.
#[derive(Debug)]
pub struct mcandle_generator {
    inner: Exclusive<Generator>,
    cancel: CancelHandle,
}

/// Makes a generator.
///
/// @param model The model; it need not outlive the generator.
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
            let inner = Generator::new(&model.inner);
            out.give(mcandle_generator {
                cancel: inner.cancel_handle(),
                inner: Exclusive::new(inner),
            });
            Ok(())
        })
    }
}

/// Uses an adapter from the next generation on.
///
/// @param generator The generator.
/// @param adapter The adapter, or NULL for none; it need not outlive the call.
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

/// Continues a text, and hands each token to a callback as it comes.
///
/// @param generator The generator.
/// @param prompt The text in UTF-8.
/// @param prompt_length Its length in bytes.
/// @param options Options, or NULL for the defaults.
/// @param callback Receives each token; may be NULL.
/// @param user_data Given to the callback as it is; not used after the call.
/// @param[out] generation Receives the finished generation, also when it was stopped, to be freed
/// with mcandle_generation_free(); may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, also when it was stopped, or MCANDLE_INVALID_UTF8, MCANDLE_INVALID_ARGUMENT,
/// MCANDLE_CONTEXT_FULL, MCANDLE_TOKENIZER, MCANDLE_BUSY, MCANDLE_NON_FINITE, MCANDLE_BACKEND,
/// MCANDLE_NULL_POINTER.
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
            let prompt = handle::text(prompt, prompt_length, "prompt")?;
            let options = options.as_ref().map(|options| options.inner.clone());
            let options = options.unwrap_or_default();
            let finished = generator.inner.with("generator", |inner| {
                Ok(inner.generate(prompt, &options, |chunk| {
                    let Some(callback) = callback else {
                        return ControlFlow::Continue(());
                    };
                    let chunk = mcandle_chunk {
                        index: chunk.index,
                        token: chunk.token,
                        text: mcandle_string::new(&chunk.text),
                    };
                    if callback(&raw const chunk, user_data) {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                })?)
            })?;
            if !generation.is_null() {
                Out::new(generation, "generation")?.give(mcandle_generation {
                    text: mcandle_string::new(&finished.text),
                    inner: finished,
                });
            }
            Ok(())
        })
    }
}

/// Stops the generation that runs, before its next token. Any thread may call it at any time while
/// the generator lives; without a running generation it does nothing.
///
/// @param generator The generator; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_cancel(generator: *const mcandle_generator) {
    // SAFETY: the caller passes NULL or a live generator, whose handle is shared between threads.
    if let Some(generator) = unsafe { generator.as_ref() } {
        generator.cancel.cancel();
    }
}

/// Frees a generator. No call may be using it.
///
/// @param generator The generator; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_free(generator: *mut mcandle_generator) {
    // SAFETY: the caller passes NULL or a generator that it owns.
    unsafe { handle::free(generator) }
}
