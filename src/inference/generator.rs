//! Generating one text after another, with what was read before.

use super::context::{Context, Next};
use super::logits_processor::{AnyProcessor, LogitsProcessor};
use super::sequence::{OnChunk, Sequence};
use super::speculative::{Drafter, check_draft_model};
use super::{Chunk, FinishReason, GenerateOptions, Generation};
use crate::cancel::CancelHandle;
use crate::error::Result;
use crate::models::{AdapterMix, KvCacheType, LoRAAdapter, Model};
use std::ops::ControlFlow;
use std::path::Path;

/// Generated tokens that the key-value cache has room for from the start; it grows with the text.
const RESERVED_TOKENS: usize = 1024;
/// The most tokens that are checked at once, because the logits of all of them are kept meanwhile.
const MOST_DRAFTS: usize = 64;

/// Generates text with a model, and the adapters that are [active](Model::adapters) on it or that were
/// [set](Generator::set_adapter).
///
/// A generator keeps what it has read: where a prompt starts as the last prompt and its answer did,
/// the keys and values of that start are not computed again. So a conversation costs only what is
/// new in it. The same prompt, options and seed give the same tokens; a prompt whose start is reused
/// gives those of a new generator but for rounding.
///
/// It serves one generation at a time; make one for each thread. It holds the model's weights by
/// reference count.
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
    context: Context,
    draft: Option<Context>,
    processor: Option<AnyProcessor>,
    cancel: CancelHandle,
}

impl Generator {
    /// A generator for the model.
    #[must_use]
    pub fn new(model: &Model) -> Self {
        Self::with_cache_type(model, KvCacheType::Full)
    }

    /// A generator whose key-value cache is of this type.
    #[must_use]
    pub fn with_cache_type(model: &Model, cache_type: KvCacheType) -> Self {
        Self {
            context: Context::with_cache_type(model, cache_type),
            draft: None,
            processor: None,
            cancel: CancelHandle::default(),
        }
    }

    /// A generator that has read the same, and goes its own way from here: two continuations of one
    /// conversation. It has the same adapter and draft model, and no logits processor.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`](crate::Error::Backend) where memory for the copy is lacking.
    pub fn fork(&self) -> Result<Self> {
        let draft = self.draft.as_ref();
        Ok(Self {
            context: self.context.fork()?,
            draft: draft.map(|draft| Context::new(draft.model())),
            processor: None,
            cancel: CancelHandle::default(),
        })
    }

    /// Uses an adapter from the next generation on, whatever is active on the model; or none, and then
    /// those that are [active on the model](Model::adapters). What was read before is forgotten.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) where the adapter was made for a model
    /// of another shape.
    pub fn set_adapter(&mut self, adapter: Option<LoRAAdapter>) -> Result<()> {
        let mix = adapter.map(|adapter| AdapterMix::new(vec![(adapter, 1.0)]));
        self.set_adapters(mix.transpose()?)
    }

    /// [`Generator::set_adapter`] for several adapters that act together.
    ///
    /// # Errors
    ///
    /// As [`Generator::set_adapter`].
    pub fn set_adapters(&mut self, adapters: Option<AdapterMix>) -> Result<()> {
        self.context.set_adapters(adapters)
    }

    /// Lets a smaller model draft tokens that this one checks, several at once, or none.
    ///
    /// Greedy text stays the same, and sampled text keeps its distribution. It pays where the
    /// smaller model is much faster and mostly right;
    /// [`Generation::accepted_tokens`] tells.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) where it has another vocabulary.
    pub fn set_draft_model(&mut self, draft: Option<&Model>) -> Result<()> {
        if let Some(draft) = draft {
            check_draft_model(self.model(), draft)?;
        }
        self.draft = draft.map(Context::new);
        Ok(())
    }

    /// Lets a processor change the logits of every token from the next generation on.
    pub fn set_logits_processor(&mut self, processor: impl LogitsProcessor + 'static) {
        self.processor = Some(AnyProcessor(Box::new(processor)));
    }

