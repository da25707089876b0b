//! Texts and token ids.

use super::handle;
use crate::error::Error;
use serde::Serialize;
use std::ffi::c_char;

/// A text that the library made. It may hold NUL characters, so go by its length.
#[derive(Debug)]
pub struct mcandle_string {
    /// With a NUL behind it.
    bytes: Vec<u8>,
}

impl mcandle_string {
    pub(super) fn new(text: &str) -> Self {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        Self { bytes }
    }

    /// Options as JSON.
    pub(super) fn of_options(options: &impl Serialize) -> handle::Result<Self> {
        let text = serde_json::to_string(options)
            .map_err(|error| Error::option("options", error, "options that JSON can express"))?;
        Ok(Self::new(&text))
    }

    pub(super) fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - 1
    }

    /// Gives a text that an object has, and its length where there is a place for it. No text is an
    /// empty one.
    ///
    /// # Safety
    ///
    /// `length` is NULL or writable.
    pub(super) unsafe fn give(text: Option<&Self>, length: *mut usize) -> *const c_char {
        // SAFETY: as the caller promises.
        unsafe { handle::give_number(length, text.map_or(0, Self::len)) }
        text.map_or(c"".as_ptr(), Self::as_ptr)
    }
}

/// Gives the bytes of a text, in UTF-8 and with a NUL behind them.
///
/// @param[in] string The text, or NULL.
/// @return A pointer that lives as long as the text; an empty string for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_string_data(string: *const mcandle_string) -> *const c_char {
    // SAFETY: the caller passes NULL or a text that it has not freed.
    unsafe { string.as_ref() }.map_or(c"".as_ptr(), mcandle_string::as_ptr)
}

/// Gives the length of a text in bytes, without the NUL behind it.
///
/// @param[in] string The text, or NULL.
/// @return The length; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_string_length(string: *const mcandle_string) -> usize {
    // SAFETY: the caller passes NULL or a text that it has not freed.
    unsafe { string.as_ref() }.map_or(0, mcandle_string::len)
}

/// Frees a text.
///
/// @param[in] string The text; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_string_free(string: *mut mcandle_string) {
    // SAFETY: the caller passes NULL or a text that it owns.
    unsafe { handle::free(string) }
}

/// Token ids that the library made.
#[derive(Debug)]
pub struct mcandle_tokens {
    pub(super) ids: Vec<u32>,
}

/// Gives the token ids.
///
/// @param[in] tokens The token ids, or NULL.
/// @return A pointer that lives as long as the object; NULL for NULL. With a length of 0 it must not
/// be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_tokens_data(tokens: *const mcandle_tokens) -> *const u32 {
    // SAFETY: the caller passes NULL or an object that it has not freed.
    unsafe { tokens.as_ref() }.map_or(std::ptr::null(), |tokens| tokens.ids.as_ptr())
}

/// Gives the number of token ids.
///
/// @param[in] tokens The token ids, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_tokens_length(tokens: *const mcandle_tokens) -> usize {
    // SAFETY: the caller passes NULL or an object that it has not freed.
    unsafe { tokens.as_ref() }.map_or(0, |tokens| tokens.ids.len())
}

/// Frees token ids.
///
/// @param[in] tokens The token ids; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_tokens_free(tokens: *mut mcandle_tokens) {
    // SAFETY: the caller passes NULL or an object that it owns.
    unsafe { handle::free(tokens) }
}
