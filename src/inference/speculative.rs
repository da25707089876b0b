//! Drafts of the next tokens, which the model then checks all at once (speculative decoding,
//! Leviathan et al., 2023, <https://arxiv.org/abs/2211.17192>).

use super::context::Context;
use super::{GenerateOptions, Sampler, SamplingOptions};
use crate::error::{Error, Result};
use crate::models::{Model, Tokenizer};

/// The longest and the shortest run of tokens that prompt lookup looks for.
const LONGEST_NGRAM: usize = 3;
const SHORTEST_NGRAM: usize = 2;

/// A proposed token, and the probabilities that it was drawn from; none where it was certain.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Draft {
    pub token: u32,
    pub probabilities: Option<Vec<f32>>,
}

impl Draft {
    pub fn certain(token: u32) -> Self {
        Self {
            token,
            probabilities: None,
        }
    }
}

/// Proposes the tokens to come.
pub(super) enum Drafter<'a> {
    Nothing,
    PromptLookup {
        count: usize,
    },
    Model {
        context: &'a mut Context,
        sampler: Box<Sampler>,
        count: usize,
        prefill_chunk: usize,
        /// The vocabulary of the model that checks.
        vocabulary: usize,
    },
}

impl<'a> Drafter<'a> {
    /// The drafter for one generation: the draft model where there is one, else prompt lookup where
    /// the options ask for it.
    pub fn new(
        options: &GenerateOptions,
        model: &Model,
        draft: Option<&'a mut Context>,
    ) -> Result<Self> {
        let Some(context) = draft else {
            return Ok(match options.prompt_lookup_num_tokens {
                0 => Self::Nothing,
                count => Self::PromptLookup { count },
            });
        };
        let sampling = SamplingOptions {
            // Its random numbers must have nothing to do with those that check the drafts.
            seed: !options.sampling.seed,
            ..options.sampling.clone()
        };
        let sampler = Sampler::for_model(sampling, context.model())?;
        Ok(Self::Model {
            context,
            sampler: Box::new(sampler),
            count: options.num_draft_tokens,
            prefill_chunk: options.prefill_chunk,
            vocabulary: model.config().vocab_size,
        })
    }

    pub fn is_on(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// At most `most` tokens that may follow `tokens`.
    pub fn draft(&mut self, tokens: &[u32], most: usize) -> Result<Vec<Draft>> {
        match self {
            Self::Nothing => Ok(vec![]),
            Self::PromptLookup { count } => Ok(look_up(tokens, most.min(*count))),
            Self::Model {
                context,
                sampler,
                count,
                prefill_chunk,
                vocabulary,
            } => {
                let count = most.min(*count);
                let config = context.model().config();
                let is_unknown = |id: &u32| *id as usize >= config.vocab_size;
                if count == 0
                    || tokens.len() + count > config.max_position_embeddings
                    || tokens.iter().any(is_unknown)
                {
                    return Ok(vec![]);
                }
                let mut history = tokens.to_vec();
                let mut drafts: Vec<Draft> = vec![];
                while drafts.len() < count {
                    let mut logits = context.logits_after(&history, *prefill_chunk)?;
                    // Vocabularies are filled up to different sizes.
                    logits.truncate(*vocabulary);
                    let draft = propose(sampler, &logits, &history)?;
                    history.push(draft.token);
                    drafts.push(draft);
                }
                Ok(drafts)
            }
        }
    }
}

fn propose(sampler: &mut Sampler, logits: &[f32], history: &[u32]) -> Result<Draft> {
    if sampler.is_greedy() {
        return Ok(Draft::certain(sampler.sample(logits, history, 0)?));
    }
    let probabilities = sampler.probabilities(logits, history)?;
    Ok(Draft {
        token: sampler.draw(&probabilities),
        probabilities: Some(probabilities),
    })
}

/// What came after the latest earlier place where the last tokens occur, the longest run of them
/// first.
fn look_up(tokens: &[u32], most: usize) -> Vec<Draft> {
    for length in (SHORTEST_NGRAM..=LONGEST_NGRAM.min(tokens.len())).rev() {
        let last = &tokens[tokens.len() - length..];
        // Without the last token, so that the end does not find itself.
        let mut places = tokens[..tokens.len() - 1].windows(length);
        if let Some(place) = places.rposition(|run| run == last) {
            let next = &tokens[place + length..];
            return next
                .iter()
                .take(most)
                .copied()
                .map(Draft::certain)
                .collect();
        }
    }
    vec![]
}

/// Checks that the drafts of one model mean the same to another.
pub(super) fn check_draft_model(model: &Model, draft: &Model) -> Result<()> {
    let same = match (model.tokenizer(), draft.tokenizer()) {
        (Ok(ours), Ok(theirs)) => Tokenizer::same_vocabulary(ours, theirs),
        _ => model.config().vocab_size == draft.config().vocab_size,
    };
    if same {
        return Ok(());
    }
    Err(Error::option(
        "draft_model",
        format!("{}, which has other tokens", draft.path().display()),
        format!("a model with the tokens of {}", model.path().display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tokens: &[u32], most: usize) -> Vec<u32> {
        let drafts = look_up(tokens, most);
        assert!(drafts.iter().all(|draft| draft.probabilities.is_none()));
        drafts.iter().map(|draft| draft.token).collect()
    }

    #[test]
    fn the_longest_and_latest_run_is_continued() {
        assert_eq!(found(&[1, 2, 3, 4, 5, 1, 2, 3], 2), [4, 5]);
        assert_eq!(found(&[1, 2, 3, 4, 5, 1, 2, 3], 9), [4, 5, 1, 2, 3]);
        // Two tokens, where three do not occur.
        assert_eq!(found(&[9, 2, 3, 4, 8, 2, 3], 1), [4]);
        // The later one of two places.
        assert_eq!(found(&[2, 3, 4, 2, 3, 5, 2, 3], 1), [5]);
        // Three tokens before two.
        assert_eq!(found(&[1, 2, 3, 4, 0, 2, 3, 5, 1, 2, 3], 1), [4]);
        // A place that overlaps the end.
        assert_eq!(found(&[7, 7, 7], 4), [7]);
        assert_eq!(found(&[7, 7, 7, 7], 4), [7]);
    }

    #[test]
    fn without_a_place_there_is_nothing() {
        for tokens in [&[][..], &[1], &[1, 1], &[1, 2, 3, 4], &[1, 2, 3, 1]] {
            assert!(found(tokens, 4).is_empty(), "{tokens:?}");
        }
        assert!(found(&[1, 2, 3, 1, 2], 0).is_empty());
    }
}
