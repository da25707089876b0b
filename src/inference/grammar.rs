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
/// The compiler recurses along references: the longest chain of them that fits into
/// [`MAX_GRAMMAR_BYTES`] takes about half of this, and threads of a host often have 512 KiB in all.
const COMPILER_STACK_BYTES: usize = 128 << 20;

/// The longest reason that is kept of an error of the grammar library, in characters.
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
    /// [`regex`](https://docs.rs/regex/latest/regex/#syntax) crate, without look-around, word
    /// boundaries and lazy matching. `^` and `$` at the ends are allowed and change nothing.
    Regex(String),
    /// A text of a context-free grammar in
    /// [llguidance's variant of Lark](https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md);
    /// its rule `start` is where it starts.
    ///
    /// Names of added tokens in angle brackets, such as `<|im_end|>`, stand for the tokens; nothing
    /// else produces them. A schema after `%json` follows llguidance's rules for white space and
    /// unknown keywords.
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
        Error::option(name, format!("unusable: {reason}"), expected)
    }

    /// The parser of this grammar, at the start of a text.
    pub(super) fn compile(&self, factory: &ParserFactory) -> Result<TokenParser> {
        let grammar = match self {
            Self::JsonSchema(schema) => {
                TopLevelGrammar::from_json_schema(json_schema::prepare(schema)?)
            }
            Self::Regex(regex) => {
                self.check_size(regex)?;
                // The last backslash would be lost on the way to the compiler.
                if regex.len() - regex.trim_end_matches('\\').len() & 1 == 1 {
                    return Err(self.unusable("it ends in a backslash"));
                }
                TopLevelGrammar::from_regex(regex)
            }
            Self::Lark(lark) => {
                self.check_size(lark)?;
                if lark.lines().count() > MAX_LINES {
                    return Err(self.unusable(&format!("it has more than {MAX_LINES} lines")));
                }
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
