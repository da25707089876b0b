//! One text that is being generated: what was chosen, what may be chosen, and when it ends.

use super::context::shifted;
use super::logits_processor::LogitsProcessor;
use super::logprobs::{log_sum_exp, logprob, top_logprobs};
use super::speculative::Draft;
use super::stop::Matched;
use super::text_stream::TextStream;
use super::{Chunk, Constraint, FinishReason, GenerateOptions, Generation, Sampler, TokenLogprob};
use crate::backend::ops::most_likely::MostLikely;
use crate::error::{Error, Result};
use crate::models::{KvCache, KvCacheType, Model};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// A sequence from its prompt to its end. It takes logits and gives chunks; where the logits come
/// from is its owner's business.
#[derive(Debug)]
pub(super) struct Sequence {
    number: usize,
    options: GenerateOptions,
    /// The most tokens of the prompt and the text together.
    limit: usize,
    end_token_ids: Vec<u32>,
    /// Those of them that are chosen only where nothing else may follow.
    ignored_token_ids: Vec<u32>,
    sampler: Sampler,
    constraint: Option<Constraint>,
    text: Option<TextStream>,
    /// The prompt and what was generated.
    tokens: Vec<u32>,
    /// The logits that were changed before the choice; kept for its memory.
    adjusted: Vec<f32>,
    started: Instant,
    first: Option<Instant>,
    generation: Generation,
    finished: bool,
}

/// Receives each chunk, and stops the sequence with [`ControlFlow::Break`].
pub(super) type OnChunk<'a> = &'a mut dyn FnMut(&Chunk) -> ControlFlow<()>;

