//! Prefill, then one token at a time, each handed to the caller as it comes.

use super::{Detokenizer, Sampler, SamplingOptions};
use crate::backend::device;
use crate::cancel::CancelHandle;
use crate::error::{Error, Result};
use crate::models::{KvCache, LoRAAdapter, Model};
use candle_core::Tensor;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// How a text is continued.
///
/// # Example
///
/// ```
/// use metal_candle::{GenerateOptions, SamplingOptions};
///
/// let options = GenerateOptions {
///     max_tokens: 64,
///     sampling: SamplingOptions {
///         temperature: 0.7,
///         top_p: 0.9,
///         ..SamplingOptions::default()
///     },
///     ..GenerateOptions::default()
/// };
/// assert_eq!(options.prefill_chunk, 512);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// The most tokens to generate, at least 1. Default 256, as in mlx-lm.
    pub max_tokens: usize,
    /// How a token is chosen. The default is greedy.
    pub sampling: SamplingOptions,
    /// Prompt tokens computed at once, at least 1. Default 512. Memory for activations grows with
    /// it; results do not depend on it but for rounding.
    pub prefill_chunk: usize,
    /// Go on after a token that ends the text. Default false.
    pub ignore_eos: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            sampling: SamplingOptions::default(),
            prefill_chunk: 512,
            ignore_eos: false,
        }
    }
}

impl GenerateOptions {
    /// Checks the ranges of all fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the field and its range.
    pub fn validate(&self) -> Result<()> {
        if self.max_tokens == 0 {
            return Err(Error::option("max_tokens", 0, "at least 1"));
        }
        if self.prefill_chunk == 0 {
            return Err(Error::option("prefill_chunk", 0, "at least 1"));
        }
        self.sampling.validate()
    }
}

/// One generated token, as the callback sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// The token's place among the generated ones, from 0.
    pub index: usize,
    /// The token.
    pub token: u32,
    /// The text that became complete with it: whole characters only, so that it is empty while the
    /// bytes of a character are still coming, and empty for special tokens.
    pub text: String,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended the text.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
    /// The callback or another thread asked to stop.
    Cancelled,
}

/// A finished generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The generated text, without special tokens; empty where the model has no tokenizer.
    pub text: String,
    /// The generated tokens, without the one that ended the text.
    pub tokens: Vec<u32>,
    /// The number of prompt tokens.
    pub prompt_tokens: usize,
    /// From the call to the first token: prefill and one choice.
    pub time_to_first_token: Duration,
    /// Tokens per second after the first one; 0 where there is no second one.
    pub tokens_per_second: f64,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Generates text with a model, and perhaps an adapter.
///
/// A generator owns a key-value cache, so it serves one generation at a time; make one for each
/// thread. It holds the model's weights by reference count.
///
/// # Example
///
/// ```
/// use metal_candle::{GenerateOptions, Generator, ModelLoader};
/// use std::ops::ControlFlow;
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// let mut generator = Generator::new(&model);
/// let options = GenerateOptions {
///     max_tokens: 8,
///     ..GenerateOptions::default()
/// };
/// let generation = generator.generate("fn main() {\n", &options, |chunk| {
///     print!("{}", chunk.text);
///     ControlFlow::Continue(())
/// })?;
/// assert!(generation.tokens.len() <= 8);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug)]
pub struct Generator {
    model: Model,
    cache: KvCache,
    adapter: Option<LoRAAdapter>,
    cancel: CancelHandle,
}

impl Generator {
    /// A generator for the model.
    #[must_use]
    pub fn new(model: &Model) -> Self {
        Self {
            cache: model.decoder().new_cache(),
            model: model.clone(),
            adapter: None,
            cancel: CancelHandle::default(),
        }
    }

    /// Uses an adapter from the next generation on, or none.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] where the adapter was made for a model of another shape.
    pub fn set_adapter(&mut self, adapter: Option<LoRAAdapter>) -> Result<()> {
        if let Some(adapter) = &adapter {
            adapter.check(self.model.config())?;
        }
        self.adapter = adapter;
        Ok(())
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A handle that stops the running generation from any thread.
    #[must_use]
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Continues `prompt`. The callback gets every token as it comes, and stops the generation by
    /// returning [`ControlFlow::Break`].
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] without a tokenizer, [`Error::ContextFull`] where the prompt leaves no room
    /// for a token, [`Error::InvalidOption`] for an empty prompt and options out of range,
    /// [`Error::NonFinite`] where the logits are not numbers.
    pub fn generate(
        &mut self,
        prompt: &str,
        options: &GenerateOptions,
        on_chunk: impl FnMut(&Chunk) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let ids = self.model.tokenizer()?.encode(prompt, true)?;
        self.generate_from_ids(&ids, options, on_chunk)
    }

