//! Holding the output of a model to a grammar, token by token.

use std::fmt;
use std::sync::Arc;

use llguidance::Matcher;
use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;

use super::grammar::reason;
use super::{Grammar, GrammarVocabulary};
use crate::{Error, Result};

/// Keeps a text that grows token by token within a [`Grammar`].
///
/// Before each token [`mask`](Self::mask) takes the logits of all tokens that the grammar forbids
/// to negative infinity; after it [`accept`](Self::accept) takes the chosen one. Text that the
/// grammar leaves no choice about is tokenized as the tokenizer does it. A constraint sees only what
/// is generated, not the prompt.
///
/// Cloning is cheap: try tokens on a clone to look ahead.
///
/// # Example
///
/// ```
/// use metal_candle::ModelLoader;
/// use metal_candle::inference::{Constraint, Grammar, GrammarVocabulary};
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// let (tokenizer, vocab_size) = (model.tokenizer()?, model.config().vocab_size);
/// let vocabulary = GrammarVocabulary::new(tokenizer, model.eos_token_ids(), vocab_size)?;
///
/// let grammar = Grammar::Regex("yes|no".to_owned());
/// let mut constraint = Constraint::new(&vocabulary, &grammar)?;
/// let mut text = vec![];
/// while !constraint.is_complete() {
///     let mut logits = vec![0.0; vocab_size]; // those of a model
///     constraint.mask(&mut logits)?;
///     let token = (0..).zip(&logits).find(|(_, logit)| logit.is_finite()).unwrap().0;
///     constraint.accept(token)?;
///     text.push(token);
/// }
/// assert!(["yes", "no"].contains(&tokenizer.decode(&text, true)?.as_str()));
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Clone)]
pub struct Constraint {
    vocabulary: GrammarVocabulary,
    matcher: Matcher,
    /// The added tokens that the grammar does not ask for, in ascending order. An expression for
    /// arbitrary bytes, such as a negated one, would match their mark.
    hidden: Arc<[u32]>,
    /// What may come next, once it was asked for.
    allowed: Option<SimpleVob>,
    /// Whether an end-of-text token was taken.
    ended: bool,
}

impl Constraint {
    /// A constraint at the start of a text.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the grammar is malformed, uses what is not supported, is too
    /// large, or can be entered but never completed; the message says what and where.
    pub fn new(vocabulary: &GrammarVocabulary, grammar: &Grammar) -> Result<Self> {
        let parser = grammar.compile(vocabulary.factory())?;
        let lexemes = &parser.parser.grammar().lexer_spec().lexemes;
        let is_hidden = |&&id: &&u32| !lexemes.iter().any(|lexeme| lexeme.contains_token(id));
        let hidden = vocabulary.added().iter().filter(is_hidden).copied();
        let mut constraint = Self {
            vocabulary: vocabulary.clone(),
            hidden: hidden.collect(),
            matcher: Matcher::new(Ok(parser)),
            allowed: None,
            ended: false,
        };
        for warning in constraint.matcher.grammar_warnings() {
            tracing::warn!(warning, "a grammar may not be what is meant");
        }
        // A grammar that no token can begin is noticed here.
        match constraint.compute_allowed() {
            Ok(allowed) => constraint.allowed = Some(allowed),
            Err(reason) => return Err(grammar.unusable(&reason)),
        }
        Ok(constraint)
    }