    /// Removes the processor that [`set_logits_processor`](Self::set_logits_processor) set.
    pub fn remove_logits_processor(&mut self) {
        self.processor = None;
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        self.context.model()
    }

    /// A handle that stops the running generation from any thread.
    #[must_use]
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// The tokens that were read and are kept: the last prompt, and its answer but for the last
    /// token.
    #[must_use]
    pub fn context(&self) -> &[u32] {
        self.context.tokens()
    }

    pub(super) fn context_mut(&mut self) -> &mut Context {
        &mut self.context
    }

    /// Forgets the tokens of the context from `len` on; 0 forgets all.
    pub fn truncate(&mut self, len: usize) {
        self.context.truncate(len);
    }

    /// Saves the [context](Self::context) with its keys and values to a file, which appears whole or
    /// not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) where the file cannot be written.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::{GenerateOptions, Generator, ModelLoader};
    /// use std::ops::ControlFlow;
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let options = GenerateOptions { max_tokens: 4, ..GenerateOptions::default() };
    /// let prompt = "fn main() {";
    /// let mut generator = Generator::new(&model);
    /// generator.generate(prompt, &options, |_| ControlFlow::Continue(()))?;
    /// # let folder = std::env::temp_dir().join(format!("generator-{}", std::process::id()));
    /// # let path = folder.join("main.session");
    /// generator.save_session(&path)?;
    ///
    /// let mut later = Generator::new(&model);
    /// later.load_session(&path)?;
    /// let generation = later.generate(prompt, &options, |_| ControlFlow::Continue(()))?;
    /// assert!(generation.cached_tokens > 0);
    /// # std::fs::remove_dir_all(folder).ok();
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn save_session(&self, path: impl AsRef<Path>) -> Result<()> {
        self.context.save(path.as_ref())
    }

    /// Goes on from a file that [`save_session`](Self::save_session) wrote, with the same model and
    /// adapter. The cache is then of the type of the one that was saved.
    ///
    /// # Errors
    ///
    /// [`Error::Incompatible`](crate::Error::Incompatible) where the file belongs to another model or
    /// adapter, [`Error::InvalidFormat`](crate::Error::InvalidFormat) where it is no session,
    /// [`Error::FileNotFound`](crate::Error::FileNotFound) and [`Error::Io`](crate::Error::Io) where
    /// it cannot be read. The generator then is as before.
    pub fn load_session(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.context.load(path.as_ref())
    }

