//! Options of a generation: its length, its end, its context. How a token is chosen is in
//! `sampling_options.rs`, what the text must be in `grammar.rs`.

use super::error::{mcandle_error, mcandle_status};
use super::handle::{self, Out, Result, borrow, borrow_mut};
use super::panic::guard;
use super::string::mcandle_string;
use crate::error::Error;
use crate::inference::GenerateOptions;
use std::ffi::c_char;
use std::time::Duration;

/// How a text is continued.
#[derive(Debug)]
pub struct mcandle_generate_options {
    /// Without `max_time`.
    pub(super) inner: GenerateOptions,
    /// Seconds as given; checked when the options are used.
    max_time: Option<f64>,
}

impl mcandle_generate_options {
    fn new(mut inner: GenerateOptions) -> Self {
        let max_time = inner.max_time.take();
        Self {
            inner,
            max_time: max_time.map(|time| time.as_secs_f64()),
        }
    }

    fn resolve(&self) -> Result<GenerateOptions> {
        let mut options = self.inner.clone();
        if let Some(seconds) = self.max_time {
            let time = Duration::try_from_secs_f64(seconds);
            let expected = "a time above 0, in seconds";
            options.max_time =
                Some(time.map_err(|_| Error::option("max_time", seconds, expected))?);
        }
        Ok(options)
    }
}

/// The options given, or the defaults for NULL.
///
/// # Safety
///
/// `options` is NULL or live.
pub(super) unsafe fn resolve(options: *const mcandle_generate_options) -> Result<GenerateOptions> {
    // SAFETY: as the caller promises.
    match unsafe { options.as_ref() } {
        Some(options) => options.resolve(),
        None => Ok(GenerateOptions::default()),
    }
}

/// Makes options with the defaults: greedy, at most 256 tokens.
///
/// @return Options, to be freed with mcandle_generate_options_free().
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_generate_options_new() -> *mut mcandle_generate_options {
    let options = mcandle_generate_options::new(GenerateOptions::default());
    Box::into_raw(Box::new(options))
}

/// Makes options from JSON: an object whose keys are the names in the setters, such as
/// {"max_tokens": 64, "stop": ["\n\n"], "sampling": {"temperature": 0.7, "top_p": 0.9}}.
///
/// What belongs to the choice of a token is under "sampling". A ban in "logit_bias" is written
/// false. A grammar is {"grammar": {"json_schema": {...}}}, or with "regex" or "lark" and a string.
/// A key that is left out has its default.
///
/// @param[in] json The JSON in UTF-8.
/// @param[in] json_length Its length in bytes.
/// @param[out] options Receives the options on success, to be freed with
/// mcandle_generate_options_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT for what is not JSON, unknown keys and values of
/// another type, MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER. Values out of range are reported by the
/// call that uses the options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_from_json(
    json: *const c_char,
    json_length: usize,
    options: *mut *mut mcandle_generate_options,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes readable text and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let json = handle::text(json, json_length, "json")?;
            let out = Out::new(options, "options")?;
            let inner = GenerateOptions::from_json(json)?;
            out.give(mcandle_generate_options::new(inner));
            Ok(())
        })
    }
}

/// Writes options as JSON, from which mcandle_generate_options_from_json() makes the same options.
///
/// @param[in] options The options.
/// @param[out] json Receives an object with all keys on success, to be freed with
/// mcandle_string_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT where an option is out of its range,
/// MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_to_json(
    options: *const mcandle_generate_options,
    json: *mut *mut mcandle_string,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live options and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let options = borrow(options, "options")?.resolve()?;
            let out = Out::new(json, "json")?;
            // JSON has no NaN and no infinity.
            options.validate()?;
            out.give(mcandle_string::of_options(&options)?);
            Ok(())
        })
    }
}

/// Sets the most tokens to generate. Values out of range are reported by the call that uses the
/// options; so it is for all options.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] max_tokens At least 1. Default 256.
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

/// Sets the number of tokens before which no token that ends the text is chosen.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] min_tokens At most the most tokens to generate. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_min_tokens(
    options: *mut mcandle_generate_options,
    min_tokens: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.min_tokens = min_tokens;
    }
}

/// Adds a stop string: where it is generated, the text ends before it. It may span tokens, and is
/// not part of the text.
///
/// @param[in,out] options The options.
/// @param[in] stop The string in UTF-8; it is copied. An empty one is reported by the call that
/// uses the options.
/// @param[in] stop_length Its length in bytes.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_add_stop(
    options: *mut mcandle_generate_options,
    stop: *const c_char,
    stop_length: usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes options that nobody else uses now and readable text, or NULL.
    unsafe {
        guard(error, || {
            let options = borrow_mut(options, "options")?;
            let stop = handle::text(stop, stop_length, "stop")?;
            options.inner.stop.push(stop.to_owned());
            Ok(())
        })
    }
}