impl Sequence {
    /// A sequence with nothing generated yet, whose keys and values are kept in `cache_type`.
    ///
    /// # Errors
    ///
    /// Where an option is out of its range, or it or the prompt does not fit the model.
    pub fn new(
        model: &Model,
        cache_type: KvCacheType,
        number: usize,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> Result<Self> {
        let started = Instant::now();
        options.validate()?;
        let limit = context_limit(model, cache_type, prompt, options)?;
        let mut end_token_ids = options.stop_token_ids.clone();
        let mut ignored_token_ids = vec![];
        // Where a grammar lets nothing else follow, even an ignored end is one.
        if !options.ignore_eos || options.grammar.is_some() {
            end_token_ids.extend(model.eos_token_ids());
        }
        if options.ignore_eos && options.grammar.is_some() {
            ignored_token_ids.extend(model.eos_token_ids());
        }
        let vocabulary = model.config().vocab_size;
        check_ids("stop_token_ids", &options.stop_token_ids, vocabulary)?;
        let sampler = Sampler::for_model(options.sampling.clone(), model)?;
        let constraint = match &options.grammar {
            Some(grammar) => Some(Constraint::new(model.grammar_vocabulary()?, grammar)?),
            None => None,
        };
        let text = match model.tokenizer() {
            Ok(tokenizer) => Some(TextStream::new(tokenizer, prompt, options)?),
            Err(error) if !options.stop.is_empty() => return Err(error),
            Err(_) => None,
        };
        Ok(Self {
            number,
            limit,
            end_token_ids,
            ignored_token_ids,
            sampler,
            constraint,
            text,
            tokens: prompt.to_vec(),
            adjusted: vec![],
            started,
            first: None,
            generation: Generation {
                text: String::new(),
                tokens: vec![],
                logprobs: vec![],
                prompt_tokens: prompt.len(),
                cached_tokens: 0,
                time_to_first_token: Duration::ZERO,
                tokens_per_second: 0.0,
                finish_reason: FinishReason::Length,
                stop_string: None,
                drafted_tokens: 0,
                accepted_tokens: 0,
            },
            finished: false,
            options: options.clone(),
        })
    }

    pub fn number(&self) -> usize {
        self.number
    }

    /// The most tokens that the context may hold.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// What the model has to read first: the prompt, or what a shift leaves of it where it does not
    /// fit.
    pub fn to_read(&self) -> Vec<u32> {
        if self.tokens.len() < self.limit {
            self.tokens.clone()
        } else {
            shifted(&self.tokens, self.limit, self.options.keep)
        }
    }

    pub fn options(&self) -> &GenerateOptions {
        &self.options
    }

    /// How many more tokens may be generated.
    pub fn remaining(&self) -> usize {
        self.options.max_tokens - self.generation.tokens.len()
    }

    /// Starts the clock, for a sequence that had to wait.
    pub fn start(&mut self) {
        self.started = Instant::now();
    }

    pub fn is_finished(&self) -> bool {
        self.finished
    }

    pub fn is_out_of_time(&self) -> bool {
        let limit = self.options.max_time;
        limit.is_some_and(|limit| self.started.elapsed() >= limit)
    }

    pub fn count_cached(&mut self, tokens: usize) {
        self.generation.cached_tokens = tokens;
    }

    pub fn count_drafted(&mut self, tokens: usize) {
        self.generation.drafted_tokens += tokens;
    }

    /// The tokens that the grammar leaves no choice about, at most `most`.
    ///
    /// They are drafts, because their text may be cut into other tokens.
    pub fn forced(&mut self, most: usize) -> Result<Vec<Draft>> {
        let forced = match &mut self.constraint {
            Some(constraint) => constraint.forced()?,
            None => vec![],
        };
        Ok(forced.into_iter().take(most).map(Draft::certain).collect())
    }

    /// Chooses the next token from its logits, or accepts the draft of it, and hands it out.
    pub fn advance(
        &mut self,
        logits: &[f32],
        draft: Option<&Draft>,
        processor: Option<&mut (dyn LogitsProcessor + '_)>,
        on_chunk: OnChunk<'_>,
    ) -> Result<u32> {
        let token = self.choose(logits, draft, processor)?;
        let accepted = draft.is_some_and(|draft| draft.token == token);
        self.generation.accepted_tokens += usize::from(accepted);
        let count = self.options.top_logprobs;
        let scores = || {
            let sum = log_sum_exp(logits);
            let logprob = logprob(logits[token as usize], sum);
            (logprob, top_logprobs(logits, sum, count))
        };
        self.hand_out(token, scores, on_chunk)
    }

    /// Whether the next token is the most likely one whatever came before, and nothing is told of the others.
    pub fn is_plain(&self) -> bool {
        let may_end = self.generation.tokens.len() >= self.options.min_tokens;
        self.sampler.takes_most_likely()
            && self.options.top_logprobs == 0
            && self.constraint.is_none()
            && self.ignored_token_ids.is_empty()
            && (may_end || self.end_token_ids.is_empty())
    }

    /// Takes the most likely token where the sequence [is plain](Self::is_plain), and hands it out.
    pub fn take(&mut self, found: MostLikely, on_chunk: OnChunk<'_>) -> Result<u32> {
        self.hand_out(found.token, || (found.logprob, vec![]), on_chunk)
    }

    /// Adds a token to the text, with its log-probability and those of the most likely ones.
    fn hand_out(
        &mut self,
        token: u32,
        scores: impl FnOnce() -> (f32, Vec<TokenLogprob>),
        on_chunk: OnChunk<'_>,
    ) -> Result<u32> {
        let is_end = self.end_token_ids.contains(&token);
        if let Some(constraint) = &mut self.constraint
            && !is_end
        {
            constraint.accept(token)?;
        }
        let index = self.generation.tokens.len();
        let first = *self.first.get_or_insert_with(Instant::now);
        self.generation.tokens_per_second = rate(index, first.elapsed());
        if is_end {
            self.finish(FinishReason::Stop, Some(on_chunk))?;
            return Ok(token);
        }
        let (logprob, top_logprobs) = scores();
        let Matched { text, stop } = match &mut self.text {
            Some(text) => text.push(token)?,
            None => Matched::default(),
        };
        let chunk = Chunk {
            sequence: self.number,
            index,
            token,
            text,
            logprob,
            top_logprobs,
        };
        self.tokens.push(token);
        self.generation.tokens.push(token);
        self.generation.logprobs.push(chunk.logprob);
        self.generation.text.push_str(&chunk.text);
        if let Some(stop) = stop {
            self.generation.stop_string = Some(self.options.stop[stop].clone());
        }
        let broken = on_chunk(&chunk).is_break();
        let constraint = self.constraint.as_ref();
        let reason = if stop.is_some() {
            FinishReason::StopString
        } else if broken {
            FinishReason::Cancelled
        } else if constraint.is_some_and(Constraint::is_complete) {
            FinishReason::Stop
        } else if self.remaining() == 0 {
            FinishReason::Length
        } else if self.tokens.len() >= self.limit && !self.options.context_shift {
            FinishReason::ContextFull
        } else {
            return Ok(token);
        };
        self.finish(reason, (!broken).then_some(on_chunk))?;
        Ok(token)
    }

    /// Ends the sequence: text that was held back comes out, to the callback too unless that has
    /// stopped the sequence.
    pub fn finish(&mut self, reason: FinishReason, on_chunk: Option<OnChunk<'_>>) -> Result<()> {
        self.finished = true;
        let generation = &mut self.generation;
        generation.finish_reason = reason;
        let until = self.first.unwrap_or_else(Instant::now);
        generation.time_to_first_token = until - self.started;
        let text = match &mut self.text {
            Some(text) if reason != FinishReason::StopString => text.finish()?,
            _ => return Ok(()),
        };
        generation.text.push_str(&text);
        let last = generation.tokens.last().zip(generation.logprobs.last());
        if let (Some((&token, &logprob)), Some(on_chunk)) = (last, on_chunk)
            && !text.is_empty()
        {
            // The generation is over; there is nothing left to stop.
            let _ = on_chunk(&Chunk {
                sequence: self.number,
                index: generation.tokens.len() - 1,
                token,
                text,
                logprob,
                top_logprobs: vec![],
            });
        }
        Ok(())
    }

    pub fn into_generation(self) -> Generation {
        self.generation
    }

    fn choose(
        &mut self,
        logits: &[f32],
        draft: Option<&Draft>,
        processor: Option<&mut (dyn LogitsProcessor + '_)>,
    ) -> Result<u32> {
        let step = self.generation.tokens.len();
        let too_early = step < self.options.min_tokens;
        let forbidden = if too_early {
            &self.end_token_ids
        } else {
            &self.ignored_token_ids
        };
        let mut logits = logits;
        if processor.is_some() || self.constraint.is_some() || !forbidden.is_empty() {
            self.adjusted.clear();
            self.adjusted.extend_from_slice(logits);
            if let Some(processor) = processor {
                processor.process(&self.tokens, &mut self.adjusted)?;
            }
            if let Some(constraint) = &mut self.constraint {
                constrain(constraint, &mut self.adjusted, &self.options.stop_token_ids)?;
            }
            forbid(&mut self.adjusted, forbidden);
            logits = &self.adjusted;
        }
        let drawn = draft.and_then(|draft| draft.probabilities.as_deref().zip(Some(draft.token)));
        match drawn {
            Some((drawn_from, token)) => {
                let target = self.sampler.probabilities(logits, &self.tokens)?;
                Ok(self.sampler.accept_draft(&target, drawn_from, token).0)
            }
            // A draft that was certain is accepted where the same token is chosen, which is the
            // same rule.
            None => self.sampler.sample(logits, &self.tokens, step),
        }
    }
}

/// Masks what the grammar forbids. Tokens that the caller ends texts with mean nothing to it, and are
/// allowed where the text may end.
fn constrain(constraint: &mut Constraint, logits: &mut [f32], ends: &[u32]) -> Result<()> {
    let ends: Vec<(u32, f32)> = ends.iter().map(|&id| (id, logits[id as usize])).collect();
    constraint.mask(logits)?;
    if !ends.is_empty() && constraint.may_end()? {
        for (id, logit) in ends {
            logits[id as usize] = logit;
        }
    }
    Ok(())
}

/// Masks tokens, unless nothing else may be chosen.
fn forbid(logits: &mut [f32], ids: &[u32]) {
    let mut others = (0u32..).zip(logits.iter());
    let is_left = others.any(|(id, &logit)| logit > f32::NEG_INFINITY && !ids.contains(&id));
    for &id in ids.iter().filter(|_| is_left) {
        // An id that ends texts may lie outside the vocabulary.
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// Checks a prompt and the options that depend on the model, and gives the most tokens that the
/// context may hold.
fn context_limit(
    model: &Model,
    cache_type: KvCacheType,
    prompt: &[u32],
    options: &GenerateOptions,
) -> Result<usize> {
    let config = model.config();
    let of_options = options.max_kv_size.unwrap_or(usize::MAX);
    let in_tokens = config.max_position_embeddings.min(of_options);
    if prompt.is_empty() {
        return Err(Error::option("prompt", "empty", "at least one token"));
    }
    check_ids("prompt", prompt, config.vocab_size)?;
    let budget = options.max_kv_bytes.map(|bytes| Budget {
        bytes,
        of_a_step: cache_type.bytes_per_token(config, model.dtype()) as u64 * KvCache::STEP as u64,
    });
    let in_bytes = budget.as_ref().map_or(usize::MAX, Budget::tokens);
    let limit = in_tokens.min(in_bytes);
    let needed = prompt.len() + 1;
    if let Some(budget) = budget
        && in_bytes < in_tokens
        && (limit == 0 || (needed > limit && !options.context_shift))
    {
        return Err(budget.exceeded_by(needed));
    }
    if options.context_shift {
        if options.keep >= limit / 2 {
            let expected = format!("below half the context of {limit} tokens");
            return Err(Error::option("keep", options.keep, expected));
        }
    } else if needed > limit {
        return Err(Error::ContextFull {
            needed,
            capacity: limit,
        });
    }
    Ok(limit)
}

/// A limit of the memory of keys and values, which grows in steps.
struct Budget {
    bytes: u64,
    of_a_step: u64,
}

impl Budget {
    /// How many tokens there is room for.
    fn tokens(&self) -> usize {
        let steps = self.bytes / self.of_a_step.max(1);
        usize::try_from(steps)
            .unwrap_or(usize::MAX)
            .saturating_mul(KvCache::STEP)
    }

    fn exceeded_by(&self, tokens: usize) -> Error {
        let steps = tokens.div_ceil(KvCache::STEP) as u64;
        Error::MemoryBudget {
            what: format!("the context of {tokens} tokens"),
            needed: self.of_a_step.saturating_mul(steps),
            budget: self.bytes,
            hint: "a shorter prompt, context_shift or a cache of 8 bits takes less",
        }
    }
}

/// Checks that the model knows all ids of the option `name`.
pub(super) fn check_ids(name: &'static str, ids: &[u32], vocabulary: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(id) => Err(Error::option(
            name,
            format!("token id {id}"),
            format!("ids below the vocabulary size of {vocabulary}"),
        )),
        None => Ok(()),
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
