//! Tokenizers.

use super::error::{mcandle_error, mcandle_status};
use super::handle::{self, Out, Result, borrow};
use super::panic::guard;
use super::string::{mcandle_string, mcandle_tokens};
use crate::models::{Model, Tokenizer};
use std::ffi::c_char;

/// Turns text into token ids and back. Any number of threads can use one at the same time.
#[derive(Debug)]
pub struct mcandle_tokenizer {
    /// Known to have a tokenizer.
    model: Model,
}

impl mcandle_tokenizer {
    pub(super) fn new(model: &Model) -> Result<Self> {
        model.tokenizer()?;
        Ok(Self {
            model: model.clone(),
        })
    }

    pub(super) fn get(&self) -> Result<&Tokenizer> {
        Ok(self.model.tokenizer()?)
    }
}

/// Turns text into token ids.
///
/// @param[in] tokenizer The tokenizer.
/// @param[in] text The text in UTF-8; may be NULL where the length is 0.
/// @param[in] text_length Its length in bytes.
/// @param[in] add_special_tokens Whether to add what the model expects at the start, as before
/// generating; Qwen2 expects nothing.
/// @param[out] tokens Receives the ids on success, to be freed with mcandle_tokens_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_UTF8, MCANDLE_TOKENIZER, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_tokenizer_encode(
    tokenizer: *const mcandle_tokenizer,
    text: *const c_char,
    text_length: usize,
    add_special_tokens: bool,
    tokens: *mut *mut mcandle_tokens,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live tokenizer, readable text and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let tokenizer = borrow(tokenizer, "tokenizer")?;
            let text = handle::text(text, text_length, "text")?;
            let out = Out::new(tokens, "tokens")?;
            let ids = tokenizer.get()?.encode(text, add_special_tokens)?;
            out.give(mcandle_tokens { ids });
            Ok(())
        })
    }
}

/// Turns token ids into text.
///
/// @param[in] tokenizer The tokenizer.
/// @param[in] ids The token ids; may be NULL where the number is 0.
/// @param[in] id_count Their number.
/// @param[in] skip_special_tokens Whether to leave tokens such as the end of the text out.
/// @param[out] text Receives the text on success, to be freed with mcandle_string_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_TOKENIZER, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_tokenizer_decode(
    tokenizer: *const mcandle_tokenizer,
    ids: *const u32,
    id_count: usize,
    skip_special_tokens: bool,
    text: *mut *mut mcandle_string,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live tokenizer, readable ids and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let tokenizer = borrow(tokenizer, "tokenizer")?;
            let ids = handle::items(ids, id_count, "ids")?;
            let out = Out::new(text, "text")?;
            let text = tokenizer.get()?.decode(ids, skip_special_tokens)?;
            out.give(mcandle_string::new(&text));
            Ok(())
        })
    }
}

/// Frees a tokenizer.
///
/// @param[in] tokenizer The tokenizer; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_tokenizer_free(tokenizer: *mut mcandle_tokenizer) {
    // SAFETY: the caller passes NULL or a tokenizer that it owns.
    unsafe { handle::free(tokenizer) }
}
