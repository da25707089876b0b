//! Options of a generation: how a token is chosen.
//!
//! The steps are applied in the order of `SamplingOptions`.

use super::error::{mcandle_error, mcandle_status};
use super::generate_options::mcandle_generate_options;
use super::handle::{self, borrow_mut};
use super::panic::guard;
use std::ffi::c_char;

/// Sets the temperature of sampling: it divides the logits. Below 1 sharpens, above 1 flattens the
/// distribution.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] temperature 0 for always the most likely token, or more; finite. Default 0.
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
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] top_k 0 for all. Default 0.
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
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] top_p Above 0 and at most 1, which is for all. Default 1.
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

/// Sets the least probability to sample from, as a share of that of the most likely token.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] min_p 0 to 1; 0 is for all. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_min_p(
    options: *mut mcandle_generate_options,
    min_p: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.min_p = min_p;
    }
}

/// Sets the probability that the most typical tokens must reach together to be sampled from: those
/// whose information is closest to the entropy of the distribution come first.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] typical_p Above 0 and at most 1, which is for all. Default 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_typical_p(
    options: *mut mcandle_generate_options,
    typical_p: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.typical_p = typical_p;
    }
}

/// Sets how often a token is drawn without the top choices (XTC): all tokens that have the threshold
/// or more, but the least likely one of them.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] xtc_probability 0 to 1; 0 is never. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_xtc_probability(
    options: *mut mcandle_generate_options,
    xtc_probability: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.xtc_probability = xtc_probability;
    }
}

/// Sets the least probability of a top choice of XTC.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] xtc_threshold 0 to 0.5. Default 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_xtc_threshold(
    options: *mut mcandle_generate_options,
    xtc_threshold: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.xtc_threshold = xtc_threshold;
    }
}

/// Sets the factor by which tokens that occurred are made less likely: a divisor of their positive
/// logits, and a factor of the negative ones.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] repetition_penalty Above 0 and finite; 1 is for none, below 1 makes them more likely.
/// Default 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_repetition_penalty(
    options: *mut mcandle_generate_options,
    repetition_penalty: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.repetition_penalty = repetition_penalty;
    }
}

/// Sets what is subtracted from the logits of tokens that occurred, once for each token.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] presence_penalty Finite, usually -2 to 2. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_presence_penalty(
    options: *mut mcandle_generate_options,
    presence_penalty: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.presence_penalty = presence_penalty;
    }
}

/// Sets what is subtracted from the logit of a token as often as it occurred.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] frequency_penalty Finite, usually -2 to 2. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_frequency_penalty(
    options: *mut mcandle_generate_options,
    frequency_penalty: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.frequency_penalty = frequency_penalty;
    }
}

/// Sets the number of last tokens, of prompt and answer together, in which the penalties on
/// repetition, presence and frequency look for a token.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] penalty_last_n 0 for all. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_penalty_last_n(
    options: *mut mcandle_generate_options,
    penalty_last_n: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.penalty_last_n = penalty_last_n;
    }
}

/// Sets the size of the penalty on going on with a repetition (DRY): a token that would go on with a
/// repetition of n tokens loses multiplier * base^(n - allowed length) of its logit.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] dry_multiplier 0 for none, or more; finite. 0.8 is usual. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_dry_multiplier(
    options: *mut mcandle_generate_options,
    dry_multiplier: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.dry_multiplier = dry_multiplier;
    }
}

/// Sets the growth of the DRY penalty with each further token of a repetition.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] dry_base At least 1 and finite. Default 1.75.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_dry_base(
    options: *mut mcandle_generate_options,
    dry_base: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.dry_base = dry_base;
    }
}

/// Sets the shortest repetition that has a DRY penalty, in tokens.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] dry_allowed_length Any number. Default 2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_dry_allowed_length(
    options: *mut mcandle_generate_options,
    dry_allowed_length: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.dry_allowed_length = dry_allowed_length;
    }
}

/// Sets the number of last tokens, of prompt and answer together, in which DRY looks for repetitions.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] dry_penalty_last_n 0 for all. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_dry_penalty_last_n(
    options: *mut mcandle_generate_options,
    dry_penalty_last_n: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.dry_penalty_last_n = dry_penalty_last_n;
    }
}

/// Adds a text that ends a repetition for DRY: no repetition goes over a token that has it in its
/// text, nor is such a token penalised. By default there are a line break, ":", "\"" and "*".
///
/// @param[in,out] options The options.
/// @param[in] breaker The text in UTF-8; it is copied. An empty one is reported by the call that
/// uses the options.
/// @param[in] breaker_length Its length in bytes.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_add_dry_sequence_breaker(
    options: *mut mcandle_generate_options,
    breaker: *const c_char,
    breaker_length: usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes options that nobody else uses now and readable text, or NULL.
    unsafe {
        guard(error, || {
            let options = borrow_mut(options, "options")?;
            let breaker = handle::text(breaker, breaker_length, "breaker")?;
            let breakers = &mut options.inner.sampling.dry_sequence_breakers;
            breakers.push(breaker.to_owned());
            Ok(())
        })
    }
}

/// Removes all texts that end a repetition for DRY, those of the default included.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_clear_dry_sequence_breakers(
    options: *mut mcandle_generate_options,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.dry_sequence_breakers.clear();
    }
}

/// Sets what is added to the logit of a token before anything else. Another call for the same token
/// replaces it.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] id The id of the token, below the size of the model's vocabulary.
/// @param[in] bias A finite number, or negative infinity for a token that must not be drawn.
/// Default 0 for each token.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_set_logit_bias(
    options: *mut mcandle_generate_options,
    id: u32,
    bias: f32,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.logit_bias.insert(id, bias);
    }
}

/// Removes what mcandle_generate_options_set_logit_bias() set, for all tokens.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generate_options_clear_logit_bias(
    options: *mut mcandle_generate_options,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.sampling.logit_bias.clear();
    }
}

/// Sets the seed of sampling. The same seed, model and device give the same tokens.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] seed Any number. Default 0.
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
