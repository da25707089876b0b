//! Choosing the next token from the logits of a model.

mod dry;
mod filters;
mod penalties;
mod ranked;
mod scale;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::dry::Breakers;
use self::penalties::Scratch;
use self::ranked::Ranked;
use super::SamplingOptions;
use crate::models::{Model, Tokenizer};
use crate::{Error, Result};

pub(super) use self::ranked::sum;
pub(super) use self::scale::Scale;

/// Draws tokens from logits with a seeded random generator.
///
/// # Example
///
/// ```
/// use metal_candle::inference::{Sampler, SamplingOptions};
///
/// let mut sampler = Sampler::new(SamplingOptions::default())?;
/// assert_eq!(sampler.sample(&[0.1, 2.5, -1.0], &[], 0)?, 1);
///
/// let mut sampler = Sampler::new(SamplingOptions {
///     frequency_penalty: 2.0,
///     ..SamplingOptions::default()
/// })?;
/// assert_eq!(sampler.sample(&[0.1, 2.5, -1.0], &[1, 1], 0)?, 0);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    breakers: Breakers,
    rng: ChaCha8Rng,
    /// Kept from token to token to save the allocations.
    buffers: Buffers,
}

#[derive(Debug, Clone, Default)]
struct Buffers {
    penalties: Scratch,
    maxima: Vec<f32>,
    weights: Vec<f32>,
    kept: Vec<Ranked>,
}

impl Sampler {
    /// A sampler at the start of its random sequence.
    ///
    /// Without a tokenizer the sequence breakers of DRY match no token:
    /// [`with_tokenizer`](Self::with_tokenizer) is for them.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if an option is out of its range.
    pub fn new(options: SamplingOptions) -> Result<Self> {
        options.validate()?;
        Ok(Self {
            rng: ChaCha8Rng::seed_from_u64(options.seed),
            breakers: Breakers::default(),
            options,
            buffers: Buffers::default(),
        })
    }

