//! Scores of given texts: logits, log-probabilities, perplexity, embeddings.

use super::error::{MCANDLE_INVALID_ARGUMENT, mcandle_error, mcandle_status};
use super::floats::mcandle_floats;
use super::generator::mcandle_generator;
use super::handle::{self, Out, Result, borrow};
use super::panic::guard;
use crate::inference::Pooling;

/// How the hidden states of the tokens of a text become one vector: one of the MCANDLE_POOLING_
/// constants.
pub type mcandle_pooling = i32;

/// Their mean.
pub const MCANDLE_POOLING_MEAN: mcandle_pooling = 0;
/// That of the last token, which alone has seen all of the text.
pub const MCANDLE_POOLING_LAST: mcandle_pooling = 1;

fn pooling_of(pooling: mcandle_pooling) -> Result<Pooling> {
    match pooling {
        MCANDLE_POOLING_MEAN => Ok(Pooling::Mean),
        MCANDLE_POOLING_LAST => Ok(Pooling::Last),
        other => Err(mcandle_error::new(
            MCANDLE_INVALID_ARGUMENT,
            format!("`pooling` is {other}; expected one of the MCANDLE_POOLING_ constants"),
        )),
    }
}

/// Gives the logits of the token that follows a text.
///
/// @param[in,out] generator The generator. Its adapter counts; what it has read is reused or
/// forgotten, as for a generation.
/// @param[in] ids The token ids of the text, at least one.
/// @param[in] id_count Their number.
/// @param[out] logits Receives one for each id of the vocabulary on success, to be freed with
/// mcandle_floats_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT for too few ids and one outside the vocabulary,
/// MCANDLE_CONTEXT_FULL, MCANDLE_BUSY, MCANDLE_BACKEND, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_next_logits(
    generator: *mut mcandle_generator,
    ids: *const u32,
    id_count: usize,
    logits: *mut *mut mcandle_floats,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live generator, readable ids and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let ids = handle::items(ids, id_count, "ids")?;
            let out = Out::new(logits, "logits")?;
            let values = generator
                .inner
                .with("generator", |inner| Ok(inner.next_logits(ids)?))?;
            out.give(mcandle_floats { values });
            Ok(())
        })
    }
}

/// Gives the natural logarithm of the probability of each token of a text after the first, given
/// those before it.
///
/// @param[in,out] generator The generator. Its adapter counts; what it has read is reused or
/// forgotten, as for a generation.
/// @param[in] ids The token ids of the text, at least two.
/// @param[in] id_count Their number.
/// @param[out] logprobs Receives one less than there are ids on success, to be freed with
/// mcandle_floats_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT for too few ids and one outside the vocabulary,
/// MCANDLE_CONTEXT_FULL, MCANDLE_NON_FINITE, MCANDLE_BUSY, MCANDLE_BACKEND, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_logprobs(
    generator: *mut mcandle_generator,
    ids: *const u32,
    id_count: usize,
    logprobs: *mut *mut mcandle_floats,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live generator, readable ids and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let ids = handle::items(ids, id_count, "ids")?;
            let out = Out::new(logprobs, "logprobs")?;
            let values = generator
                .inner
                .with("generator", |inner| Ok(inner.logprobs(ids)?))?;
            out.give(mcandle_floats { values });
            Ok(())
        })
    }
}

/// Gives the perplexity of a text, by a window that moves over it: each token is predicted from at
/// least window - stride tokens before it, where there are so many.
///
/// @param[in,out] generator The generator. Its adapter counts; what it has read is forgotten.
/// @param[in] ids The token ids of the text, at least two.
/// @param[in] id_count Their number, which may exceed the context.
/// @param[in] window The length of the window in tokens: 2 or more, up to the context of the model.
/// @param[in] stride By how many tokens it moves: 1 or more, below the window.
/// @param[out] perplexity Receives the exponential of the mean negative log-likelihood per scored
/// token.
/// @param[out] sum_nll Receives the summed negative log-likelihood, in nats; may be NULL.
/// @param[out] token_count Receives the number of scored tokens, all but the first; may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT for too few ids, one outside the vocabulary, window
/// and stride out of range, MCANDLE_NON_FINITE, MCANDLE_BUSY, MCANDLE_BACKEND, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_perplexity(
    generator: *mut mcandle_generator,
    ids: *const u32,
    id_count: usize,
    window: usize,
    stride: usize,
    perplexity: *mut f64,
    sum_nll: *mut f64,
    token_count: *mut usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live generator, readable ids and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let ids = handle::items(ids, id_count, "ids")?;
            let perplexity = handle::place(perplexity, "perplexity")?;
            let score = generator.inner.with("generator", |inner| {
                Ok(inner.perplexity(ids, window, stride)?)
            })?;
            perplexity.write(score.perplexity);
            handle::give_number(sum_nll, score.sum_nll);
            handle::give_number(token_count, score.tokens);
            Ok(())
        })
    }
}

/// Gives a vector that stands for a text: the hidden states after the last layer, pooled.
///
/// @param[in,out] generator The generator. Its adapter counts; what it has read is reused or
/// forgotten, as for a generation.
/// @param[in] ids The token ids of the text, at least one.
/// @param[in] id_count Their number.
/// @param[in] pooling One of the MCANDLE_POOLING_ constants; mean pooling is usual.
/// @param[in] normalize Whether to scale the vector to length 1.
/// @param[out] embedding Receives as many numbers as the model is wide on success, to be freed with
/// mcandle_floats_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT for too few ids, one outside the vocabulary and a
/// pooling that is none, MCANDLE_CONTEXT_FULL, MCANDLE_BUSY, MCANDLE_BACKEND, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_embed(
    generator: *mut mcandle_generator,
    ids: *const u32,
    id_count: usize,
    pooling: mcandle_pooling,
    normalize: bool,
    embedding: *mut *mut mcandle_floats,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live generator, readable ids and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let ids = handle::items(ids, id_count, "ids")?;
            let pooling = pooling_of(pooling)?;
            let out = Out::new(embedding, "embedding")?;
            let values = generator.inner.with("generator", |inner| {
                Ok(inner.embed(ids, pooling, normalize)?)
            })?;
            out.give(mcandle_floats { values });
            Ok(())
        })
    }
}
