//! What the output of a model must be.

use std::panic::AssertUnwindSafe;
use std::thread;

use llguidance::api::TopLevelGrammar;
use llguidance::panic_utils::catch_unwind;
use llguidance::{ParserFactory, TokenParser};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::dead_rule::dead_rule;
use super::json_schema;
use crate::{Error, Result};

/// The longest regular expression or Lark grammar, in bytes.
pub(super) const MAX_GRAMMAR_BYTES: usize = 256 << 10;

/// The most lines of a Lark grammar. The time to compile a chain of terminals grows with the square
/// of its length and more.
const MAX_LINES: usize = 2000;

/// The stack on which a grammar is compiled, in bytes; pages that are not used take no memory.
///
/// The compiler recurses along references. The longest chain of them that is let through takes some
/// 16 MiB, several times as much without optimisation; threads of a host often have 512 KiB in all.
const COMPILER_STACK_BYTES: usize = 128 << 20;

/// The longest reason that an error gives, in characters: it may quote the grammar.
const MAX_REASON_CHARS: usize = 500;

/// What the output must be: a JSON value of a schema, a match of a regular expression, or a text of
/// a grammar.
///
/// With `serde` it is an object of one key: `{"json_schema": {…}}`, `{"regex": "…"}` or
/// `{"lark": "…"}`. A [`Constraint`](super::Constraint) applies it; the work is done by
/// [llguidance](https://github.com/guidance-ai/llguidance).
///
/// # Example
///
/// ```
/// use metal_candle::inference::Grammar;
///
/// let grammar: Grammar = serde_json::from_str(r#"{"regex": "yes|no"}"#).unwrap();
/// assert_eq!(grammar, Grammar::Regex("yes|no".to_owned()));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grammar {
    /// JSON that a [JSON schema](https://json-schema.org) of draft 2020-12 allows.
    ///
    /// The JSON is on one line, with at most one space after each comma and colon: where any white
    /// space is allowed, small models write it without end. Properties come in the order of the
    /// schema. As the standard has it, further properties are allowed unless
    /// `additionalProperties` is `false`, and a schema without `type` allows values of all types.
    /// Numbers, strings and arrays without bounds have any length.
    ///
    /// Supported are `type`, `enum`, `const`, `anyOf`, `allOf`, `oneOf` of options that exclude each
    /// other, `$ref` into the same schema (recursion too), `properties`, `required`,
    /// `additionalProperties`, `patternProperties` with patterns that exclude each other,
    /// `minProperties` and `maxProperties` where all properties are required, `items`,
    /// `prefixItems`, `additionalItems`, `minItems`, `maxItems`, `minLength`, `maxLength`,
    /// `pattern`, `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `multipleOf`, and
    /// `format` with `date-time`, `time`, `date`, `duration`, `email`, `hostname`, `ipv4`, `ipv6`,
    /// `uuid` and `uri`. Annotations such as `title`, and keywords that start with `x-`, have no
    /// effect. Every other keyword is an error, misspelt ones included.
    JsonSchema(Value),
    /// A text that a regular expression matches from its start to its end, in the syntax of the
    /// [`regex`](https://docs.rs/regex/latest/regex/#syntax) crate, without look-around and word
    /// boundaries. `^` and `$` at the ends are allowed and change nothing, nor does laziness.
    Regex(String),
    /// A text of a context-free grammar in
    /// [llguidance's variant of Lark](https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md);
    /// its rule `start` is where it starts.
    ///
    /// Names of added tokens in angle brackets, such as `<|im_end|>`, stand for the tokens; nothing
    /// else produces them. A schema after `%json` may have the keywords of [`Self::JsonSchema`], and
    /// llguidance's settings under `x-guidance`, without which it allows any white space.
    Lark(String),
}

impl Grammar {
    /// The name of the option that errors name, and what is right for it.
    fn option(&self) -> (&'static str, &'static str) {
        match self {
            Self::JsonSchema(_) => ("json_schema", "a JSON schema that some value meets"),
            Self::Regex(_) => (
                "regex",
                "a regular expression that some text matches, without look-around",
            ),
            Self::Lark(_) => ("lark", "a Lark grammar that has some text"),
        }
    }

    /// An error that says why this grammar cannot be used.
    pub(super) fn unusable(&self, reason: &str) -> Error {
        let (name, expected) = self.option();
        let reason: String = reason.chars().take(MAX_REASON_CHARS).collect();
        Error::option(name, format!("unusable: {reason}"), expected)
    }

