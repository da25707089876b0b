//! Data sets.

use super::dataset_options::{mcandle_dataset_options, resolve};
use crate::error::Error;
use crate::ffi::error::{MCANDLE_NULL_POINTER, mcandle_error, mcandle_status};
use crate::ffi::handle::{self, Out, borrow};
use crate::ffi::model::mcandle_model;
use crate::ffi::panic::guard;
use crate::ffi::string::mcandle_string;
use crate::training::{DataFolder, Dataset, RowKind};
use std::ffi::{c_char, c_void};
use std::{ptr, slice};

/// What the rows of a data set are: one of the MCANDLE_ROW_KIND_ constants.
pub type mcandle_row_kind = i32;

/// Texts to imitate: a text, a completion, a conversation, a middle.
pub const MCANDLE_ROW_KIND_SAMPLE: mcandle_row_kind = 0;
/// Two answers to a prompt, of which one is preferred.
pub const MCANDLE_ROW_KIND_PAIR: mcandle_row_kind = 1;

/// Gives the next row of a data set, on the thread that makes the data set.
///
/// @param[out] row Receives the JSON of the row, as it would be a line of a file; it is copied before
/// the next call.
/// @param[out] row_length Receives its length in bytes.
/// @param[in] user_data As it was given with the callback.
/// @return 1 with a row, 0 at the end, or a number below 0 to stop, which fails the call that makes the
/// data set with MCANDLE_CANCELLED.
pub type mcandle_row_callback = Option<
    unsafe extern "C-unwind" fn(
        row: *mut *const c_char,
        row_length: *mut usize,
        user_data: *mut c_void,
    ) -> i32,
>;

/// Tokenised rows to train on. It is never written, so trainers on several threads can share one.
#[derive(Debug)]
pub struct mcandle_dataset {
    pub(super) inner: Dataset,
    /// Of the rows that were left out.
    reasons: Vec<mcandle_string>,
}

impl mcandle_dataset {
    fn new(inner: Dataset) -> Self {
        let skipped = inner.skipped().iter();
        let reasons = skipped.map(|row| mcandle_string::new(&row.reason));
        Self {
            reasons: reasons.collect(),
            inner,
        }
    }
}

/// Reads a data set from a JSONL file: a JSON object in each line.
///
/// A row is {"text": ...}; {"prompt": ..., "completion": ...}; {"messages": [...]}, perhaps with
/// "tools", by the model's chat template; {"prefix": ..., "suffix": ..., "middle": ...}, by the model's
/// tokens for code to fill in; or {"prompt": ..., "chosen": ..., "rejected": ...}, which cannot be mixed
/// with the others. Prompts and answers are texts or lists of messages. Other keys are ignored.
///
/// Of a file that is too long to be kept in memory the rows are read again when they are used; then
/// the data set keeps the model, and a change of the file is an error.
///
/// @param[in] path The file, NUL-terminated UTF-8.
/// @param[in] model The model that will be trained.
/// @param[in] options Options, or NULL for the defaults.
/// @param[out] dataset Receives the data set on success, to be freed with mcandle_dataset_free().
/// @param[out] error Receives an error on failure, which names file and line; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NOT_FOUND, MCANDLE_IO, MCANDLE_INVALID_FORMAT, MCANDLE_TOKENIZER,
/// MCANDLE_INVALID_ARGUMENT for options out of range, and those of bad arguments.
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
            let model = borrow(model, "model")?;
            let options = resolve(options)?;
            let out = Out::new(dataset, "dataset")?;
            let inner = Dataset::from_jsonl(path, &model.inner, &options)?;
            out.give(mcandle_dataset::new(inner));
            Ok(())
        })
    }
}

/// Reads the data sets of a folder: train.jsonl, and where they are there valid.jsonl (or
/// validation.jsonl) and test.jsonl, each as mcandle_dataset_from_jsonl() does.
///
/// @param[in] path The folder, NUL-terminated UTF-8.
/// @param[in] model The model that will be trained.
/// @param[in] options Options, or NULL for the defaults.
/// @param[out] train Receives the rows to train on on success, to be freed with
/// mcandle_dataset_free().
/// @param[out] validation Receives the rows to evaluate on while training, to be freed likewise, or NULL
/// where there is no such file; may be NULL.
/// @param[out] test Receives the rows to evaluate on at the end, to be freed likewise, or NULL where
/// there is no such file; may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return As mcandle_dataset_from_jsonl(); MCANDLE_NOT_FOUND where there is no train.jsonl.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_from_folder(
    path: *const c_char,
    model: *const mcandle_model,
    options: *const mcandle_dataset_options,
    train: *mut *mut mcandle_dataset,
    validation: *mut *mut mcandle_dataset,
    test: *mut *mut mcandle_dataset,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a NUL-terminated path, live objects and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let path = handle::path(path, "path")?;
            let model = borrow(model, "model")?;
            let options = resolve(options)?;
            let out = Out::new(train, "train")?;
            let folder = DataFolder::open(path, &model.inner, &options)?;
            out.give(mcandle_dataset::new(folder.train));
            for (slot, inner) in [(validation, folder.validation), (test, folder.test)] {
                match (inner, slot.is_null()) {
                    (_, true) => {}
                    (Some(inner), false) => handle::give_object(slot, mcandle_dataset::new(inner)),
                    (None, false) => slot.write(ptr::null_mut()),
                }
            }
            Ok(())
        })
    }
}