    /// Sets the logits of all tokens that may not come next to negative infinity.
    ///
    /// `logits` has one number per token of the vocabulary. The end-of-text tokens stay allowed
    /// where the text may end, and are alone after it [is complete](Self::is_complete).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the number of logits is another one, if the grammar is too
    /// complex at this place, and if all tokens would be masked, because the vocabulary has no
    /// token that fits or the logits of all that do were negative infinity.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        const WORD: usize = u32::BITS as usize;
        let vocab_size = self.vocabulary.trie().vocab_size();
        if logits.len() != vocab_size {
            let expected = format!("{vocab_size} numbers, one for each token");
            return Err(Error::option(
                "logits",
                format!("{} numbers", logits.len()),
                expected,
            ));
        }
        let allowed = match self.allowed.take() {
            Some(allowed) => allowed,
            None => self.compute_allowed().map_err(|reason| stuck(&reason))?,
        };
        let mut is_any_left = false;
        for (&word, logits) in allowed.as_slice().iter().zip(logits.chunks_mut(WORD)) {
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
                // NaN counts: it is the sampler's to report.
                is_any_left |= *logit != f32::NEG_INFINITY;
            }
        }
        self.allowed = Some(allowed);
        if is_any_left {
            Ok(())
        } else {
            Err(stuck(
                "the logits of all allowed tokens are negative infinity",
            ))
        }
    }

    /// Takes the token that was chosen, an end-of-text token included.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the grammar does not allow the token here, which changes
    /// nothing, and if the grammar is too complex at this place, which ends the use of the
    /// constraint.
    pub fn accept(&mut self, token: u32) -> Result<()> {
        let trie = self.vocabulary.trie();
        let is_end = trie.eos_tokens().contains(&token);
        if is_end && self.is_complete() {
            return Ok(());
        }
        // An id beyond the vocabulary would end the use of the matcher.
        let is_known = (token as usize) < trie.vocab_size();
        let is_hidden = self.hidden.binary_search(&token).is_ok();
        if !is_known || is_hidden || self.consume(token)? == 0 {
            let expected = "a token that the grammar allows here";
            return Err(Error::option("token", token, expected));
        }
        self.allowed = None;
        self.ended = is_end;
        Ok(())
    }

    /// Whether nothing can follow but the end: the generation is over.
    ///
    /// True after an end-of-text token, and as soon as the text has no continuation, without one.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let stop = self.matcher.stop_reason();
        self.ended || (stop.is_ok() && stop != StopReason::NotStopped)
    }

    /// The tokens that come next in any case, the first one first; often none.
    ///
    /// They need no forward pass of their own: the model can take them at once. They are not
    /// accepted by this.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the grammar is too complex at this place.
    pub fn forced(&mut self) -> Result<Vec<u32>> {
        if self.is_complete() {
            return Ok(Vec::new());
        }
        let tokens = self.matcher.compute_ff_tokens();
        match self.matcher.get_error() {
            Some(error) => Err(stuck(&reason(error))),
            None => Ok(tokens),
        }
    }

    /// Takes a token if it is allowed; gives the number of tokens taken.
    fn consume(&mut self, token: u32) -> Result<usize> {
        if self.is_complete() {
            return Ok(0);
        }
        let taken = self.matcher.try_consume_tokens(&[token]);
        taken.map_err(|error| stuck(&reason(error)))
    }

    fn compute_allowed(&mut self) -> std::result::Result<SimpleVob, String> {
        let end = self.vocabulary.trie().eos_token_set();
        if self.is_complete() {
            return if end.is_zero() {
                Err("it is complete, and the model has no end-of-text token".to_owned())
            } else {
                Ok(end)
            };
        }
        let none = "no token of the vocabulary can come next";
        let mut allowed = self.matcher.compute_mask().map_err(|error| {
            let reason = reason(error);
            if reason.contains("NoExtension") {
                none.to_owned()
            } else {
                reason
            }
        })?;
        for &token in &*self.hidden {
            allowed.disallow_token(token);
        }
        if allowed.is_zero() {
            return Err(none.to_owned());
        }
        Ok(allowed)
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Constraint")
            .field("vocabulary", &self.vocabulary)
            .field("is_complete", &self.is_complete())
            .finish_non_exhaustive()
    }
}

/// An error that says why a constraint cannot go on.
fn stuck(reason: &str) -> Error {
    let expected = "a grammar that can go on at this place of the text";
    Error::option("grammar", format!("stuck: {reason}"), expected)
}
