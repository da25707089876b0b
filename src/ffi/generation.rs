//! What a generation gives: a chunk for each token, and all of it at the end.

use super::handle;
use super::string::mcandle_string;
use super::user_data::UserPointer;
use crate::inference::{Chunk, FinishReason, Generation};
use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;

/// One generated token. It lives only during the callback that receives it.
///
/// There is one for each token. Where text was held back at the end, because it might have become a
/// stop string or the bytes of a character never came, one more repeats the last token with it.
#[derive(Debug)]
pub struct mcandle_chunk {
    sequence: usize,
    index: usize,
    token: u32,
    text: mcandle_string,
    logprob: f32,
    top_tokens: Vec<u32>,
    top_logprobs: Vec<f32>,
}

impl mcandle_chunk {
    fn new(chunk: &Chunk) -> Self {
        let top = &chunk.top_logprobs;
        Self {
            sequence: chunk.sequence,
            index: chunk.index,
            token: chunk.token,
            text: mcandle_string::new(&chunk.text),
            logprob: chunk.logprob,
            top_tokens: top.iter().map(|top| top.token).collect(),
            top_logprobs: top.iter().map(|top| top.logprob).collect(),
        }
    }
}

/// Gives the text of a batch that a token belongs to.
///
/// @param[in] chunk The chunk, or NULL.
/// @return The number that the text got when it was added to the batch; 0 for NULL and the chunks of
/// a generator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_chunk_sequence(chunk: *const mcandle_chunk) -> usize {
    // SAFETY: the caller passes NULL or the chunk of a callback that runs.
    unsafe { chunk.as_ref() }.map_or(0, |chunk| chunk.sequence)
}

/// Gives the place of a token among the generated ones, from 0.
///
/// @param[in] chunk The chunk, or NULL.
/// @return The place; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_chunk_index(chunk: *const mcandle_chunk) -> usize {
    // SAFETY: the caller passes NULL or the chunk of a callback that runs.
    unsafe { chunk.as_ref() }.map_or(0, |chunk| chunk.index)
}

/// Gives the id of a token.
///
/// @param[in] chunk The chunk, or NULL.
/// @return The id; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_chunk_token(chunk: *const mcandle_chunk) -> u32 {
    // SAFETY: the caller passes NULL or the chunk of a callback that runs.
    unsafe { chunk.as_ref() }.map_or(0, |chunk| chunk.token)
}

/// Gives the text that became complete with a token: whole UTF-8 characters only. It is empty while
/// the bytes of a character or what may be a stop string are still coming, and for special tokens.
///
/// @param[in] chunk The chunk, or NULL.
/// @param[out] length Receives the length in bytes; may be NULL.
/// @return The text, with a NUL behind it, which lives only during the callback; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_chunk_text(
    chunk: *const mcandle_chunk,
    length: *mut usize,
) -> *const c_char {
    // SAFETY: the caller passes NULL or the chunk of a callback that runs, and NULL or a writable
    // length.
    unsafe { mcandle_string::give(chunk.as_ref().map(|chunk| &chunk.text), length) }
}

/// Gives the natural logarithm of the probability of a token under the model, before any option of
/// sampling.
///
/// @param[in] chunk The chunk, or NULL.
/// @return The logarithm, 0 or less; NaN for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_chunk_logprob(chunk: *const mcandle_chunk) -> f32 {
    // SAFETY: the caller passes NULL or the chunk of a callback that runs.
    unsafe { chunk.as_ref() }.map_or(f32::NAN, |chunk| chunk.logprob)
}

/// Gives the most likely tokens in the place of a token, the most likely first: as many as
/// mcandle_generate_options_set_top_logprobs() asked for.
///
/// @param[in] chunk The chunk, or NULL.
/// @param[out] count Receives their number; may be NULL.
/// @return The ids, which live only during the callback; NULL for NULL. With a count of 0 they must
/// not be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_chunk_top_tokens(
    chunk: *const mcandle_chunk,
    count: *mut usize,
) -> *const u32 {
    // SAFETY: the caller passes NULL or the chunk of a callback that runs, and NULL or a writable
    // count.
    unsafe { handle::give_items(chunk.as_ref().map(|chunk| &*chunk.top_tokens), count) }
}

/// Gives the natural logarithms of the probabilities of the tokens that mcandle_chunk_top_tokens()
/// gives, in the same order.
///
/// @param[in] chunk The chunk, or NULL.
/// @param[out] count Receives their number; may be NULL.
/// @return The logarithms, which live only during the callback; NULL for NULL. With a count of 0 they
/// must not be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_chunk_top_logprobs(
    chunk: *const mcandle_chunk,
    count: *mut usize,
) -> *const f32 {
    // SAFETY: the caller passes NULL or the chunk of a callback that runs, and NULL or a writable
    // count.
    unsafe { handle::give_items(chunk.as_ref().map(|chunk| &*chunk.top_logprobs), count) }
}