    /// Continues `prompt`. The callback gets every token as it comes, and stops the generation by
    /// returning [`ControlFlow::Break`].
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) without a tokenizer,
    /// [`Error::ContextFull`](crate::Error::ContextFull) where the prompt leaves no room for a token,
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for an empty prompt and options out of
    /// range, [`Error::NonFinite`](crate::Error::NonFinite) where the logits are not numbers.
    pub fn generate(
        &mut self,
        prompt: &str,
        options: &GenerateOptions,
        on_chunk: impl FnMut(&Chunk) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let ids = self.model().tokenizer()?.encode(prompt, true)?;
        self.generate_from_ids(&ids, options, on_chunk)
    }

    /// [`Generator::generate`] for a prompt of token ids; needs no tokenizer.
    ///
    /// # Errors
    ///
    /// As [`Generator::generate`]; [`Error::InvalidOption`](crate::Error::InvalidOption) for an id
    /// outside the vocabulary.
    pub fn generate_from_ids(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_chunk: impl FnMut(&Chunk) -> ControlFlow<()>,
    ) -> Result<Generation> {
        self.cancel.reset();
        let cache_type = self.context.cache_type();
        let mut sequence = Sequence::new(self.model(), cache_type, 0, prompt, options)?;
        self.run(&mut sequence, &mut on_chunk)?;
        let generation = sequence.into_generation();
        tracing::debug!(
            prompt_tokens = generation.prompt_tokens,
            cached_tokens = generation.cached_tokens,
            tokens = generation.tokens.len(),
            finish_reason = ?generation.finish_reason,
            time_to_first_token = generation.time_to_first_token.as_secs_f32(),
            tokens_per_second = generation.tokens_per_second,
            "generated"
        );
        Ok(generation)
    }

    fn run(&mut self, sequence: &mut Sequence, on_chunk: OnChunk<'_>) -> Result<()> {
        let Self {
            context,
            draft,
            processor,
            cancel,
        } = self;
        context.follow_model();
        if let Some(draft) = draft {
            draft.follow_model();
        }
        let model = context.model().clone();
        let mut drafter = Drafter::new(sequence.options(), &model, draft.as_mut())?;
        let prefill_chunk = sequence.options().prefill_chunk;
        let (limit, keep) = (sequence.limit(), sequence.options().keep);

        let mut pending = sequence.to_read();
        let mut recalled = context.recall(&pending);
        let cached = match recalled {
            Some(_) => pending.len(),
            None => context.reuse(&pending),
        };
        let soon = sequence.remaining().min(RESERVED_TOKENS);
        context.reserve(limit.min(pending.len() + soon));
        pending.drain(..cached);
        sequence.count_cached(cached);
        let mut in_prompt = true;

        while !sequence.is_finished() {
            if cancel.is_requested() {
                return sequence.finish(FinishReason::Cancelled, Some(on_chunk));
            }
            if sequence.is_out_of_time() {
                return sequence.finish(FinishReason::TimeLimit, Some(on_chunk));
            }
            if pending.len() > prefill_chunk {
                context.feed(&pending[..prefill_chunk])?;
                pending.drain(..prefill_chunk);
                continue;
            }
            let mut drafts = vec![];
            if !in_prompt {
                let room = limit.saturating_sub(context.tokens().len() + pending.len());
                let most = room.min(sequence.remaining() - 1);
                let most = most.min(prefill_chunk).min(MOST_DRAFTS);
                drafts = sequence.forced(most)?;
                if drafts.is_empty() && drafter.is_on() {
                    let tokens = [context.tokens(), &pending].concat();
                    drafts = drafter.draft(&tokens, most)?;
                }
                sequence.count_drafted(drafts.len());
                pending.extend(drafts.iter().map(|draft| draft.token));
            }
            let chooses_there =
                !in_prompt && drafts.is_empty() && processor.is_none() && sequence.is_plain();
            let logits = match recalled.take() {
                Some(logits) => vec![logits],
                None if chooses_there => match context.most_likely(&pending)? {
                    Next::Logits(logits) => vec![logits],
                    Next::MostLikely(found) => {
                        pending = vec![sequence.take(found, on_chunk)?];
                        context.make_room(&mut pending, limit, keep);
                        continue;
                    }
                },
                None => context.logits(&pending, drafts.len() + 1)?,
            };
            if std::mem::take(&mut in_prompt) {
                context.keep(&logits[0]);
            }
            for (index, logits) in logits.iter().enumerate() {
                let draft = drafts.get(index);
                let processor = processor.as_mut().map(|any| &mut *any.0);
                let token = sequence.advance(logits, draft, processor, on_chunk)?;
                pending = vec![token];
                let right = draft.is_some_and(|draft| draft.token == token);
                if !right || sequence.is_finished() || cancel.is_requested() {
                    // The drafts from here on were read in vain.
                    context.truncate(context.tokens().len() - (drafts.len() - index));
                    break;
                }
            }
            context.make_room(&mut pending, limit, keep);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::{device_kind, tolerance};
    use crate::backend::{DTypePolicy, DeviceKind};
    use crate::models::testing::model;
    use candle_core::DType;
    use candle_core::Tensor;

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
                    let found = &generator.context.logits(&prompt[from..to], 1).unwrap()[0];
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