    /// [`new`](Self::new), with the tokens whose text contains a sequence breaker of DRY.
    ///
    /// The first time that DRY is on, this decodes each token of the vocabulary once.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_tokenizer(options: SamplingOptions, tokenizer: &Tokenizer) -> Result<Self> {
        let mut sampler = Self::new(options)?;
        let options = &sampler.options;
        if options.dry_multiplier > 0.0 && !options.dry_sequence_breakers.is_empty() {
            sampler.breakers = Breakers::new(&options.dry_sequence_breakers, tokenizer);
        }
        Ok(sampler)
    }

    /// [`with_tokenizer`](Self::with_tokenizer) where the model has one, else [`new`](Self::new).
    pub(super) fn for_model(options: SamplingOptions, model: &Model) -> Result<Self> {
        match model.tokenizer() {
            Ok(tokenizer) => Self::with_tokenizer(options, tokenizer),
            Err(_) => Self::new(options),
        }
    }

    /// Whether the most likely token is always taken, without randomness.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.options.temperature <= 0.0
    }

    /// Whether the most likely token is taken as the model has it, without biases and penalties.
    pub(super) fn takes_most_likely(&self) -> bool {
        self.is_greedy() && !penalties::is_on(&self.options)
    }

    /// The next token, drawn from `logits`, one per token of the vocabulary.
    ///
    /// A logit of negative infinity masks its token. `history` is the prompt and the generated
    /// tokens, in their order; only the penalties look at it. `step` is the number of the generated
    /// token, from 0; it only serves error messages.
    ///
    /// Takes one random number per token, two where XTC is on, none where
    /// [`is_greedy`](Self::is_greedy).
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] if a logit is NaN or positive infinity or if all tokens are masked;
    /// [`Error::InvalidOption`] if an id in `logit_bias`, or one in a history that a penalty looks at,
    /// is outside the vocabulary.
    pub fn sample(&mut self, logits: &[f32], history: &[u32], step: usize) -> Result<u32> {
        let greedy = self.is_greedy();
        let (options, buffers) = (&self.options, &mut self.buffers);
        let scratch = &mut buffers.penalties;
        let logits = penalties::apply(options, &self.breakers, logits, history, scratch)?;
        let best = most_likely(logits, step, &mut buffers.maxima)?;
        if greedy {
            return Ok(best.id());
        }
        let scale = Scale::new(best.logit(), options.temperature);
        if !filters::is_on(options, logits.len()) {
            buffers.weights.clear();
            let weights = logits.iter().map(|&logit| scale.weight(logit));
            buffers.weights.extend(weights);
            return Ok(id(ranked::draw(&buffers.weights, self.rng.random())));
        }
        let kept = &mut buffers.kept;
        filters::keep(options, logits, &buffers.maxima, scale, kept);
        if options.xtc_probability > 0.0 && self.rng.random::<f64>() < options.xtc_probability {
            filters::exclude_top_choices(options.xtc_threshold, scale, kept);
        }
        let target = self.rng.random::<f64>() * scale.mass(kept);
        let drawn = ranked::crossing(kept, |token| scale.weight_of(*token), target);
        Ok(kept.get(drawn).map_or(best.id(), |token| token.id()))
    }

    /// The distribution that [`sample`](Self::sample) draws from: one probability per logit, 0 for
    /// the tokens that are filtered out.
    ///
    /// Where XTC is on, it is the mixture of the two distributions with and without the top choices.
    /// Draws nothing, so it does not change the tokens to come.
    ///
    /// # Errors
    ///
    /// As [`sample`](Self::sample).
    pub fn probabilities(&self, logits: &[f32], history: &[u32]) -> Result<Vec<f32>> {
        let options = &self.options;
        let Buffers {
            mut penalties,
            mut maxima,
            mut kept,
            ..
        } = Buffers::default();
        let logits = penalties::apply(options, &self.breakers, logits, history, &mut penalties)?;
        let best = most_likely(logits, 0, &mut maxima)?;
        let mut probabilities = vec![0.0; logits.len()];
        if self.is_greedy() {
            probabilities[best.id() as usize] = 1.0;
            return Ok(probabilities);
        }
        let scale = Scale::new(best.logit(), options.temperature);
        filters::keep(options, logits, &maxima, scale, &mut kept);
        add_share(
            &mut probabilities,
            &kept,
            scale,
            1.0 - options.xtc_probability,
        );
        if options.xtc_probability > 0.0 {
            filters::exclude_top_choices(options.xtc_threshold, scale, &mut kept);
            add_share(&mut probabilities, &kept, scale, options.xtc_probability);
        }
        Ok(probabilities)
    }

    /// Accepts the token that a draft model proposed, or draws another one, so that the result is
    /// distributed as if it were drawn from `target`. Says whether it was accepted.
    ///
    /// `target` are the probabilities of the model, and `draft` those that `token` was drawn from;
    /// both as [`probabilities`](Self::probabilities) gives them. A token is accepted with the
    /// probability `target / draft`, 1 at most; else one is drawn from what `target` has more than
    /// `draft`. Probabilities beyond the end of one of the two are 0.
    ///
    /// Takes one random number, two where the token is not accepted. From Leviathan et al., 2023.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::inference::{Sampler, SamplingOptions};
    ///
    /// let mut sampler = Sampler::new(SamplingOptions::default())?;
    /// assert_eq!(sampler.accept_draft(&[0.2, 0.8], &[0.5, 0.5], 1), (1, true));
    /// assert_eq!(sampler.accept_draft(&[0.0, 1.0], &[0.5, 0.5], 0), (1, false));
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn accept_draft(&mut self, target: &[f32], draft: &[f32], token: u32) -> (u32, bool) {
        let at = |probabilities: &[f32]| {
            let probability = probabilities.get(token as usize);
            f64::from(probability.copied().unwrap_or(0.0))
        };
        if self.rng.random::<f64>() * at(draft) < at(target) {
            return (token, true);
        }
        let beyond = draft.iter().copied().chain(std::iter::repeat(0.0));
        let rest = target.iter().zip(beyond).map(|(t, d)| (t - d).max(0.0));
        let mut weights = std::mem::take(&mut self.buffers.weights);
        weights.clear();
        weights.extend(rest);
        // Nothing is left only where rounding makes the two differ; they are the same then.
        let left = weights.iter().any(|&weight| weight > 0.0);
        let token = self.draw(if left { &weights } else { target });
        self.buffers.weights = weights;
        (token, false)
    }

    /// An id drawn from probabilities, one per token of the vocabulary, which need not sum to 1.
    ///
    /// They must be finite, at least 0, and one of them above 0; an id whose probability is 0 is never
    /// drawn then. Takes one random number.
    pub fn draw(&mut self, probabilities: &[f32]) -> u32 {
        id(ranked::draw(probabilities, self.rng.random()))
    }
}

/// The id of the token at this place of the vocabulary.
fn id(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Adds the probabilities of the tokens that are kept, `share` in all.
#[allow(clippy::cast_possible_truncation)] // Rounding to f32 is meant.
fn add_share(probabilities: &mut [f32], kept: &[Ranked], scale: Scale, share: f64) {
    let per_weight = share / scale.mass(kept);
    for token in kept {
        let probability = f64::from(scale.weight_of(*token)) * per_weight;
        probabilities[token.id() as usize] += probability as f32;
    }
}

/// Checks all logits and finds the highest, the lowest id on ties. Writes the maxima of their chunks.
fn most_likely(logits: &[f32], step: usize, maxima: &mut Vec<f32>) -> Result<Ranked> {
    let non_finite = |hint| Error::NonFinite {
        what: "logits",
        step,
        rows: vec![],
        checkpoint: None,
        hint,
    };
    if !ranked::chunk_maxima(logits, maxima) {
        return Err(non_finite(
            "check the weights and adapter, or compute in a wider dtype",
        ));
    }
    let highest = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut chunks = logits.chunks(ranked::CHUNK).zip(&*maxima).enumerate();
    let best = chunks
        .find(|(_, (_, max))| **max >= highest)
        .and_then(|(index, (chunk, _))| {
            let place = chunk.iter().position(|&logit| logit >= highest)?;
            Some(Ranked::new(id(index * ranked::CHUNK + place), highest))
        });
    match best {
        Some(best) if highest > f32::NEG_INFINITY => Ok(best),
        _ => Err(non_finite("at least one token must not be masked")),
    }
}

#[cfg(test)]
mod tests;
