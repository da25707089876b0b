//! Data sets.

use super::error::{mcandle_error, mcandle_status};
use super::handle::{self, Out, borrow};
use super::model::mcandle_model;
use super::panic::guard;
use crate::training::{Dataset, DatasetOptions};
use std::ffi::c_char;

/// How a data set is read.
#[derive(Debug)]
pub struct mcandle_dataset_options {
    inner: DatasetOptions,
}

/// Makes options with the defaults: rows of at most 2,048 tokens, prompts not scored.
///
/// @return Options, to be freed with mcandle_dataset_options_free().
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_dataset_options_new() -> *mut mcandle_dataset_options {
    Box::into_raw(Box::new(mcandle_dataset_options {
        inner: DatasetOptions::default(),
    }))
}

/// Sets the most tokens of a row; what is longer is cut at the end and counted.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param max_seq_length At least 2. Default 2048.
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

/// Sets whether only the completion of a row of prompt and completion is learned.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param mask_prompt Default true.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_options_set_mask_prompt(
    options: *mut mcandle_dataset_options,
    mask_prompt: bool,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.mask = if mask_prompt {
            crate::training::LossMask::Prompt
        } else {
            crate::training::LossMask::None
        };
    }
}

/// Frees options.
///
/// @param options The options; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_options_free(options: *mut mcandle_dataset_options) {
    // SAFETY: the caller passes NULL or options that it owns.
    unsafe { handle::free(options) }
}

/// Tokenised rows to train on. It is never written, so trainers on several threads can share one.
#[derive(Debug)]
pub struct mcandle_dataset {
    pub(super) inner: Dataset,
}

/// Reads a data set from a JSONL file: a JSON object in each line, {"text": ...} or
/// {"prompt": ..., "completion": ...}.
///
/// @param path The file, NUL-terminated UTF-8.
/// @param tokenizer The tokenizer of the model that will be trained.
/// @param options Options, or NULL for the defaults.
/// @param[out] dataset Receives the data set on success, to be freed with mcandle_dataset_free().
/// @param[out] error Receives an error on failure, which names file and line; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NOT_FOUND, MCANDLE_IO, MCANDLE_INVALID_FORMAT, MCANDLE_TOKENIZER,
/// and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_from_jsonl(
    path: *const c_char,
    model: *const mcandle_model,
    options: *const mcandle_dataset_options,
    dataset: *mut *mut mcandle_dataset,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a NUL-terminated path, live objects and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let path = handle::path(path, "path")?;
            let model = &borrow(model, "model")?.inner;
            let out = Out::new(dataset, "dataset")?;
            let options = options.as_ref().map(|options| options.inner.clone());
            let inner = Dataset::from_jsonl(path, model, &options.unwrap_or_default())?;
            out.give(mcandle_dataset { inner });
            Ok(())
        })
    }
}

/// Gives the number of rows.
///
/// @param dataset The data set, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_length(dataset: *const mcandle_dataset) -> usize {
    // SAFETY: the caller passes NULL or a live data set.
    unsafe { dataset.as_ref() }.map_or(0, |dataset| dataset.inner.len())
}

/// Gives the number of tokens in all rows together.
///
/// @param dataset The data set, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_token_count(dataset: *const mcandle_dataset) -> usize {
    // SAFETY: the caller passes NULL or a live data set.
    unsafe { dataset.as_ref() }.map_or(0, |dataset| dataset.inner.tokens())
}

/// Gives the number of rows that were cut to the most tokens of a row.
///
/// @param dataset The data set, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_truncated_count(dataset: *const mcandle_dataset) -> usize {
    // SAFETY: the caller passes NULL or a live data set.
    unsafe { dataset.as_ref() }.map_or(0, |dataset| dataset.inner.truncated())
}

/// Frees a data set. Trainers that use it keep what they need.
///
/// @param dataset The data set; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_free(dataset: *mut mcandle_dataset) {
    // SAFETY: the caller passes NULL or a data set that it owns.
    unsafe { handle::free(dataset) }
}