/// Removes all stop strings. There are none by default.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_clear_stop(
    options: *mut mcandle_generate_options,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.stop.clear();
    }
}

/// Adds a token that ends the text, beside those that the model names. It is not part of the text.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] id The id of the token, below the size of the model's vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_add_stop_token_id(
    options: *mut mcandle_generate_options,
    id: u32,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.stop_token_ids.push(id);
    }
}

/// Removes all tokens that mcandle_generate_options_add_stop_token_id() added. There are none by
/// default.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_clear_stop_token_ids(
    options: *mut mcandle_generate_options,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.stop_token_ids.clear();
    }
}

/// Sets whether to go on after a token by which the model ends the text. Tokens that
/// mcandle_generate_options_add_stop_token_id() added end it all the same.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] ignore_eos Default false.
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

/// Sets the time after which a generation ends, with what there is.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] seconds Above 0, from the call on; or 0 for no limit. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_max_time(
    options: *mut mcandle_generate_options,
    seconds: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.max_time = (seconds != 0.0).then_some(seconds);
    }
}

/// Sets how many of the most likely tokens each token is reported with.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] top_logprobs At most 100. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_top_logprobs(
    options: *mut mcandle_generate_options,
    top_logprobs: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.top_logprobs = top_logprobs;
    }
}

/// Sets whether special tokens, such as those between the turns of a conversation, are left out of
/// the text.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] skip_special_tokens Default true.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_skip_special_tokens(
    options: *mut mcandle_generate_options,
    skip_special_tokens: bool,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.skip_special_tokens = skip_special_tokens;
    }
}

/// Sets how many prompt tokens are computed at once; memory grows with it.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] prefill_chunk At least 1. Default 512.
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

/// Sets the most tokens of context to keep, which bounds the memory of keys and values. The model's
/// own limit holds too.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] max_kv_size At least 2, or 0 for the model's limit alone. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_max_kv_size(
    options: *mut mcandle_generate_options,
    max_kv_size: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.max_kv_size = (max_kv_size != 0).then_some(max_kv_size);
    }
}

/// Sets the most memory that the keys and values of the context may take. It is a limit of the
/// tokens of the context, in steps of 256: a prompt that does not fit is refused with
/// MCANDLE_OUT_OF_MEMORY, and a text that reaches it ends, unless
/// mcandle_generate_options_set_context_shift() lets it go on.
///
/// Keys and values of a draft model do not count, and while room is made, one layer is there twice.
/// In a batch it is a limit for each text.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] max_kv_bytes The bytes, at least those of 256 tokens, or 0 for no limit. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_max_kv_bytes(
    options: *mut mcandle_generate_options,
    max_kv_bytes: u64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.max_kv_bytes = (max_kv_bytes != 0).then_some(max_kv_bytes);
    }
}

/// Sets what happens when the context is full: whether to give up the older half of it, all but the
/// first tokens, and go on. Otherwise a prompt that does not fit is an error, and a text that
/// reaches the limit ends.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] context_shift Default false.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_context_shift(
    options: *mut mcandle_generate_options,
    context_shift: bool,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.context_shift = context_shift;
    }
}

/// Sets how many of the first tokens a shift of the context keeps, such as those of a system prompt.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] keep Below half the context. Default 4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_keep(
    options: *mut mcandle_generate_options,
    keep: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.keep = keep;
    }
}

/// Sets how many tokens are drafted at once from the text so far: where its last tokens occurred
/// before, what came after them is tried. The text stays the same, or its distribution where it is
/// sampled; it pays where the answer repeats the prompt. Generators with a draft model and batches do
/// without.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] prompt_lookup_num_tokens The number, or 0 for none. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_prompt_lookup_num_tokens(
    options: *mut mcandle_generate_options,
    prompt_lookup_num_tokens: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.prompt_lookup_num_tokens = prompt_lookup_num_tokens;
    }
}

/// Sets how many tokens are drafted at once where the generator has a draft model.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] num_draft_tokens At least 1. Default 3.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_num_draft_tokens(
    options: *mut mcandle_generate_options,
    num_draft_tokens: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.num_draft_tokens = num_draft_tokens;
    }
}

/// Frees options.
///
/// @param[in] options The options; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_free(options: *mut mcandle_generate_options) {
    // SAFETY: the caller passes NULL or options that it owns.
    unsafe { handle::free(options) }
}
