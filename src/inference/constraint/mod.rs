//! Holding the output of a model to a grammar, token by token.

mod dead_rule;
mod grammar;
mod json_schema;

use std::fmt;
use std::sync::Arc;

use llguidance::Matcher;
use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;

use crate::models::GrammarVocabulary;
use crate::{Error, Result};
use grammar::reason;

pub use grammar::Grammar;

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
/// use metal_candle::inference::{Constraint, Grammar};
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// let (tokenizer, vocab_size) = (model.tokenizer()?, model.config().vocab_size);
/// let vocabulary = model.grammar_vocabulary()?;
///
/// let grammar = Grammar::Regex("yes|no".to_owned());
/// let mut constraint = Constraint::new(vocabulary, &grammar)?;
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
            if word == 0 {
                logits.fill(f32::NEG_INFINITY);
            } else if word != u32::MAX || !is_any_left {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                    // NaN counts: it is the sampler's to report.
                    is_any_left |= *logit != f32::NEG_INFINITY;
                }
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

    /// Whether the text may end here.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the grammar is too complex at this place.
    pub fn may_end(&mut self) -> Result<bool> {
        if self.is_complete() {
            return Ok(true);
        }
        let accepting = self.matcher.is_accepting();
        accepting.map_err(|error| stuck(&reason(error)))
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
        self.matcher
            .try_consume_tokens(&[token])
            .map_err(|error| stuck(&reason(error)))
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

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use rand::seq::IndexedRandom;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::models::Tokenizer;

    pub(crate) const VOCAB_SIZE: usize = 6144;
    const EOS: u32 = 6135;
    const IM_END: u32 = 6137;

    pub(crate) fn tiny_coder() -> (Tokenizer, GrammarVocabulary) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-coder");
        let tokenizer = Tokenizer::from_dir(&dir).unwrap().unwrap();
        let vocabulary = GrammarVocabulary::new(&tokenizer, &[EOS], VOCAB_SIZE).unwrap();
        (tokenizer, vocabulary)
    }

    fn allowed(constraint: &mut Constraint) -> Vec<u32> {
        let mut logits = vec![0.0; VOCAB_SIZE];
        constraint.mask(&mut logits).unwrap();
        let ids = (0..).zip(logits).filter(|(_, logit)| *logit == 0.0);
        ids.map(|(id, _)| id).collect()
    }

    /// Random allowed tokens until nothing can follow; the end as soon as it is allowed.
    pub(crate) fn generate(
        vocabulary: &GrammarVocabulary,
        grammar: &Grammar,
        seed: u64,
    ) -> Vec<u32> {
        let mut constraint = Constraint::new(vocabulary, grammar).unwrap();
        let mut random = SmallRng::seed_from_u64(seed);
        let mut ids = vec![];
        while !constraint.is_complete() {
            let allowed = allowed(&mut constraint);
            let may_end = allowed.contains(&EOS);
            let id = if may_end {
                EOS
            } else {
                *allowed.choose(&mut random).unwrap()
            };
            constraint.accept(id).unwrap();
            ids.push(id);
            assert!(ids.len() < 400, "{grammar:?} does not end");
        }
        assert_eq!(allowed(&mut constraint), [EOS]);
        constraint.accept(EOS).unwrap();
        ids
    }

    /// Asserts that each grammar is refused, by a short message with the words beside it.
    pub(crate) fn assert_unusable(cases: &[(Grammar, &str)]) {
        let (_, vocabulary) = tiny_coder();
        for (grammar, words) in cases {
            let error = Constraint::new(&vocabulary, grammar).unwrap_err();
            assert!(matches!(error, Error::InvalidOption { .. }), "{error:?}");
            let message = error.to_string();
            assert!(message.contains(words), "no `{words}` in: {message}");
            assert!(
                message.len() < 1500 && !message.contains("panic"),
                "{message}"
            );
        }
    }

    #[test]
    fn added_tokens_are_no_text() {
        let (tokenizer, vocabulary) = tiny_coder();
        let literal = Grammar::Lark("start: \"<|im_end|>\" \"<|endoftext|>\"".to_owned());
        let ids = generate(&vocabulary, &literal, 0);
        assert!(ids.iter().all(|&id| id < EOS), "{ids:?}");
        assert_eq!(
            tokenizer.decode(&ids, true).unwrap(),
            "<|im_end|><|endoftext|>"
        );
        for grammar in [
            Grammar::Regex(r"[\s\S]*".to_owned()),
            Grammar::Lark("start: ~/b/".to_owned()),
        ] {
            let mut constraint = Constraint::new(&vocabulary, &grammar).unwrap();
            let allowed = allowed(&mut constraint);
            assert!(
                allowed.len() > 1000 && allowed.iter().all(|&id| id <= EOS),
                "{grammar:?}"
            );
            constraint.accept(IM_END).unwrap_err();
        }
        let named = Grammar::Lark("start: \"a\" <|im_end|> \"b\"".to_owned());
        assert_eq!(generate(&vocabulary, &named, 0)[1], IM_END);
    }

    #[test]
    fn forced_text_is_tokenized_as_the_tokenizer_does() {
        let (tokenizer, vocabulary) = tiny_coder();
        let text = "let total = items.iter().map(|x| x + 1);";
        let expected = tokenizer.encode(text, false).unwrap();
        let grammar = Grammar::Lark(format!("start: {text:?} /[0-9]/"));
        let mut constraint = Constraint::new(&vocabulary, &grammar).unwrap();
        let forced = constraint.forced().unwrap();
        assert!(
            forced.len() > 5 && expected.starts_with(&forced),
            "{forced:?} {expected:?}"
        );
        assert_eq!(constraint.forced().unwrap(), forced);
        for id in forced {
            assert_eq!(allowed(&mut constraint), [id]);
            constraint.accept(id).unwrap();
        }
        assert!(allowed(&mut constraint).len() > 1);
    }

    #[test]
    fn what_is_refused_changes_nothing_and_clones_are_apart() {
        let (tokenizer, vocabulary) = tiny_coder();
        let grammar = Grammar::Regex("ab?".to_owned());
        let id = |text| tokenizer.token_to_id(text).unwrap();
        let mut constraint = Constraint::new(&vocabulary, &grammar).unwrap();
        for wrong in [id("b"), EOS, IM_END, 6144, u32::MAX] {
            let error = constraint.accept(wrong).unwrap_err().to_string();
            assert!(error.contains(&wrong.to_string()), "{error}");
        }
        constraint.accept(id("a")).unwrap();
        let before = allowed(&mut constraint);
        assert!(before.contains(&EOS) && before.contains(&id("b")));
        let mut ahead = constraint.clone();
        ahead.accept(id("b")).unwrap();
        assert!(ahead.is_complete() && !constraint.is_complete());
        assert_eq!(allowed(&mut constraint), before);
        constraint.accept(EOS).unwrap();
        assert!(constraint.is_complete());
        assert!(constraint.accept(id("b")).is_err());
    }

    #[test]
    fn masks_keep_logits_and_never_leave_none() {
        let (tokenizer, vocabulary) = tiny_coder();
        let grammar = Grammar::Regex("[ab]".to_owned());
        let mut constraint = Constraint::new(&vocabulary, &grammar).unwrap();
        let ids = ["a", "b"].map(|text| tokenizer.token_to_id(text).unwrap() as usize);
        let mut logits = vec![1.5; VOCAB_SIZE];
        logits[ids[0]] = f32::NEG_INFINITY;
        constraint.mask(&mut logits).unwrap();
        let left = logits.iter().filter(|logit| logit.is_finite()).count();
        assert!(left == 1 && (logits[ids[1]] - 1.5).abs() < f32::EPSILON);
        logits[ids[1]] = f32::NEG_INFINITY;
        let error = constraint.mask(&mut logits).unwrap_err().to_string();
        assert!(error.contains("negative infinity"), "{error}");
        let error = constraint.mask(&mut [0.0; 7]).unwrap_err().to_string();
        assert!(
            error.contains("7 numbers") && error.contains("6144"),
            "{error}"
        );
    }

    #[test]
    fn constraints_go_to_other_threads() {
        fn check_shared<T: Send + Sync>() {}
        fn check_sent<T: Send>() {}
        check_shared::<GrammarVocabulary>();
        check_sent::<Constraint>();
    }
}
