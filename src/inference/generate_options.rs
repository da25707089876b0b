//! The settings of a generation.

use super::{Grammar, SamplingOptions};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The most alternatives that a token is reported with.
const MAX_TOP_LOGPROBS: usize = 100;

/// How a text is continued.
///
/// | option | default | range | meaning |
/// |---|---|---|---|
/// | `max_tokens` | 256 | 1 or more | the most tokens to generate |
/// | `min_tokens` | 0 | up to `max_tokens` | tokens before which the text may not end |
/// | `sampling` | greedy | see [`SamplingOptions`] | how a token is chosen |
/// | `stop` | none | no empty string | strings that end the text and are cut out of it |
/// | `stop_token_ids` | none | | tokens that end the text, beside the model's |
/// | `ignore_eos` | false | | go on after a token that ends the text |
/// | `grammar` | none | see [`Grammar`] | what the text must be |
/// | `max_time` | none | above 0 | seconds after which it ends |
/// | `top_logprobs` | 0 | up to 100 | alternatives reported with each token |
/// | `skip_special_tokens` | true | | leave special tokens out of the text |
/// | `prefill_chunk` | 512 | 1 or more | prompt tokens computed at once |
/// | `max_kv_size` | none | 2 or more | tokens of context to keep at most, below the model's limit |
/// | `max_kv_bytes` | none | room for 256 tokens or more | bytes of keys and values to keep at most |
/// | `context_shift` | false | | what happens when the context is full |
/// | `keep` | 4 | below half the context | first tokens that a shift of the context keeps |
/// | `prompt_lookup_num_tokens` | 0 | | tokens to draft from the text itself |
/// | `num_draft_tokens` | 3 | 1 or more | tokens to draft with a draft model |
///
/// At most 64 tokens are drafted at once, and no more than `prefill_chunk`.
///
/// As JSON, an option that is left out has its default, and an unknown one is an error.
///
/// # Example
///
/// ```
/// use metal_candle::{GenerateOptions, SamplingOptions};
///
/// let options = GenerateOptions {
///     max_tokens: 64,
///     stop: vec!["\n\n".to_owned()],
///     sampling: SamplingOptions {
///         temperature: 0.7,
///         top_p: 0.9,
///         ..SamplingOptions::default()
///     },
///     ..GenerateOptions::default()
/// };
/// assert_eq!(options.prefill_chunk, 512);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// The most tokens to generate, at least 1. Default 256, as in mlx-lm.
    pub max_tokens: usize,
    /// Tokens before which no token that ends the text is chosen, unless a grammar allows nothing
    /// else. Default 0.
    pub min_tokens: usize,
    /// How a token is chosen. The default is greedy.
    pub sampling: SamplingOptions,
    /// Strings that end the text. They may span tokens, and are not part of the text.
    pub stop: Vec<String>,
    /// Tokens that end the text beside those that the model names; not part of the text either.
    pub stop_token_ids: Vec<u32>,
    /// Go on after a token that ends the text, those of `stop_token_ids` excepted; with a grammar,
    /// choose none as long as something else may follow. Default false.
    pub ignore_eos: bool,
    /// What the text must be: a JSON schema, a regular expression or a Lark grammar. The text ends
    /// when nothing can follow; where `max_tokens` end it before, it is a start of such a text.
    pub grammar: Option<Grammar>,
    /// The time after which the generation ends, with what there is; in JSON a number of seconds.
    #[serde(with = "seconds")]
    pub max_time: Option<Duration>,
    /// How many of the most likely tokens each token is reported with, at most 100. Default 0.
    pub top_logprobs: usize,
    /// Leave special tokens out of the text. Default true.
    pub skip_special_tokens: bool,
    /// Prompt tokens computed at once, at least 1. Default 512. Memory for activations grows with
    /// it; results do not depend on it but for rounding.
    pub prefill_chunk: usize,
    /// The most tokens of context to keep, at least 2; the model's own limit holds too. It bounds
    /// the memory of a new generator's key-value cache.
    pub max_kv_size: Option<usize>,
    /// The most bytes that the keys and values of the context may take, which is a limit of its tokens as
    /// `max_kv_size` is, in steps of 256. Those of a draft model do not count, and while a cache grows, one
    /// layer of it is there twice. In a batch it is a limit for each text.
    pub max_kv_bytes: Option<u64>,
    /// When the context is full, drop the older half of it, all but the first [`keep`](Self::keep)
    /// tokens, compute the rest anew and go on. Default false: a prompt that does not fit is an
    /// error, and a text that reaches the limit ends.
    pub context_shift: bool,
    /// The first tokens of the context that a shift keeps, such as those of a system prompt.
    /// Default 4, as in mlx-lm.
    pub keep: usize,
    /// The most tokens to draft at once from the text so far: where its last tokens occurred
    /// before, what came after them is tried (Saxena, 2023,
    /// <https://github.com/apoorvumang/prompt-lookup-decoding>). The text stays the same, or its
    /// distribution where it is sampled; it pays where the answer repeats the prompt. Default 0,
    /// which is off.
    pub prompt_lookup_num_tokens: usize,
    /// The tokens to draft at once where the generator has a draft model, at least 1. Default 3, as
    /// in mlx-lm.
    pub num_draft_tokens: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            min_tokens: 0,
            sampling: SamplingOptions::default(),
            stop: vec![],
            stop_token_ids: vec![],
            ignore_eos: false,
            grammar: None,
            max_time: None,
            top_logprobs: 0,
            skip_special_tokens: true,
            prefill_chunk: 512,
            max_kv_size: None,
            max_kv_bytes: None,
            context_shift: false,
            keep: 4,
            prompt_lookup_num_tokens: 0,
            num_draft_tokens: 3,
        }
    }
}

