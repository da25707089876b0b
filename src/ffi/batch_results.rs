//! What became of the texts of a batch.

use super::error::mcandle_error;
use super::generation::mcandle_generation;
use super::handle::{self, Result};
use crate::inference::Generation;

/// What became of the texts of a batch that finished: a generation or an error for each.
#[derive(Debug)]
pub struct mcandle_batch_results {
    results: Vec<(usize, Result<mcandle_generation>)>,
}

impl mcandle_batch_results {
    pub(super) fn new(results: Vec<(usize, crate::Result<Generation>)>) -> Self {
        let results = results.into_iter().map(|(sequence, result)| {
            let result = result.map(mcandle_generation::new);
            (sequence, result.map_err(mcandle_error::from))
        });
        Self {
            results: results.collect(),
        }
    }

    /// # Safety
    ///
    /// `results` is NULL or live for `'a`.
    unsafe fn at<'a>(
        results: *const Self,
        index: usize,
    ) -> Option<&'a (usize, Result<mcandle_generation>)> {
        // SAFETY: as the caller promises.
        unsafe { results.as_ref() }?.results.get(index)
    }
}

/// Gives the number of results.
///
/// @param[in] results The results, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_results_length(
    results: *const mcandle_batch_results,
) -> usize {
    // SAFETY: the caller passes NULL or live results.
    unsafe { results.as_ref() }.map_or(0, |results| results.results.len())
}

/// Gives the text that a result belongs to.
///
/// @param[in] results The results, or NULL.
/// @param[in] index The place of the result, below their number.
/// @return The number that the text got when it was added; 0 for NULL and places out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_results_sequence(
    results: *const mcandle_batch_results,
    index: usize,
) -> usize {
    // SAFETY: the caller passes NULL or live results.
    unsafe { mcandle_batch_results::at(results, index) }.map_or(0, |(sequence, _)| *sequence)
}

/// Gives the generation of a text that did not fail.
///
/// @param[in] results The results, or NULL.
/// @param[in] index The place of the result, below their number.
/// @return The generation, which lives as long as the results and is not to be freed; NULL for a text
/// that failed, for NULL and places out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_results_generation(
    results: *const mcandle_batch_results,
    index: usize,
) -> *const mcandle_generation {
    // SAFETY: the caller passes NULL or live results.
    match unsafe { mcandle_batch_results::at(results, index) } {
        Some((_, Ok(generation))) => generation,
        _ => std::ptr::null(),
    }
}

/// Gives the error of a text that failed.
///
/// @param[in] results The results, or NULL.
/// @param[in] index The place of the result, below their number.
/// @return The error, which lives as long as the results and is not to be freed; NULL for a text that
/// did not fail, for NULL and places out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_results_error(
    results: *const mcandle_batch_results,
    index: usize,
) -> *const mcandle_error {
    // SAFETY: the caller passes NULL or live results.
    match unsafe { mcandle_batch_results::at(results, index) } {
        Some((_, Err(error))) => error,
        _ => std::ptr::null(),
    }
}

/// Frees results, with their generations and errors.
///
/// @param[in] results The results; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_batch_results_free(results: *mut mcandle_batch_results) {
    // SAFETY: the caller passes NULL or results that it owns.
    unsafe { handle::free(results) }
}