/// Receives each token as it is generated, on the thread that called; of an `_async` function, on
/// the thread of the library.
///
/// It must not use the generator or batch that calls it, except to cancel it.
///
/// @param[in] chunk The token, which lives only during the call.
/// @param[in] user_data As it was given with the callback.
/// @return True to go on, false to stop: the generation, or in a batch the text that the token
/// belongs to.
pub type mcandle_chunk_callback = Option<
    unsafe extern "C-unwind" fn(chunk: *const mcandle_chunk, user_data: *mut c_void) -> bool,
>;

/// What hands chunks to a callback.
///
/// # Safety
///
/// The callback may be called with `user_data` as long as the result lives.
pub(super) unsafe fn on_chunk(
    callback: mcandle_chunk_callback,
    user_data: *mut c_void,
) -> impl FnMut(&Chunk) -> ControlFlow<()> + Send {
    let user_data = UserPointer::new(user_data);
    move |chunk| {
        let Some(callback) = callback else {
            return ControlFlow::Continue(());
        };
        let chunk = mcandle_chunk::new(chunk);
        // SAFETY: as the caller promises; the chunk outlives the call.
        if unsafe { callback(&raw const chunk, user_data.get()) } {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

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
    stop_string: Option<mcandle_string>,
    inner: Generation,
}

impl mcandle_generation {
    pub(super) fn new(inner: Generation) -> Self {
        Self {
            text: mcandle_string::new(&inner.text),
            stop_string: inner.stop_string.as_deref().map(mcandle_string::new),
            inner,
        }
    }
}

/// Gives the generated text, without special tokens and stop string. It is empty where the model has
/// no tokenizer.
///
/// @param[in] generation The generation, or NULL.
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
        mcandle_string::give(text, length)
    }
}

/// Gives the generated tokens, without the one that ended the text. Those of a stop string are among
/// them.
///
/// @param[in] generation The generation, or NULL.
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
        let inner = generation.as_ref().map(|generation| &generation.inner);
        handle::give_items(inner.map(|inner| &*inner.tokens), count)
    }
}

/// Gives the natural logarithm of the probability of each generated token under the model, before any
/// option of sampling.
///
/// @param[in] generation The generation, or NULL.
/// @param[out] count Receives their number, which is that of the tokens; may be NULL.
/// @return The logarithms, which live as long as the generation; NULL for NULL. With a count of 0 they
/// must not be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_logprobs(
    generation: *const mcandle_generation,
    count: *mut usize,
) -> *const f32 {
    // SAFETY: the caller passes NULL or a live generation, and NULL or a writable count.
    unsafe {
        let inner = generation.as_ref().map(|generation| &generation.inner);
        handle::give_items(inner.map(|inner| &*inner.logprobs), count)
    }
}

/// Gives the number of tokens of the prompt.
///
/// @param[in] generation The generation, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_prompt_tokens(
    generation: *const mcandle_generation,
) -> usize {
    // SAFETY: the caller passes NULL or a live generation.
    unsafe { generation.as_ref() }.map_or(0, |generation| generation.inner.prompt_tokens)
}

/// Gives how many tokens of the prompt the generator had read before, and did not compute again.
///
/// @param[in] generation The generation, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_cached_tokens(
    generation: *const mcandle_generation,
) -> usize {
    // SAFETY: the caller passes NULL or a live generation.
    unsafe { generation.as_ref() }.map_or(0, |generation| generation.inner.cached_tokens)
}

/// Gives the time from the call to the first token.
///
/// @param[in] generation The generation, or NULL.
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
/// @param[in] generation The generation, or NULL.
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
/// @param[in] generation The generation, or NULL.
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

/// Gives the stop string that ended a generation.
///
/// @param[in] generation The generation, or NULL.
/// @param[out] length Receives the length in bytes; may be NULL.
/// @return The string, with a NUL behind it, which lives as long as the generation; empty for NULL and
/// where no stop string ended it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_stop_string(
    generation: *const mcandle_generation,
    length: *mut usize,
) -> *const c_char {
    // SAFETY: the caller passes NULL or a live generation, and NULL or a writable length.
    unsafe {
        let stop = generation
            .as_ref()
            .map(|generation| &generation.stop_string);
        mcandle_string::give(stop.and_then(Option::as_ref), length)
    }
}

/// Gives the number of tokens that were drafted to be checked by the model.
///
/// @param[in] generation The generation, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_drafted_tokens(
    generation: *const mcandle_generation,
) -> usize {
    // SAFETY: the caller passes NULL or a live generation.
    unsafe { generation.as_ref() }.map_or(0, |generation| generation.inner.drafted_tokens)
}

/// Gives how many of the drafted tokens were right. Their share is the acceptance rate.
///
/// @param[in] generation The generation, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_accepted_tokens(
    generation: *const mcandle_generation,
) -> usize {
    // SAFETY: the caller passes NULL or a live generation.
    unsafe { generation.as_ref() }.map_or(0, |generation| generation.inner.accepted_tokens)
}

/// Frees a generation.
///
/// @param[in] generation The generation; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generation_free(generation: *mut mcandle_generation) {
    // SAFETY: the caller passes NULL or a generation that it owns.
    unsafe { handle::free(generation) }
}