    /// [`Generator::generate`] for a prompt of token ids; needs no tokenizer.
    ///
    /// # Errors
    ///
    /// As [`Generator::generate`]; [`Error::InvalidOption`] for an id outside the vocabulary.
    pub fn generate_from_ids(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_chunk: impl FnMut(&Chunk) -> ControlFlow<()>,
    ) -> Result<Generation> {
        options.validate()?;
        self.check_prompt(prompt)?;
        self.cancel.reset();
        let model = self.model.clone();
        let room = model.config().max_position_embeddings - prompt.len();
        let max_tokens = options.max_tokens.min(room);
        let mut detokenizer = model.tokenizer().ok().map(Detokenizer::new);
        let mut sampler = Sampler::new(options.sampling.clone())?;
        let started = Instant::now();

        self.cache.truncate(0);
        self.cache.reserve(prompt.len() + max_tokens);
        let mut generation = Generation {
            text: String::new(),
            tokens: vec![],
            prompt_tokens: prompt.len(),
            time_to_first_token: Duration::ZERO,
            tokens_per_second: 0.0,
            finish_reason: FinishReason::Length,
        };
        let Some(mut logits) = self.prefill(prompt, options.prefill_chunk)? else {
            generation.finish_reason = FinishReason::Cancelled;
            return Ok(generation);
        };
        let mut first = None;
        for index in 0..max_tokens {
            let token = sampler.sample(&logits, index)?;
            let first = *first.get_or_insert_with(Instant::now);
            generation.tokens_per_second = rate(index, first.elapsed());
            if !options.ignore_eos && model.eos_token_ids().contains(&token) {
                generation.finish_reason = FinishReason::Stop;
                break;
            }
            generation.tokens.push(token);
            let text = match &mut detokenizer {
                Some(detokenizer) => detokenizer.push(token)?.unwrap_or_default(),
                None => String::new(),
            };
            generation.text.push_str(&text);
            let chunk = Chunk { index, token, text };
            if on_chunk(&chunk).is_break() || self.cancel.is_requested() {
                generation.finish_reason = FinishReason::Cancelled;
                break;
            }
            if index + 1 < max_tokens {
                logits = self.step(&[token])?;
            }
        }
        generation.time_to_first_token = first.map_or(started.elapsed(), |first| first - started);
        // Text that was held back for bytes that never came.
        let rest = match &mut detokenizer {
            Some(detokenizer) => detokenizer.finish()?,
            None => None,
        };
        if let (Some(text), Some(&token)) = (rest, generation.tokens.last()) {
            generation.text.push_str(&text);
            if generation.finish_reason != FinishReason::Cancelled {
                let index = generation.tokens.len() - 1;
                // The generation is over; there is nothing left to stop.
                let _ = on_chunk(&Chunk { index, token, text });
            }
        }
        Ok(generation)
    }

    fn check_prompt(&self, prompt: &[u32]) -> Result<()> {
        let config = self.model.config();
        if prompt.is_empty() {
            return Err(Error::option("prompt", "empty", "at least one token"));
        }
        if prompt.len() >= config.max_position_embeddings {
            return Err(Error::ContextFull {
                needed: prompt.len() + 1,
                capacity: config.max_position_embeddings,
            });
        }
        match prompt.iter().find(|&&id| id as usize >= config.vocab_size) {
            Some(id) => Err(Error::option(
                "prompt",
                format!("token id {id}"),
                format!("ids below the vocabulary size of {}", config.vocab_size),
            )),
            None => Ok(()),
        }
    }

    /// Computes the prompt; gives the logits of the next token, or nothing where it was cancelled.
    fn prefill(&mut self, prompt: &[u32], chunk: usize) -> Result<Option<Vec<f32>>> {
        let mut logits = None;
        for part in prompt.chunks(chunk) {
            if self.cancel.is_requested() {
                return Ok(None);
            }
            let last = self.cache.len() + part.len() == prompt.len();
            if last {
                logits = Some(self.step(part)?);
            } else {
                let device = self.model.device().clone();
                device::completed(&device, || self.forward(part))?;
            }
        }
        Ok(logits)
    }

    /// Computes `tokens` and gives the logits after the last of them.
    fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let device = self.model.device().clone();
        device::completed(&device, || {
            let hidden = self.forward(tokens)?;
            let last = hidden.narrow(1, tokens.len() - 1, 1)?.flatten_to(1)?;
            Ok(self
                .model
                .decoder()
                .logits_here(&last)?
                .flatten_all()?
                .to_vec1()?)
        })
    }

    fn forward(&mut self, tokens: &[u32]) -> Result<Tensor> {
        let tokens = Tensor::new(tokens, self.model.device())?.unsqueeze(0)?;
        self.model
            .decoder()
            .forward_here(&tokens, Some(&mut self.cache), self.adapter.as_ref())
    }
}

#[allow(clippy::cast_precision_loss, reason = "a count of tokens fits f64")]
fn rate(tokens: usize, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if tokens > 0 && seconds > 0.0 {
        tokens as f64 / seconds
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::{device_kind, tolerance};
    use crate::backend::{DTypePolicy, DeviceKind};
    use crate::models::testing::model;
    use candle_core::DType;

    /// The sampler must see the last position's logits only, out of those of all positions on the
    /// device, and all of them.
    #[test]
    fn a_step_reads_the_logits_of_the_last_token() {
        let prompt = [5, 17, 100, 42, 7];
        for name in ["qwen2_untied_gqa", "qwen2_tied"] {
            let reference = model(name, DeviceKind::Cpu, DTypePolicy::F32);
            let expected = {
                let tokens = Tensor::new(&[prompt], reference.device()).unwrap();
                let decoder = reference.decoder();
                let hidden = decoder.forward(&tokens, None, None).unwrap();
                let logits = decoder.logits(&hidden.squeeze(0).unwrap()).unwrap();
                logits.to_vec2::<f32>().unwrap()
            };
            let size = expected.iter().flatten().fold(0f32, |m, x| m.max(x.abs()));
            for (policy, dtype) in [
                (DTypePolicy::F32, DType::F32),
                (DTypePolicy::F16, DType::F16),
                (DTypePolicy::Bf16, DType::BF16),
            ] {
                let mut generator = Generator::new(&model(name, device_kind(), policy));
                for (from, to) in [(0, 3), (3, 4), (4, 5)] {
                    let found = generator.step(&prompt[from..to]).unwrap();
                    assert_eq!(found.len(), reference.config().vocab_size);
                    for (a, b) in found.iter().zip(&expected[to - 1]) {
                        let gap = f64::from((a - b).abs() / size);
                        assert!(gap < tolerance(dtype), "{name} {dtype:?} {to}: {a} {b}");
                    }
                }
            }
        }
    }
}
