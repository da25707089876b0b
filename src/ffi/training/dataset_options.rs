//! Options of a data set.

use crate::ffi::error::{MCANDLE_INVALID_ARGUMENT, mcandle_error, mcandle_status};
use crate::ffi::handle::{self, Out, Result, borrow, borrow_mut};
use crate::ffi::panic::guard;
use crate::ffi::string::mcandle_string;
use crate::training::{BadRow, DatasetOptions, LossMask};
use std::ffi::c_char;

/// Which tokens of a row are scored: one of the MCANDLE_LOSS_MASK_ constants.
pub type mcandle_loss_mask = i32;

/// All but the first.
pub const MCANDLE_LOSS_MASK_NONE: mcandle_loss_mask = 0;
/// Those of the completion, of the middle or of the last message of the assistant.
pub const MCANDLE_LOSS_MASK_PROMPT: mcandle_loss_mask = 1;
/// Those of the completion, of the middle or of every message of the assistant.
pub const MCANDLE_LOSS_MASK_ASSISTANT: mcandle_loss_mask = 2;

/// What happens where a row cannot be used: one of the MCANDLE_BAD_ROW_ constants.
pub type mcandle_bad_row = i32;

/// The data set is an error that names the row.
pub const MCANDLE_BAD_ROW_STOP: mcandle_bad_row = 0;
/// The row is left out and reported.
pub const MCANDLE_BAD_ROW_SKIP: mcandle_bad_row = 1;

/// How a data set is read.
#[derive(Debug)]
pub struct mcandle_dataset_options {
    inner: DatasetOptions,
    /// As given; checked when the options are used.
    mask: mcandle_loss_mask,
    /// As given; checked when the options are used.
    on_bad_row: mcandle_bad_row,
}

impl mcandle_dataset_options {
    fn new(inner: DatasetOptions) -> Self {
        let mask = match inner.mask {
            LossMask::None => MCANDLE_LOSS_MASK_NONE,
            LossMask::Prompt => MCANDLE_LOSS_MASK_PROMPT,
            LossMask::Assistant => MCANDLE_LOSS_MASK_ASSISTANT,
        };
        let on_bad_row = match inner.on_bad_row {
            BadRow::Stop => MCANDLE_BAD_ROW_STOP,
            BadRow::Skip => MCANDLE_BAD_ROW_SKIP,
        };
        Self {
            inner,
            mask,
            on_bad_row,
        }
    }

    fn resolve(&self) -> Result<DatasetOptions> {
        let mut options = self.inner.clone();
        options.mask = match self.mask {
            MCANDLE_LOSS_MASK_NONE => LossMask::None,
            MCANDLE_LOSS_MASK_PROMPT => LossMask::Prompt,
            MCANDLE_LOSS_MASK_ASSISTANT => LossMask::Assistant,
            other => return Err(unknown("mask", other, "MCANDLE_LOSS_MASK_")),
        };
        options.on_bad_row = match self.on_bad_row {
            MCANDLE_BAD_ROW_STOP => BadRow::Stop,
            MCANDLE_BAD_ROW_SKIP => BadRow::Skip,
            other => return Err(unknown("on_bad_row", other, "MCANDLE_BAD_ROW_")),
        };
        Ok(options)
    }
}

fn unknown(name: &str, found: i32, prefix: &str) -> mcandle_error {
    let message = format!("`{name}` is {found}; expected a {prefix} constant");
    mcandle_error::new(MCANDLE_INVALID_ARGUMENT, message)
}

/// The options given, or the defaults for NULL.
///
/// # Safety
///
/// `options` is NULL or live.
pub(super) unsafe fn resolve(options: *const mcandle_dataset_options) -> Result<DatasetOptions> {
    // SAFETY: as the caller promises.
    match unsafe { options.as_ref() } {
        Some(options) => options.resolve(),
        None => Ok(DatasetOptions::default()),
    }
}

/// Makes options with the defaults: rows of at most 2,048 tokens, of which those are scored that the
/// assistant writes; a row that cannot be used is an error.
///
/// @return Options, to be freed with mcandle_dataset_options_free().
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_dataset_options_new() -> *mut mcandle_dataset_options {
    let options = mcandle_dataset_options::new(DatasetOptions::default());
    Box::into_raw(Box::new(options))
}

