//! What a model makes of a given text: logits, log-probabilities, perplexity, embeddings.

use super::Generator;
use super::logprobs::{log_sum_exp, logprob};
use crate::error::{Error, Result};

/// Tokens whose logits are on the host at the same time.
const SCORED_AT_ONCE: usize = 64;
/// Tokens that are read at the same time where their logits are not wanted.
const READ_AT_ONCE: usize = 512;

/// How the hidden states of a text's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// That of the last token, which alone has seen all of the text.
    Last,
}

/// How well a model predicts a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// The exponential of the mean negative log-likelihood per scored token.
    pub perplexity: f64,
    /// The summed negative log-likelihood, in nats.
    pub sum_nll: f64,
    /// The number of scored tokens: all but the first.
    pub tokens: usize,
}

/// Scores of given texts. They use the generator's adapter, and its context: what was read before is
/// reused or forgotten as for a generation.
impl Generator {
    /// The logits of the token that follows `tokens`, one for each entry of the vocabulary.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for no tokens or one outside the vocabulary,
    /// [`Error::ContextFull`] for more than the context holds.
    pub fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.check_tokens(tokens, 1)?;
        self.context_mut().follow_model();
        self.context_mut().logits_after(tokens, READ_AT_ONCE)
    }

    /// The natural logarithm of the probability of each token after the first, given those before it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for fewer than two tokens or one outside the vocabulary,
    /// [`Error::ContextFull`] for more than the context holds, [`Error::NonFinite`] where the logits
    /// are not numbers.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::{Generator, ModelLoader};
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let tokens = model.tokenizer()?.encode("fn main() {", true)?;
    /// let logprobs = Generator::new(&model).logprobs(&tokens)?;
    /// assert_eq!(logprobs.len(), tokens.len() - 1);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn logprobs(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.context_mut().follow_model();
        self.score(tokens)
    }

    /// [`Generator::logprobs`] with the adapters that the context has.
    fn score(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.check_tokens(tokens, 2)?;
        self.context_mut().truncate(0);
        let inputs = &tokens[..tokens.len() - 1];
        let mut logprobs = Vec::with_capacity(inputs.len());
        for part in inputs.chunks(SCORED_AT_ONCE) {
            let logits = self.context_mut().logits(part, part.len())?;
            for logits in logits {
                let step = logprobs.len();
                if logits.iter().any(|x| x.is_nan() || *x == f32::INFINITY) {
                    return Err(Error::NonFinite {
                        what: "logits",
                        step,
                        rows: vec![],
                        checkpoint: None,
                        hint: "check the weights and adapter, or compute in a wider dtype",
                    });
                }
                let sum = log_sum_exp(&logits);
                logprobs.push(logprob(logits[tokens[step + 1] as usize], sum));
            }
        }
        Ok(logprobs)
    }

    /// The perplexity of a text, by a window of `window` tokens that moves by `stride`: each token is
    /// predicted from at least `window - stride` tokens before it where there are so many, as in
    /// transformers' documentation
    /// (<https://huggingface.co/docs/transformers/en/perplexity>).
    ///
    /// # Errors
    ///
    /// As [`Generator::logprobs`], but for the length; [`Error::InvalidOption`] where `stride` is 0 or
    /// not below `window`, and where `window` exceeds the context.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::{Generator, ModelLoader};
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let tokens = model.tokenizer()?.encode("fn main() {\n    println!(\"hello\");\n}\n", true)?;
    /// let score = Generator::new(&model).perplexity(&tokens, 512, 256)?;
    /// assert!(score.perplexity > 1.0);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn perplexity(
        &mut self,
        tokens: &[u32],
        window: usize,
        stride: usize,
    ) -> Result<Perplexity> {
        let capacity = self.model().config().max_position_embeddings;
        if window < 2 || window > capacity {
            let expected = format!("2 or more, up to the context of {capacity} tokens");
            return Err(Error::option("window", window, expected));
        }
        if stride == 0 || stride >= window {
            let expected = format!("1 or more, below `window`, {window}");
            return Err(Error::option("stride", stride, expected));
        }
        // Once, so that all of the text is scored alike.
        self.context_mut().follow_model();
        let mut sum_nll = 0.0;
        let mut scored = 0;
        let mut start = 0;
        loop {
            let end = tokens.len().min(start + window);
            let logprobs = self.score(&tokens[start..end])?;
            // Token 0 is never scored: the scored ones so far are those up to `scored`.
            let new = end - 1 - scored;
            let (_, logprobs) = logprobs.split_at(logprobs.len() - new);
            sum_nll -= logprobs.iter().map(|&x| f64::from(x)).sum::<f64>();
            scored += new;
            if end == tokens.len() {
                break;
            }
            start += stride;
        }
        #[allow(clippy::cast_precision_loss, reason = "a count of tokens fits f64")]
        let mean = sum_nll / scored as f64;
        Ok(Perplexity {
            perplexity: mean.exp(),
            sum_nll,
            tokens: scored,
        })
    }

    /// A vector that stands for a text: the hidden states after the final norm, pooled, and scaled to
    /// length 1 with `normalize`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for no tokens or one outside the vocabulary,
    /// [`Error::ContextFull`] for more than the context holds.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::inference::Pooling;
    /// use metal_candle::{Generator, ModelLoader};
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let tokens = model.tokenizer()?.encode("fn main() {}", true)?;
    /// let vector = Generator::new(&model).embed(&tokens, Pooling::Mean, true)?;
    /// assert_eq!(vector.len(), model.config().hidden_size);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn embed(&mut self, tokens: &[u32], pooling: Pooling, normalize: bool) -> Result<Vec<f32>> {
        self.check_tokens(tokens, 1)?;
        self.context_mut().follow_model();
        self.context_mut().truncate(0);
        let mut pooled = vec![0.0; self.model().config().hidden_size];
        for part in tokens.chunks(READ_AT_ONCE) {
            for state in self.context_mut().hidden(part)? {
                match pooling {
                    Pooling::Last => pooled.fill(0.0),
                    Pooling::Mean => {}
                }
                for (sum, x) in pooled.iter_mut().zip(state) {
                    *sum += f64::from(x);
                }
            }
        }
        #[allow(clippy::cast_precision_loss, reason = "a count of tokens fits f64")]
        let mut divisor = match pooling {
            Pooling::Mean => tokens.len() as f64,
            Pooling::Last => 1.0,
        };
        if normalize {
            let length = pooled.iter().map(|x| x * x).sum::<f64>().sqrt();
            divisor = if length > 0.0 { length } else { 1.0 };
        }
        #[allow(clippy::cast_possible_truncation, reason = "rounding is meant")]
        let scaled = pooled.iter().map(|x| (x / divisor) as f32);
        Ok(scaled.collect())
    }

    fn check_tokens(&self, tokens: &[u32], least: usize) -> Result<()> {
        let config = self.model().config();
        if tokens.len() < least {
            let expected = format!("at least {least}");
            let found = format!("{} ids", tokens.len());
            return Err(Error::option("tokens", found, expected));
        }
        if tokens.len() > config.max_position_embeddings {
            return Err(Error::ContextFull {
                needed: tokens.len(),
                capacity: config.max_position_embeddings,
            });
        }
        super::sequence::check_ids("tokens", tokens, config.vocab_size)
    }
}
