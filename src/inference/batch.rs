//! Many texts at once: finished ones leave, waiting ones join (continuous batching, Yu et al., 2022,
//! <https://www.usenix.org/conference/osdi22/presentation/yu>).

use super::context::Context;
use super::logits_processor::{AnyProcessor, LogitsProcessor};
use super::sequence::{OnChunk, Sequence};
use super::{Chunk, FinishReason, GenerateOptions, Generation};
use crate::cancel::CancelHandle;
use crate::error::{Error, Result};
use crate::models::{AdapterMix, LoRAAdapter, Model};
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Generates many texts at the same time, each with options of its own.
///
/// The weights are read once for the next tokens of all texts, so that a batch takes little longer
/// than its longest text alone. Each text has its own key-value cache, and gets the tokens that it
/// gets alone, but for rounding. Nothing is drafted: the other texts fill the forward already.
///
/// # Example
///
/// ```
/// use metal_candle::inference::BatchGenerator;
/// use metal_candle::{GenerateOptions, ModelLoader};
/// use std::ops::ControlFlow;
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// let mut batch = BatchGenerator::new(&model, 8)?;
/// let options = GenerateOptions { max_tokens: 4, ..GenerateOptions::default() };
/// for prompt in ["fn main() {", "struct Point {", "impl"] {
///     batch.push(prompt, &options)?;
/// }
/// for (sequence, generation) in batch.run(|_| ControlFlow::Continue(())) {
///     println!("{sequence}: {}", generation?.text);
/// }
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug)]
pub struct BatchGenerator {
    model: Model,
    adapters: Option<AdapterMix>,
    max_batch_size: usize,
    waiting: VecDeque<Row>,
    active: Vec<Row>,
    next: usize,
    cancel: CancelHandle,
}

/// A sequence, what the model has read of it, and what it has yet to read.
#[derive(Debug)]
struct Row {
    sequence: Sequence,
    processor: Option<AnyProcessor>,
    context: Context,
    pending: Vec<u32>,
    failed: Option<Error>,
}

impl Row {
    fn is_finished(&self) -> bool {
        self.failed.is_some() || self.sequence.is_finished()
    }

    /// An error ends this row alone.
    fn attempt(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) {
        if let Err(error) = work(self) {
            self.failed = Some(error);
        }
    }

    /// Takes the logits of the next token.
    fn advance(&mut self, logits: &[f32], on_chunk: OnChunk<'_>) -> Result<()> {
        let processor = self.processor.as_mut().map(|any| &mut *any.0);
        let token = self.sequence.advance(logits, None, processor, on_chunk)?;
        self.pending = vec![token];
        let (limit, keep) = (self.sequence.limit(), self.sequence.options().keep);
        self.context.make_room(&mut self.pending, limit, keep);
        Ok(())
    }

    fn into_result(self) -> Result<Generation> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.sequence.into_generation()),
        }
    }
}

impl BatchGenerator {
    /// A generator that works on at most `max_batch_size` texts at once; more wait.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] where the size is 0.
    pub fn new(model: &Model, max_batch_size: usize) -> Result<Self> {
        if max_batch_size == 0 {
            return Err(Error::option("max_batch_size", 0, "at least 1"));
        }
        Ok(Self {
            model: model.clone(),
            adapters: None,
            max_batch_size,
            waiting: VecDeque::new(),
            active: vec![],
            next: 0,
            cancel: CancelHandle::default(),
        })
    }

    /// Uses an adapter for the texts that are pushed from now on; or none, and then those that are
    /// [active on the model](Model::adapters) when a text is pushed. Texts with other adapters go on
    /// beside them: the weights of the model are read once for all.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] where the adapter was made for a model of another shape.
    pub fn set_adapter(&mut self, adapter: Option<LoRAAdapter>) -> Result<()> {
        let mix = adapter.map(|adapter| AdapterMix::new(vec![(adapter, 1.0)]));
        self.set_adapters(mix.transpose()?)
    }

    /// [`BatchGenerator::set_adapter`] for several adapters that act together.
    ///
    /// # Errors
    ///
    /// As [`BatchGenerator::set_adapter`].
    pub fn set_adapters(&mut self, adapters: Option<AdapterMix>) -> Result<()> {
        if let Some(adapters) = &adapters {
            adapters.check(self.model.config())?;
        }
        self.adapters = adapters;
        Ok(())
    }