/// Makes a data set of rows that a callback gives, for rows that come from elsewhere than a file. They
/// are kept in memory.
///
/// @param[in] next Gives one row after the other.
/// @param[in] user_data Given to the callback as it is; not used after the call.
/// @param[in] model The model that will be trained.
/// @param[in] options Options, or NULL for the defaults.
/// @param[out] dataset Receives the data set on success, to be freed with mcandle_dataset_free().
/// @param[out] error Receives an error on failure, in which the rows are numbered from 1; may be
/// NULL.
/// @return As mcandle_dataset_from_jsonl(); MCANDLE_CANCELLED where the callback stops.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_from_callback(
    next: mcandle_row_callback,
    user_data: *mut c_void,
    model: *const mcandle_model,
    options: *const mcandle_dataset_options,
    dataset: *mut *mut mcandle_dataset,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, writable outputs and a callback that may be called with
    // `user_data`, or NULL.
    unsafe {
        guard(error, || {
            let next =
                next.ok_or_else(|| mcandle_error::new(MCANDLE_NULL_POINTER, "`next` is NULL"))?;
            let model = borrow(model, "model")?;
            let options = resolve(options)?;
            let out = Out::new(dataset, "dataset")?;
            let rows = std::iter::from_fn(|| {
                let (mut row, mut length) = (ptr::null(), 0);
                match next(&raw mut row, &raw mut length, user_data) {
                    0 => None,
                    1 if row.is_null() => Some(Err(Error::option("row", "NULL", "JSON"))),
                    1 if length > isize::MAX.unsigned_abs() => {
                        let expected = "a length that fits into memory";
                        Some(Err(Error::option("row_length", length, expected)))
                    }
                    1 => Some(Ok(slice::from_raw_parts(row.cast::<u8>(), length).to_vec())),
                    ..0 => Some(Err(Error::Cancelled)),
                    other => Some(Err(Error::option(
                        "next",
                        other,
                        "1 with a row, 0 at the end, or below 0 to stop",
                    ))),
                }
            });
            let inner = Dataset::from_row_bytes(rows, &model.inner, &options)?;
            out.give(mcandle_dataset::new(inner));
            Ok(())
        })
    }
}

/// Tells what the rows of a data set are.
///
/// @param[in] dataset The data set, or NULL.
/// @return One of the MCANDLE_ROW_KIND_ constants; MCANDLE_ROW_KIND_SAMPLE for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_row_kind(
    dataset: *const mcandle_dataset,
) -> mcandle_row_kind {
    // SAFETY: the caller passes NULL or a live data set.
    match unsafe { dataset.as_ref() }.map(|dataset| dataset.inner.kind()) {
        Some(RowKind::Pair) => MCANDLE_ROW_KIND_PAIR,
        Some(RowKind::Sample) | None => MCANDLE_ROW_KIND_SAMPLE,
    }
}

/// Gives the number of rows.
///
/// @param[in] dataset The data set, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_length(dataset: *const mcandle_dataset) -> usize {
    // SAFETY: the caller passes NULL or a live data set.
    unsafe { dataset.as_ref() }.map_or(0, |dataset| dataset.inner.len())
}

/// Gives the number of tokens in all rows together.
///
/// @param[in] dataset The data set, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_token_count(dataset: *const mcandle_dataset) -> usize {
    // SAFETY: the caller passes NULL or a live data set.
    unsafe { dataset.as_ref() }.map_or(0, |dataset| dataset.inner.tokens())
}

/// Gives the number of tokens that are scored, in all rows together.
///
/// @param[in] dataset The data set, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_target_token_count(
    dataset: *const mcandle_dataset,
) -> usize {
    // SAFETY: the caller passes NULL or a live data set.
    unsafe { dataset.as_ref() }.map_or(0, |dataset| dataset.inner.target_tokens())
}

/// Gives the number of rows that were cut to the most tokens of a row.
///
/// @param[in] dataset The data set, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_truncated_count(dataset: *const mcandle_dataset) -> usize {
    // SAFETY: the caller passes NULL or a live data set.
    unsafe { dataset.as_ref() }.map_or(0, |dataset| dataset.inner.truncated())
}

/// Gives the number of rows that were left out because they could not be used. Of the first 100 of
/// them mcandle_dataset_skipped_line() and mcandle_dataset_skipped_reason() tell more.
///
/// @param[in] dataset The data set, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_skipped_count(dataset: *const mcandle_dataset) -> usize {
    // SAFETY: the caller passes NULL or a live data set.
    unsafe { dataset.as_ref() }.map_or(0, |dataset| dataset.inner.skipped_count())
}

/// Gives the place of a row that was left out.
///
/// @param[in] dataset The data set, or NULL.
/// @param[in] index Which of the rows that were left out, from 0.
/// @return The line in the file, or the number of the row, from 1; 0 for NULL and where none is known.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_skipped_line(
    dataset: *const mcandle_dataset,
    index: usize,
) -> usize {
    // SAFETY: the caller passes NULL or a live data set.
    let dataset = unsafe { dataset.as_ref() };
    let row = dataset.and_then(|dataset| dataset.inner.skipped().get(index));
    row.map_or(0, |row| row.line)
}

/// Tells why a row was left out.
///
/// @param[in] dataset The data set, or NULL.
/// @param[in] index Which of the rows that were left out, from 0.
/// @return A NUL-terminated string that lives as long as the data set; empty for NULL and where none
/// is known.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_skipped_reason(
    dataset: *const mcandle_dataset,
    index: usize,
) -> *const c_char {
    // SAFETY: the caller passes NULL or a live data set; there is no length to write.
    unsafe {
        let dataset = dataset.as_ref();
        let reason = dataset.and_then(|dataset| dataset.reasons.get(index));
        mcandle_string::give(reason, ptr::null_mut())
    }
}

/// Frees a data set. Trainers that use it keep what they need.
///
/// @param[in] dataset The data set; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_dataset_free(dataset: *mut mcandle_dataset) {
    // SAFETY: the caller passes NULL or a data set that it owns.
    unsafe { handle::free(dataset) }
}