    /// The parser of this grammar, at the start of a text.
    pub(super) fn compile(&self, factory: &ParserFactory) -> Result<TokenParser> {
        let grammar = match self {
            Self::JsonSchema(schema) => {
                let prepared = json_schema::prepare(schema);
                TopLevelGrammar::from_json_schema(
                    prepared.map_err(|reason| self.unusable(&reason))?,
                )
            }
            Self::Regex(regex) => {
                self.check_size(regex)?;
                let backslashes = regex.len() - regex.trim_end_matches('\\').len();
                // The last one would be lost on the way to the compiler.
                if backslashes % 2 == 1 {
                    return Err(self.unusable("it ends in a backslash"));
                }
                TopLevelGrammar::from_regex(regex)
            }
            Self::Lark(lark) => {
                self.check_size(lark)?;
                if lark.lines().count() > MAX_LINES {
                    return Err(self.unusable(&format!("it has more than {MAX_LINES} lines")));
                }
                json_schema::check_embedded(lark).map_err(|reason| self.unusable(&reason))?;
                TopLevelGrammar::from_lark(lark.clone())
            }
        };
        let work = || {
            let parser = factory.create_parser(grammar).map_err(reason)?;
            let work = AssertUnwindSafe(|| Ok(dead_rule(parser.parser.grammar())));
            match catch_unwind(work).map_err(reason)? {
                None => Ok(parser),
                Some(rule) => Err(format!("no text can complete {rule}")),
            }
        };
        on_large_stack(work)
            .unwrap_or_else(Err)
            .map_err(|reason| self.unusable(&reason))
    }

    fn check_size(&self, text: &str) -> Result<()> {
        if text.len() > MAX_GRAMMAR_BYTES {
            let limit = MAX_GRAMMAR_BYTES >> 10;
            return Err(self.unusable(&format!("it is longer than {limit} KiB")));
        }
        Ok(())
    }
}

/// What a caller can use of an error of the grammar library.
///
/// What follows in angle brackets is the state of its parser or a backtrace.
#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(super) fn reason(error: impl ToString) -> String {
    let text = error.to_string();
    let text = text.split("\n<").next().unwrap_or_default().trim();
    if text.contains("coerce_one_of") {
        return "the options of `oneOf` may overlap, which is not supported; `anyOf` is".to_owned();
    }
    // A regular expression is compiled inside a grammar, which the message quotes around it.
    let text = match text.split_once("(in regex): ") {
        Some((_, inner)) => inner.split("\n   1 | start: /").next().unwrap_or_default(),
        None => text,
    };
    if text.chars().count() <= MAX_REASON_CHARS {
        return text.to_owned();
    }
    let last = text
        .lines()
        .last()
        .filter(|line| line.starts_with("error: "));
    let text = last.unwrap_or(text);
    text.chars().take(MAX_REASON_CHARS).collect()
}

/// Runs `work` on a thread of its own with a stack that no grammar exhausts.
fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> std::result::Result<T, String> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("metal-candle grammar".to_owned())
            .stack_size(COMPILER_STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|error| format!("no thread to compile it: {error}"))?
            .join()
            .map_err(|_| "its compiler failed".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Constraint;
    use super::super::json_schema::tests::chain;
    use super::super::tests::{VOCAB_SIZE, assert_unusable, generate, tiny_coder};
    use super::*;

    #[test]
    fn grammars_survive_serde() {
        for (grammar, json) in [
            (
                Grammar::JsonSchema(json!({"type": "null"})),
                json!({"json_schema": {"type": "null"}}),
            ),
            (Grammar::Regex("a".to_owned()), json!({"regex": "a"})),
            (Grammar::Lark("b".to_owned()), json!({"lark": "b"})),
        ] {
            assert_eq!(serde_json::to_value(&grammar).unwrap(), json);
            assert_eq!(serde_json::from_value::<Grammar>(json).unwrap(), grammar);
        }
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
    fn what_is_malformed_or_matches_nothing_is_an_error_at_once() {
        let regex = |regex: &str| Grammar::Regex(regex.to_owned());
        let lark = |lark: &str| Grammar::Lark(lark.to_owned());
        let deep = "(".repeat(5000) + &")".repeat(5000);
        assert_unusable(&[
            (regex("(a"), "unclosed group"),
            (regex("a\\"), "backslash"),
            (regex("(?=a)b"), "look-around"),
            (regex("[^\\s\\S]"), "no text can complete"),
            (regex(&deep), "nested"),
            (regex(&"a".repeat(300_000)), "256 KiB"),
            (lark("start: foo"), "\"foo\""),
            (lark("s: \"a\""), "no start rule"),
            (lark("start: ( \"a\"\nb"), "1(13)"),
            (lark("start: \"a\" start"), "`start`"),
            (lark("start: \"a\" b\nb: X | \"c\" b\nX: /a/ & /b/"), "`b`"),
            (lark("start: \"a\" <|no_such|>"), "<|no_such|>"),
            (lark(&format!("start: {deep}")), "nested"),
            (lark(&"\n".repeat(3000)), "2000 lines"),
        ]);
    }

    #[test]
    fn hostile_grammars_are_bounded() {
        let (_, vocabulary) = tiny_coder();
        for grammar in [
            Grammar::Regex("((a{1,1000}){1,1000}){1,1000}".to_owned()),
            Grammar::Regex("(a|b)*a(a|b){2000}".to_owned()),
            Grammar::JsonSchema(json!({"type": "string", "minLength": 100_000_000})),
            Grammar::JsonSchema(chain(1650)),
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
}