    /// A handle that stops all texts from any thread.
    #[must_use]
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// The number of texts that were pushed and not given back yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.active.len() + self.waiting.len()
    }

    /// Whether all texts were given back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a prompt, also while others are being generated. Gives the number of its sequence, which
    /// counts from 0.
    ///
    /// # Errors
    ///
    /// As [`Generator::generate`](super::Generator::generate).
    pub fn push(&mut self, prompt: &str, options: &GenerateOptions) -> Result<usize> {
        let ids = self.model.tokenizer()?.encode(prompt, true)?;
        self.push_ids(&ids, options)
    }

    /// [`BatchGenerator::push`] for a prompt of token ids.
    ///
    /// # Errors
    ///
    /// As [`Generator::generate_from_ids`](super::Generator::generate_from_ids).
    pub fn push_ids(&mut self, prompt: &[u32], options: &GenerateOptions) -> Result<usize> {
        self.add(prompt, options, None)
    }

    /// [`BatchGenerator::push_ids`] with a processor of this sequence's logits.
    ///
    /// # Errors
    ///
    /// As [`BatchGenerator::push_ids`].
    pub fn push_ids_with(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        processor: impl LogitsProcessor + 'static,
    ) -> Result<usize> {
        self.add(prompt, options, Some(AnyProcessor(Box::new(processor))))
    }

    fn add(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        processor: Option<AnyProcessor>,
    ) -> Result<usize> {
        let number = self.next;
        let mut context = Context::new(&self.model);
        let cache_type = context.cache_type();
        let sequence = Sequence::new(&self.model, cache_type, number, prompt, options)?;
        if self.is_empty() {
            // A request that nobody met has nothing to do with this text.
            self.cancel.reset();
        }
        context.set_adapters(self.adapters.clone())?;
        self.waiting.push_back(Row {
            pending: sequence.to_read(),
            sequence,
            processor,
            context,
            failed: None,
        });
        self.next += 1;
        Ok(number)
    }

    /// Ends a sequence before its next token. Gives whether it was there and not finished.
    pub fn cancel(&mut self, sequence: usize) -> bool {
        let rows = self.active.iter_mut().chain(&mut self.waiting);
        let mut rows = rows.filter(|row| row.sequence.number() == sequence && !row.is_finished());
        let Some(row) = rows.next() else {
            return false;
        };
        row.attempt(|row| row.sequence.finish(FinishReason::Cancelled, None));
        true
    }

    /// Generates until all texts are finished, and gives each with its number, in the order in which
    /// they finished. A text that fails is an error of its own and stops no other.
    ///
    /// The callback gets the tokens of all texts as they come; by [`ControlFlow::Break`] it ends the
    /// text whose token it got.
    pub fn run(
        &mut self,
        mut on_chunk: impl FnMut(&Chunk) -> ControlFlow<()>,
    ) -> Vec<(usize, Result<Generation>)> {
        self.cancel.reset();
        let mut finished = vec![];
        while !self.is_empty() {
            finished.extend(self.step(&mut on_chunk));
        }
        finished
    }

    /// Computes the next token of every text, or a part of its prompt where that is long, and gives
    /// the texts that finished.
    ///
    /// New texts can be added between steps. A request to cancel ends the texts that are there, and
    /// those that are added before all of them are given back.
    pub fn step(
        &mut self,
        mut on_chunk: impl FnMut(&Chunk) -> ControlFlow<()>,
    ) -> Vec<(usize, Result<Generation>)> {
        self.admit();
        let cancelled = self.cancel.is_requested();
        for row in &mut self.active {
            let reason = if cancelled {
                FinishReason::Cancelled
            } else if row.sequence.is_out_of_time() {
                FinishReason::TimeLimit
            } else {
                continue;
            };
            row.attempt(|row| row.sequence.finish(reason, Some(&mut on_chunk)));
        }
        let mut finished = self.remove_finished();
        self.compute(&mut on_chunk);
        finished.extend(self.remove_finished());
        finished
    }

    /// Lets waiting texts join where there is room. All that wait join where all are cancelled, to be
    /// ended.
    fn admit(&mut self) {
        let room = if self.cancel.is_requested() {
            self.waiting.len()
        } else {
            self.max_batch_size.saturating_sub(self.active.len())
        };
        let joining = self.waiting.drain(..room.min(self.waiting.len()));
        self.active.extend(joining.map(|mut row| {
            row.sequence.start();
            row
        }));
    }

    fn compute(&mut self, on_chunk: OnChunk<'_>) {
        // Prompts share the tokens that one of them may have at once, so that memory stays bounded.
        let chunks = self
            .active
            .iter()
            .map(|row| row.sequence.options().prefill_chunk);
        let mut room = chunks.max().unwrap_or(0);
        let mut parts: Vec<(&mut Row, Vec<u32>)> = vec![];
        for row in &mut self.active {
            let chunk = row.sequence.options().prefill_chunk;
            let count = match row.pending.len() {
                1 => 1,
                several => {
                    let count = several.min(chunk).min(room);
                    room -= count;
                    count
                }
            };
            let part = row.pending.drain(..count).collect();
            parts.push((row, part));
        }
        parts.retain(|(_, part)| !part.is_empty());
        if parts.is_empty() {
            return;
        }
        let mut inputs: Vec<(&mut Context, &[u32], usize)> = parts
            .iter_mut()
            .map(|(row, part)| {
                let wanted = usize::from(row.pending.is_empty());
                (&mut row.context, part.as_slice(), wanted)
            })
            .collect();
        match Context::logits_of(&self.model, &mut inputs) {
            Ok(logits) => {
                let complete = parts.iter_mut().filter(|(row, _)| row.pending.is_empty());
                for ((row, _), logits) in complete.zip(&logits) {
                    row.attempt(|row| row.advance(logits, on_chunk));
                }
            }
            Err(error) => {
                // The device failed, and with it all that was being computed.
                let reason = error.to_string();
                for (row, _) in &mut parts {
                    row.failed = Some(candle_core::Error::Msg(reason.clone()).into());
                }
            }
        }
    }

    fn remove_finished(&mut self) -> Vec<(usize, Result<Generation>)> {
        let finished = self.active.extract_if(.., |row| row.is_finished());
        finished
            .map(|row| (row.sequence.number(), row.into_result()))
            .collect()
    }
}
