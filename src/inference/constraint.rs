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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rand::seq::IndexedRandom;
    use rand::{SeedableRng, rngs::SmallRng};
    use serde_json::{Value, json};

    use super::*;
    use crate::models::Tokenizer;

    const VOCAB_SIZE: usize = 6144;
    const EOS: u32 = 6135;
    const IM_END: u32 = 6137;

    fn tiny_coder() -> (Tokenizer, GrammarVocabulary) {
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
    fn generate(vocabulary: &GrammarVocabulary, grammar: &Grammar, seed: u64) -> Vec<u32> {
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

    fn texts(grammar: &Grammar) -> Vec<String> {
        let (tokenizer, vocabulary) = tiny_coder();
        let text = |seed| {
            tokenizer
                .decode(&generate(&vocabulary, grammar, seed), true)
                .unwrap()
        };
        (0..25).map(text).collect()
    }

    fn values(schema: &Value) -> Vec<Value> {
        let texts = texts(&Grammar::JsonSchema(schema.clone()));
        let parse =
            |text: String| serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        texts.into_iter().map(parse).collect()
    }

    #[test]
    fn values_meet_their_schema() {
        let in_range =
            |v: &Value, low: f64, high: f64| v.as_f64().is_some_and(|x| (low..=high).contains(&x));
        let person = json!({"type": "object", "additionalProperties": false,
            "required": ["name", "age"], "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 9},
                "age": {"type": "integer", "minimum": -3, "maximum": 120},
                "tags": {"type": "array", "items": {"enum": ["a", "b\"c", "é🦀"]}, "minItems": 1,
                    "maxItems": 3}}});
        for value in values(&person) {
            let length = value["name"].as_str().unwrap().chars().count();
            assert!((1..=9).contains(&length), "{value}");
            assert!(
                value["age"].is_i64() && in_range(&value["age"], -3.0, 120.0),
                "{value}"
            );
            assert!(value.as_object().unwrap().len() == 2 || value["tags"].is_array());
            for tag in value["tags"].as_array().into_iter().flatten() {
                assert!(
                    ["a", "b\"c", "é🦀"].contains(&tag.as_str().unwrap()),
                    "{value}"
                );
            }
        }
        let list = json!({"$defs": {"node": {"type": "object", "additionalProperties": false,
            "required": ["next", "on"], "properties": {"on": {"type": "boolean"},
                "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}}},
            "$ref": "#/$defs/node"});
        for mut value in values(&list) {
            while !value.is_null() {
                assert!(value["on"].is_boolean() && value.as_object().unwrap().len() == 2);
                value = value["next"].take();
            }
        }
        let tuple = json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "array",
            "prefixItems": [{"type": "number", "minimum": 0.25, "maximum": 0.75},
                {"const": {"k": [1, null, "x"]}},
                {"type": "string", "pattern": "^[a-c]{2,4}$"},
                {"type": "integer", "multipleOf": 7, "exclusiveMinimum": 0, "maximum": 70},
                {"type": "string", "format": "date"},
                {"oneOf": [{"type": "null"}, {"type": "boolean"}]}],
            "items": false, "minItems": 6});
        for value in values(&tuple) {
            assert!(in_range(&value[0], 0.25, 0.75), "{value}");
            assert_eq!(value[1], json!({"k": [1, null, "x"]}));
            let word = value[2].as_str().unwrap();
            assert!(
                (2..=4).contains(&word.len()) && word.bytes().all(|b| (b'a'..=b'c').contains(&b))
            );
            assert!(in_range(&value[3], 7.0, 70.0) && value[3].as_u64().unwrap() % 7 == 0);
            assert!(
                value[4]
                    .as_str()
                    .unwrap()
                    .parse::<jiff::civil::Date>()
                    .is_ok()
                    || value[4].as_str().unwrap().ends_with("-02-29")
            );
            assert!(value[5].is_null() || value[5].is_boolean());
        }
    }

    #[test]
    fn white_space_is_bounded() {
        let schema = json!({"type": "array", "items": {"type": "object", "properties":
            {"a": {"type": "boolean"}, "b": {"type": "null"}}, "required": ["a", "b"],
            "additionalProperties": false}, "minItems": 2, "maxItems": 2});
        let texts = texts(&Grammar::JsonSchema(schema));
        for text in &texts {
            let compact = text.replace(": ", ":").replace(", ", ",");
            assert!(!compact.contains(char::is_whitespace), "{text}");
        }
        assert!(texts.iter().any(|text| text.contains(' ')));
        assert!(texts.iter().any(|text| !text.contains(": ")));
    }

    #[test]
    fn texts_match_their_expression() {
        for (regex, is_match) in [
            (
                "^(yes|no|größe🦀)$",
                (|t| ["yes", "no", "größe🦀"].contains(&t)) as fn(&str) -> bool,
            ),
            (r"[0-9]{3}/\/[a-f]+;", |t| {
                t.len() > 5 && t[3..].starts_with("//") && t.ends_with(';')
            }),
            ("(a|b)*a(a|b){12}!", |t| {
                t.as_bytes()[t.len() - 14] == b'a' && t.ends_with('!')
            }),
            (r"\p{Greek}{2,3}\n", |t| {
                t.trim_end().chars().count() <= 3 && t.ends_with('\n')
            }),
            ("", str::is_empty),
        ] {
            for text in texts(&Grammar::Regex(regex.to_owned())) {
                assert!(is_match(&text), "{regex}: {text:?}");
            }
        }
    }

    #[test]
    fn texts_follow_their_grammar() {
        let lark = "start: sum\nsum: term (\"+\" term)?\nterm: /[0-9]{1,2}/ | \"(\" sum \")\"";
        for text in texts(&Grammar::Lark(lark.to_owned())) {
            let mut depth = 0;
            for character in text.chars() {
                depth += i32::from(character == '(') - i32::from(character == ')');
                assert!(depth >= 0, "{text}");
            }
            assert!(depth == 0 && !text.ends_with(['(', '+']), "{text}");
        }
        let json =
            "start: \"x = \" %json {\"type\": \"integer\", \"minimum\": 10, \"maximum\": 99} \";\"";
        for text in texts(&Grammar::Lark(json.to_owned())) {
            let number = text
                .strip_prefix("x = ")
                .unwrap()
                .strip_suffix(';')
                .unwrap();
            assert!((10..=99).contains(&number.parse::<u32>().unwrap()));
        }
    }

    #[test]
    fn what_cannot_be_met_or_used_is_an_error_at_once() {
        let (_, vocabulary) = tiny_coder();
        let schema = |schema| Grammar::JsonSchema(schema);
        let regex = |regex: &str| Grammar::Regex(regex.to_owned());
        let lark = |lark: &str| Grammar::Lark(lark.to_owned());
        let mut nested = json!({"type": "null"});
        for _ in 0..200 {
            nested = json!({"items": nested});
        }
        let clauses = json!({"anyOf": (0..12).map(|i| json!({"const": i})).collect::<Vec<_>>()});
        for (grammar, words) in [
            (
                schema(json!({"type": "integer", "minimum": 5, "maximum": 3})),
                "minimum (5)",
            ),
            (schema(json!({"enum": []})), "empty"),
            (schema(json!(false)), "`false`"),
            (schema(json!(3)), "neither an object nor a boolean"),
            (
                schema(json!({"properties": {"a": false}, "required": ["a"], "type": "object"})),
                "'a'",
            ),
            (
                schema(json!({"type": "string", "pattern": "^abc$", "maxLength": 2})),
                "abc",
            ),
            (
                schema(json!({"type": "array", "minItems": 2, "maxItems": 1})),
                "minItems (2)",
            ),
            (
                schema(json!({"allOf": [{"type": "null"}, {"type": "string"}]})),
                "incompatible types",
            ),
            (schema(json!({"$ref": "#"})), "`start`"),
            (
                schema(
                    json!({"anyOf": [{"type": "null"}, {"type": "object", "properties":
                {"a": {"$ref": "#/anyOf/1"}}, "required": ["a"]}]}),
                ),
                "no text can complete",
            ),
            (
                schema(json!({"properties": {"a/b": {"uniqueItems": true}}})),
                "`#/properties/a/b` there is the keyword `uniqueItems`",
            ),
            (
                schema(json!({"$ref": "#/x-types/t", "x-types": {"t": {"minLenght": 3}}})),
                "`#/x-types/t` there is the keyword `minLenght`",
            ),
            (
                schema(json!({"type": "null", "x-guidance": {"lenient": true}})),
                "x-guidance",
            ),
            (
                schema(json!({"oneOf": [{"type": "integer"}, {"type": "number"}]})),
                "`anyOf` is",
            ),
            (
                schema(json!({"type": "string", "format": "color"})),
                "color",
            ),
            (schema(json!({"type": "é".repeat(900)})), "Invalid type"),
            (
                schema(json!({"items": {"$ref": "http://a/b"}})),
                "`#/items/$ref` there is \"http://a/b\"",
            ),
            (
                schema(json!({"const": 9_007_199_254_740_993_u64})),
                "9007199254740993",
            ),
            (schema(nested), "deeper than 128"),
            (
                schema(json!({"description": "x".repeat(300_000)})),
                "256 KiB",
            ),
            (schema(json!({"allOf": vec![clauses; 12]})), "too large"),
            (
                schema(json!({"oneOf": vec![json!(true); 3000]})),
                "`#/oneOf` there is more than 2000",
            ),
            (regex("(a"), "unclosed group"),
            (regex("a\\"), "backslash"),
            (regex("(?=a)b"), "look-around"),
            (regex("[^\\s\\S]"), "no text can complete"),
            (regex(&("(".repeat(5000) + &")".repeat(5000))), "nested"),
            (regex(&"a".repeat(300_000)), "256 KiB"),
            (lark("start: foo"), "\"foo\""),
            (lark("s: \"a\""), "no start rule"),
            (lark("start: ( \"a\"\nb"), "1(13)"),
            (lark("start: \"a\" start"), "`start`"),
            (lark("start: \"a\" X\nX: /a/ & /b/"), "no text can complete"),
            (lark("start: \"a\" <|no_such|>"), "<|no_such|>"),
            (lark(&format!("start: {}", "(".repeat(100_000))), "nested"),
            (lark(&"\n".repeat(3000)), "2000 lines"),
        ] {
            let error = Constraint::new(&vocabulary, &grammar).unwrap_err();
            assert!(matches!(error, Error::InvalidOption { .. }), "{error:?}");
            let message = error.to_string();
            assert!(message.contains(words), "no `{words}` in: {message}");
            assert!(
                message.len() < 2500 && !message.contains("panic"),
                "{message}"
            );
        }
    }

    #[test]
    fn hostile_grammars_are_bounded() {
        let (_, vocabulary) = tiny_coder();
        let definitions = |group: usize| {
            let next = |i: usize| {
                if i % 1900 == 1899 {
                    (group + 1, 0)
                } else {
                    (group, i + 1)
                }
            };
            let reference = |i| format!("#/$defs/{}/$defs/{}", next(i).0, next(i).1);
            let entries = (0..1900).map(|i| (i.to_string(), json!({"$ref": reference(i)})));
            json!({"$defs": entries.collect::<serde_json::Map<_, _>>()})
        };
        let mut groups: serde_json::Map<_, _> =
            (0..3).map(|g| (g.to_string(), definitions(g))).collect();
        groups.insert("3".to_owned(), json!({"$defs": {"0": {"type": "null"}}}));
        let chain = json!({"$defs": groups, "$ref": "#/$defs/0/$defs/0"});
        for grammar in [
            Grammar::Regex("((a{1,1000}){1,1000}){1,1000}".to_owned()),
            Grammar::Regex("(a|b)*a(a|b){2000}".to_owned()),
            Grammar::JsonSchema(json!({"type": "string", "minLength": 100_000_000})),
            Grammar::JsonSchema(chain),
        ] {
            // The stack of a thread of a host may be small.
            let vocabulary = vocabulary.clone();
            let small = std::thread::Builder::new().stack_size(256 << 10);
            let work = move || {
                let mut constraint = Constraint::new(&vocabulary, &grammar).unwrap();
                let mut logits = vec![0.0; VOCAB_SIZE];
                for _ in 0..30 {
                    logits.fill(0.0);
                    // Too complex to go on is an answer; the other one is a token.
                    if constraint.is_complete() || constraint.mask(&mut logits).is_err() {
                        break;
                    }
                    let id = (0..)
                        .zip(&logits)
                        .find(|(_, logit)| logit.is_finite())
                        .unwrap()
                        .0;
                    constraint.accept(id).unwrap();
                }
            };
            small.spawn(work).unwrap().join().unwrap();
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
        fn check<T: Send + Sync>() {}
        check::<GrammarVocabulary>();
        fn check_send<T: Send>() {}
        check_send::<Constraint>();
    }
}
