//! One text that is being generated: what was chosen, what may be chosen, and when it ends.

use super::logits_processor::LogitsProcessor;
use super::logprobs::{log_sum_exp, logprob, top_logprobs};
use super::speculative::Draft;
use super::stop::{Matched, StopMatcher};
use super::{Chunk, Constraint, Detokenizer, FinishReason, GenerateOptions, Generation, Sampler};
use crate::error::{Error, Result};
use crate::models::Model;
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
    /// A sequence with nothing generated yet; `limit` is that of [`context_limit`].
    pub fn new(
        model: &Model,
        number: usize,
        prompt: &[u32],
        options: &GenerateOptions,
        limit: usize,
    ) -> Result<Self> {
        let mut end_token_ids = options.stop_token_ids.clone();
        if !options.ignore_eos {
            end_token_ids.extend(model.eos_token_ids());
        }
        let vocabulary = model.config().vocab_size;
        check_ids("stop_token_ids", &options.stop_token_ids, vocabulary)?;
        let sampling = options.sampling.clone();
        let sampler = match model.tokenizer() {
            Ok(tokenizer) => Sampler::with_tokenizer(sampling, tokenizer)?,
            Err(_) => Sampler::new(sampling)?,
        };
        let constraint = match &options.grammar {
            Some(grammar) => Some(Constraint::new(model.grammar_vocabulary()?, grammar)?),
            None => None,
        };
        let text = match model.tokenizer() {
            Ok(tokenizer) => Some(TextStream {
                detokenizer: Detokenizer::new(tokenizer)
                    .skip_special_tokens(options.skip_special_tokens),
                stop: StopMatcher::new(&options.stop),
            }),
            Err(error) if !options.stop.is_empty() => return Err(error),
            Err(_) => None,
        };
        Ok(Self {
            number,
            limit,
            end_token_ids,
            sampler,
            constraint,
            text,
            tokens: prompt.to_vec(),
            adjusted: vec![],
            started: Instant::now(),
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

    pub fn options(&self) -> &GenerateOptions {
        &self.options
    }

    /// The prompt and what was generated.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many more tokens may be generated.
    pub fn remaining(&self) -> usize {
        self.options.max_tokens - self.generation.tokens.len()
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
        let certain = |token| Draft {
            token,
            probabilities: None,
        };
        Ok(forced.into_iter().take(most).map(certain).collect())
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
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token)?;
        }
        let index = self.generation.tokens.len();
        let first = *self.first.get_or_insert_with(Instant::now);
        self.generation.tokens_per_second = rate(index, first.elapsed());
        if self.end_token_ids.contains(&token) {
            self.finish(FinishReason::Stop, on_chunk)?;
            return Ok(token);
        }
        let sum = log_sum_exp(logits);
        let Matched { text, stop } = match &mut self.text {
            Some(text) => text.push(token)?,
            None => Matched::default(),
        };
        let chunk = Chunk {
            sequence: self.number,
            index,
            token,
            text,
            logprob: logprob(logits[token as usize], sum),
            top_logprobs: top_logprobs(logits, sum, self.options.top_logprobs),
        };
        self.tokens.push(token);
        self.generation.tokens.push(token);
        self.generation.logprobs.push(chunk.logprob);
        self.generation.text.push_str(&chunk.text);
        if let Some(stop) = stop {
            self.generation.stop_string = Some(self.options.stop[stop].clone());
        }
        let broken = on_chunk(&chunk).is_break();
        let reason = if stop.is_some() {
            FinishReason::StopString
        } else if broken {
            FinishReason::Cancelled
        } else if self
            .constraint
            .as_ref()
            .is_some_and(Constraint::is_complete)
        {
            FinishReason::Stop
        } else if self.remaining() == 0 {
            FinishReason::Length
        } else if self.tokens.len() >= self.limit && !self.options.context_shift {
            FinishReason::ContextFull
        } else {
            return Ok(token);
        };
        self.finish(reason, on_chunk)?;
        Ok(token)
    }

    /// Ends the sequence: text that was held back comes out.
    pub fn finish(&mut self, reason: FinishReason, on_chunk: OnChunk<'_>) -> Result<()> {
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
        if let (Some((&token, &logprob)), false) = (last, text.is_empty())
            && reason != FinishReason::Cancelled
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
        let mut logits = logits;
        if processor.is_some() || too_early || self.constraint.is_some() {
            self.adjusted.clear();
            self.adjusted.extend_from_slice(logits);
            if let Some(processor) = processor {
                processor.process(&self.tokens, &mut self.adjusted)?;
            }
            if too_early {
                for &token in &self.end_token_ids {
                    if let Some(logit) = self.adjusted.get_mut(token as usize) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
            if let Some(constraint) = &mut self.constraint {
                constraint.mask(&mut self.adjusted)?;
            }
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

/// Text from tokens, up to a stop string.
#[derive(Debug)]
struct TextStream {
    detokenizer: Detokenizer,
    stop: StopMatcher,
}

impl TextStream {
    fn push(&mut self, token: u32) -> Result<Matched> {
        Ok(match self.detokenizer.push(token)? {
            Some(text) => self.stop.push(&text),
            None => Matched::default(),
        })
    }

    fn finish(&mut self) -> Result<String> {
        let rest = self.detokenizer.finish()?.unwrap_or_default();
        let mut matched = self.stop.push(&rest);
        if matched.stop.is_none() {
            matched.text.push_str(&self.stop.finish());
        }
        Ok(matched.text)
    }
}

/// Checks a prompt and the options that depend on the model, and gives the most tokens that the
/// context may hold.
pub(super) fn context_limit(
    model: &Model,
    prompt: &[u32],
    options: &GenerateOptions,
) -> Result<usize> {
    let config = model.config();
    let of_options = options.max_kv_size.unwrap_or(usize::MAX);
    let limit = config.max_position_embeddings.min(of_options);
    if prompt.is_empty() {
        return Err(Error::option("prompt", "empty", "at least one token"));
    }
    check_ids("prompt", prompt, config.vocab_size)?;
    if options.context_shift {
        if options.keep >= limit / 2 {
            let expected = format!("below half the context of {limit} tokens");
            return Err(Error::option("keep", options.keep, expected));
        }
    } else if prompt.len() >= limit {
        return Err(Error::ContextFull {
            needed: prompt.len() + 1,
            capacity: limit,
        });
    }
    Ok(limit)
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

/// What is left of `tokens` when a full context shifts: the first `keep`, and the later half of the
/// rest.
pub(super) fn shifted(tokens: &[u32], limit: usize, keep: usize) -> Vec<u32> {
    let latest = (limit - keep) / 2;
    let start = keep.max(tokens.len().saturating_sub(latest));
    [&tokens[..keep.min(tokens.len())], &tokens[start..]].concat()
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