/// Makes options from JSON: an object whose keys are the names in the setters, such as
/// {"max_seq_length": 512, "mask": "prompt", "on_bad_row": "skip", "fields": {"prompt": "question"}}.
///
/// A mask is "none", "prompt" or "assistant", a bad row "stop" or "skip". A key that is left out has
/// its default.
///
/// @param[in] json The JSON in UTF-8.
/// @param[in] json_length Its length in bytes.
/// @param[out] options Receives the options on success, to be freed with
/// mcandle_dataset_options_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT for what is not JSON, unknown keys and values of
/// another type, MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER. Values out of range are reported by the
/// call that uses the options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_options_from_json(
    json: *const c_char,
    json_length: usize,
    options: *mut *mut mcandle_dataset_options,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes readable text and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let json = handle::text(json, json_length, "json")?;
            let out = Out::new(options, "options")?;
            let inner = DatasetOptions::from_json(json)?;
            out.give(mcandle_dataset_options::new(inner));
            Ok(())
        })
    }
}

/// Writes options as JSON, from which mcandle_dataset_options_from_json() makes the same options.
///
/// @param[in] options The options.
/// @param[out] json Receives an object with all keys on success, to be freed with
/// mcandle_string_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT where an option is out of its range,
/// MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_options_to_json(
    options: *const mcandle_dataset_options,
    json: *mut *mut mcandle_string,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live options and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let options = borrow(options, "options")?.resolve()?;
            let out = Out::new(json, "json")?;
            options.validate()?;
            out.give(mcandle_string::of_options(&options)?);
            Ok(())
        })
    }
}

/// Sets the most tokens of a row; what is longer is cut at the end and counted. Values out of range
/// are reported by the call that uses the options; so it is for all options.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] max_seq_length At least 2. Default 2048.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_options_set_max_seq_length(
    options: *mut mcandle_dataset_options,
    max_seq_length: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.max_seq_length = max_seq_length;
    }
}

/// Sets which tokens of a row are scored. A row of preferences scores its answers alone.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] mask One of the MCANDLE_LOSS_MASK_ constants. Default MCANDLE_LOSS_MASK_ASSISTANT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_options_set_mask(
    options: *mut mcandle_dataset_options,
    mask: mcandle_loss_mask,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.mask = mask;
    }
}

/// Sets the key under which rows have one of their parts. Two parts cannot have the same key. A part
/// whose key no row has is hidden.
///
/// @param[in,out] options The options.
/// @param[in] field The part, NUL-terminated: "text", "prompt", "completion", "messages", "tools",
/// "prefix", "suffix", "middle", "chosen" or "rejected".
/// @param[in] key The key, NUL-terminated UTF-8; it is copied. Default the name of the part.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT where there is no such part, MCANDLE_INVALID_UTF8,
/// MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_options_set_field(
    options: *mut mcandle_dataset_options,
    field: *const c_char,
    key: *const c_char,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes options that nobody else uses now and NUL-terminated texts, or NULL.
    unsafe {
        guard(error, || {
            let options = borrow_mut(options, "options")?;
            let field = handle::string(field, "field")?;
            let key = handle::string(key, "key")?;
            Ok(options.inner.fields.set(field, key)?)
        })
    }
}

/// Sets what happens where a row cannot be used.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] on_bad_row One of the MCANDLE_BAD_ROW_ constants. Default MCANDLE_BAD_ROW_STOP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_options_set_on_bad_row(
    options: *mut mcandle_dataset_options,
    on_bad_row: mcandle_bad_row,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.on_bad_row = on_bad_row;
    }
}

/// Sets the size up to which a file is kept in memory as tokens. Of a longer one only an index is
/// kept, and its rows are read again each time they are used.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] max_bytes_in_memory The size in bytes. Default 67108864.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_options_set_max_bytes_in_memory(
    options: *mut mcandle_dataset_options,
    max_bytes_in_memory: u64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.max_bytes_in_memory = max_bytes_in_memory;
    }
}

/// Frees options.
///
/// @param[in] options The options; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_options_free(options: *mut mcandle_dataset_options) {
    // SAFETY: the caller passes NULL or options that it owns.
    unsafe { handle::free(options) }
}