impl GenerateOptions {
    /// Reads options from JSON.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that says what is wrong and where. Ranges are checked by
    /// [`GenerateOptions::validate`].
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::GenerateOptions;
    ///
    /// let options = GenerateOptions::from_json(r#"{"max_tokens": 8, "sampling": {"top_k": 40}}"#)?;
    /// assert_eq!(options.sampling.top_k, 40);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| {
            let expected = "the options of a generation as a JSON object";
            Error::option("options", format!("not understood ({error})"), expected)
        })
    }

    /// Checks the ranges of all fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the field and its range.
    pub fn validate(&self) -> Result<()> {
        for (name, value, least) in [
            ("max_tokens", self.max_tokens, 1),
            ("prefill_chunk", self.prefill_chunk, 1),
            ("max_kv_size", self.max_kv_size.unwrap_or(usize::MAX), 2),
            ("num_draft_tokens", self.num_draft_tokens, 1),
        ] {
            if value < least {
                return Err(Error::option(name, value, format!("at least {least}")));
            }
        }
        for (name, value, most, of) in [
            (
                "min_tokens",
                self.min_tokens,
                self.max_tokens,
                "`max_tokens`, ",
            ),
            ("top_logprobs", self.top_logprobs, MAX_TOP_LOGPROBS, ""),
        ] {
            if value > most {
                return Err(Error::option(name, value, format!("at most {of}{most}")));
            }
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::option(
                "stop",
                "an empty string",
                "strings with text",
            ));
        }
        if self.max_time == Some(Duration::ZERO) {
            return Err(Error::option("max_time", 0, "a time above 0"));
        }
        self.sampling.validate()
    }
}

/// A time as a number of seconds.
mod seconds {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use std::time::Duration;

    #[allow(clippy::ref_option, reason = "the signature that serde asks for")]
    pub fn serialize<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs_f64()).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(from)?;
        seconds
            .map(Duration::try_from_secs_f64)
            .transpose()
            .map_err(|error| D::Error::custom(format!("`max_time`: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_named() {
        let base = GenerateOptions::default;
        base().validate().unwrap();
        let cases: [(GenerateOptions, &str); 8] = [
            (
                GenerateOptions {
                    max_tokens: 0,
                    ..base()
                },
                "`max_tokens` is 0; expected at least 1",
            ),
            (
                GenerateOptions {
                    min_tokens: 257,
                    ..base()
                },
                "`min_tokens` is 257; expected at most",
            ),
            (
                GenerateOptions {
                    prefill_chunk: 0,
                    ..base()
                },
                "`prefill_chunk` is 0",
            ),
            (
                GenerateOptions {
                    max_kv_size: Some(1),
                    ..base()
                },
                "`max_kv_size` is 1",
            ),
            (
                GenerateOptions {
                    num_draft_tokens: 0,
                    ..base()
                },
                "`num_draft_tokens` is 0",
            ),
            (
                GenerateOptions {
                    top_logprobs: 101,
                    ..base()
                },
                "`top_logprobs` is 101",
            ),
            (
                GenerateOptions {
                    stop: vec![String::new()],
                    ..base()
                },
                "`stop` is an empty string",
            ),
            (
                GenerateOptions {
                    max_time: Some(Duration::ZERO),
                    ..base()
                },
                "`max_time` is 0",
            ),
        ];
        for (options, expected) in cases {
            let error = options.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn json_keeps_all_and_names_what_is_wrong() {
        let options = GenerateOptions {
            max_time: Some(Duration::from_millis(1500)),
            stop: vec!["x".to_owned()],
            max_kv_size: Some(9),
            grammar: Some(Grammar::Regex("a+".to_owned())),
            ..GenerateOptions::default()
        };
        let json = serde_json::to_string(&options).unwrap();
        assert!(json.contains(r#""max_time":1.5"#), "{json}");
        assert_eq!(GenerateOptions::from_json(&json).unwrap(), options);
        assert_eq!(
            GenerateOptions::from_json("{}").unwrap(),
            GenerateOptions::default()
        );
        for (json, expected) in [
            (r#"{"max_token": 1}"#, "max_token"),
            (r#"{"max_tokens": -1}"#, "-1"),
            (r#"{"max_time": -1}"#, "max_time"),
            (r#"{"sampling": {"top_q": 1}}"#, "top_q"),
            ("[", "JSON"),
        ] {
            let error = GenerateOptions::from_json(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
