//! What a generation gives: a chunk for each token, and all of it at the end.

use std::time::Duration;

/// One generated token, as the callback sees it.
///
/// There is one for each token. Where text was held back at the end, because it might have become
/// a stop string or the bytes of a character never came, one more repeats the last token with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// The sequence that the token belongs to: 0, or the number that
    /// [`BatchGenerator::push`](super::BatchGenerator::push) gave.
    pub sequence: usize,
    /// The token's place among the generated ones, from 0.
    pub index: usize,
    /// The token.
    pub token: u32,
    /// The text that became complete with it: whole characters only, so that it is empty while the
    /// bytes of a character or what may be a stop string are still coming, and empty for special
    /// tokens.
    pub text: String,
    /// The natural logarithm of the token's probability under the model, before any option of
    /// sampling.
    pub logprob: f32,
    /// The most likely tokens, as many as
    /// [`top_logprobs`](super::GenerateOptions::top_logprobs) asks for, the most likely first.
    pub top_logprobs: Vec<TokenLogprob>,
}

/// A token and the natural logarithm of its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// The natural logarithm of its probability under the model.
    pub logprob: f32,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended the text.
    Stop,
    /// A stop string was generated; [`Generation::stop_string`] tells which.
    StopString,
    /// `max_tokens` were generated.
    Length,
    /// The context is full, and the options do not let it shift.
    ContextFull,
    /// `max_time` is over.
    TimeLimit,
    /// The callback or another thread asked to stop.
    Cancelled,
}

/// A finished generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The generated text, without special tokens and stop string; empty where the model has no
    /// tokenizer.
    pub text: String,
    /// The generated tokens, without the one that ended the text. Those of a stop string are among
    /// them.
    pub tokens: Vec<u32>,
    /// The natural logarithm of each token's probability under the model.
    pub logprobs: Vec<f32>,
    /// The number of prompt tokens.
    pub prompt_tokens: usize,
    /// How many of them were in the key-value cache already.
    pub cached_tokens: usize,
    /// From the call to the first token: prefill and one choice.
    pub time_to_first_token: Duration,
    /// Tokens per second after the first one; 0 where there is no second one.
    pub tokens_per_second: f64,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The stop string that ended it.
    pub stop_string: Option<String>,
    /// Tokens that were drafted to be checked by the model: looked up in the text, proposed by the
    /// draft model, or forced by the grammar.
    pub drafted_tokens: usize,
    /// How many of them were right. Their share is the acceptance rate.
    pub accepted_tokens: usize,
}
