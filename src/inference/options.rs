//! The settings of token sampling.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the next token is chosen.
///
/// The default is greedy decoding. The steps are applied in the order of Hugging Face transformers,
/// which is the order of this table; a step whose option has its default value does nothing.
///
/// | option | default | range | meaning |
/// |---|---|---|---|
/// | `logit_bias` | empty | finite, or -∞ | added to the logits of some tokens; -∞ bans |
/// | `repetition_penalty` | 1 | above 0 | makes tokens that occurred less likely, by a factor |
/// | `frequency_penalty` | 0 | finite | … by an amount per occurrence |
/// | `presence_penalty` | 0 | finite | … by an amount, once |
/// | `penalty_last_n` | 0 (all) | any | the tokens that these three look at |
/// | `dry_multiplier` | 0 | 0 or more | size of the penalty on going on with a repetition |
/// | `dry_base` | 1.75 | 1 or more | its growth per repeated token |
/// | `dry_allowed_length` | 2 | any | repeated tokens from which it counts |
/// | `dry_penalty_last_n` | 0 (all) | any | the tokens in which repetitions are looked for |
/// | `dry_sequence_breakers` | `\n` `:` `"` `*` | not empty | texts over which no repetition goes |
/// | `temperature` | 0 (greedy) | 0 or more | divides the logits |
/// | `top_k` | 0 (off) | any | keeps this number of most likely tokens |
/// | `top_p` | 1 (off) | above 0, up to 1 | keeps the most likely tokens of this mass |
/// | `min_p` | 0 (off) | 0 to 1 | keeps tokens of this share of the highest probability |
/// | `typical_p` | 1 (off) | above 0, up to 1 | keeps the most typical tokens of this mass |
/// | `xtc_probability` | 0 (off) | 0 to 1 | how often the top choices are excluded |
/// | `xtc_threshold` | 0.1 | 0 to 0.5 | the probability that makes a top choice |
/// | `seed` | 0 | any | of the random generator |
///
/// In JSON the names are the same, and what is missing has its default. A ban in `logit_bias` is
/// written `false`, as llama.cpp does, because JSON has no infinity.
///
/// # Example
///
/// ```
/// use metal_candle::inference::SamplingOptions;
///
/// let options = SamplingOptions {
///     temperature: 0.7,
///     top_p: 0.9,
///     ..SamplingOptions::default()
/// };
/// assert!(options.validate().is_ok());
///
/// let json = r#"{"temperature": 0.7, "top_p": 0.9}"#;
/// assert_eq!(serde_json::from_str::<SamplingOptions>(json).unwrap(), options);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// Divisor of the logits: below 1 sharpens, above 1 flattens the distribution. 0 is greedy
    /// decoding: always the most likely token, the lowest id on ties. Finite and at least 0.
    pub temperature: f64,
    /// Number of most likely tokens to choose from, the lowest ids on ties. 0 is off.
    pub top_k: usize,
    /// Probability mass to choose from: the smallest set of most likely tokens whose sum reaches
    /// it. Above 0, up to 1; 1 is off.
    pub top_p: f64,
    /// The least probability to choose from, as a share of that of the most likely token. 0 to 1; 0
    /// is off. From Nguyen et al., 2024.
    pub min_p: f64,
    /// Probability mass to choose from: the smallest set of tokens whose sum reaches it, beginning
    /// with those whose information is closest to the entropy of the distribution. Above 0, up to 1;
    /// 1 is off. From Meister et al., 2022; the same as `TypicalLogitsWarper` of transformers.
    pub typical_p: f64,
    /// How often, from 0 to 1, a token is drawn without the top choices: all tokens that have
    /// `xtc_threshold` or more but the least likely one of them. 0 is off. From p-e-w, 2024.
    pub xtc_probability: f64,
    /// The least probability of a top choice, 0 to 0.5. Default 0.1. Above 0.5 there could never be
    /// two of them.
    pub xtc_threshold: f64,
    /// Divisor of the positive and factor of the negative logits of tokens that occurred, once per
    /// token. Above 1 they become less likely, below 1 more likely; finite and above 0; 1 is off.
    /// From Keskar et al., 2019.
    pub repetition_penalty: f64,
    /// Subtracted from the logits of tokens that occurred, once per token. Finite, usually -2 to 2; 0
    /// is off.
    pub presence_penalty: f64,
    /// Subtracted from the logit of a token as often as it occurred. Finite, usually -2 to 2; 0 is
    /// off.
    pub frequency_penalty: f64,
    /// The number of last tokens, of prompt and answer together, in which `repetition_penalty`,
    /// `presence_penalty` and `frequency_penalty` look for a token. 0, the default, is all, as in
    /// transformers; in llama.cpp, where the name is from, 0 switches the three off.
    pub penalty_last_n: usize,
    /// Size of the DRY penalty: a token that would go on with a repetition of `n` tokens loses
    /// `dry_multiplier · dry_base^(n - dry_allowed_length)` of its logit. Finite and at least 0; 0 is
    /// off, 0.8 is usual. From p-e-w, 2024.
    pub dry_multiplier: f64,
    /// Growth of the DRY penalty with each further token of a repetition. Finite and at least 1.
    /// Default 1.75.
    pub dry_base: f64,
    /// The shortest repetition that has a DRY penalty, in tokens. Default 2.
    pub dry_allowed_length: usize,
    /// The number of last tokens, of prompt and answer together, in which DRY looks for repetitions.
    /// 0, the default, is all.
    pub dry_penalty_last_n: usize,
    /// Texts that end a repetition for DRY: no repetition goes over a token that has one of them in
    /// its text, nor is such a token penalised. Default `\n`, `:`, `"` and `*`, as in llama.cpp.
    pub dry_sequence_breakers: Vec<String>,
    /// Added to the logits of these token ids before anything else. Finite, or negative infinity for
    /// a token that must not be drawn.
    #[serde(with = "bias")]
    pub logit_bias: BTreeMap<u32, f32>,
    /// Seed of the random generator: the same seed and logits give the same tokens.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_last_n: 0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: 0,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            logit_bias: BTreeMap::new(),
            seed: 0,
        }
    }
}

impl SamplingOptions {
    /// Checks that every option is in its range.
    ///
    /// Whether the ids in `logit_bias` are in the vocabulary shows only when a token is sampled.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] with the name and range of the first option that is not.
    pub fn validate(&self) -> Result<()> {
        const ABOVE_0: f64 = f64::from_bits(1);
        let any = (f64::MIN..=f64::MAX, "a finite number");
        let not_negative = (0.0..=f64::MAX, "a finite number of at least 0");
        let positive = (ABOVE_0..=f64::MAX, "a finite number above 0");
        let at_least_1 = (1.0..=f64::MAX, "a finite number of at least 1");
        let share = (0.0..=1.0, "a number from 0 to 1");
        let half = (0.0..=0.5, "a number from 0 to 0.5");
        let mass = (ABOVE_0..=1.0, "a number above 0, up to 1");
        for (name, value, (range, expected)) in [
            ("temperature", self.temperature, &not_negative),
            ("top_p", self.top_p, &mass),
            ("min_p", self.min_p, &share),
            ("typical_p", self.typical_p, &mass),
            ("xtc_probability", self.xtc_probability, &share),
            ("xtc_threshold", self.xtc_threshold, &half),
            ("repetition_penalty", self.repetition_penalty, &positive),
            ("presence_penalty", self.presence_penalty, &any),
            ("frequency_penalty", self.frequency_penalty, &any),
            ("dry_multiplier", self.dry_multiplier, &not_negative),
            ("dry_base", self.dry_base, &at_least_1),
        ] {
            if !range.contains(&value) {
                return Err(Error::option(name, value, *expected));
            }
        }
        if self.dry_sequence_breakers.iter().any(String::is_empty) {
            return Err(Error::option(
                "dry_sequence_breakers",
                format!("{:?}", self.dry_sequence_breakers),
                "texts of at least one character",
            ));
        }
        let mut biases = self.logit_bias.iter();
        match biases.find(|(_, bias)| bias.is_nan() || **bias == f32::INFINITY) {
            Some((id, bias)) => Err(Error::option(
                "logit_bias",
                format!("{bias} for token id {id}"),
                "a finite number, or negative infinity for a ban",
            )),
            None => Ok(()),
        }
    }
}

/// `logit_bias` in JSON.
mod bias {
    use std::collections::BTreeMap;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(
        untagged,
        expecting = "the bias of a token is a number, or false for a ban"
    )]
    enum Bias {
        Number(f32),
        Allowed(bool),
    }

    pub(super) fn serialize<S: Serializer>(
        biases: &BTreeMap<u32, f32>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(biases.iter().map(|(id, &bias)| match bias {
            f32::NEG_INFINITY => (id, Bias::Allowed(false)),
            _ => (id, Bias::Number(bias)),
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<u32, f32>, D::Error> {
        let biases = BTreeMap::<u32, Bias>::deserialize(deserializer)?;
        biases
            .into_iter()
            .map(|(id, bias)| match bias {
                Bias::Number(bias) => Ok((id, bias)),
                Bias::Allowed(false) => Ok((id, f32::NEG_INFINITY)),
                Bias::Allowed(true) => Err(D::Error::custom(format!(
                    "the bias of token id {id} is true; expected a number, or false for a ban"
                ))),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_named() {
        type Set = fn(&mut SamplingOptions, f64);
        // Values inside and outside of the range.
        type Case = (&'static str, Set, ([f64; 2], [f64; 2]));
        assert!(SamplingOptions::default().validate().is_ok());
        let (nan, infinity) = (f64::NAN, f64::INFINITY);
        let not_finite = [infinity, -infinity];
        let shares = ([0.0, 1.0], [-0.1, 1.01]);
        let masses = ([1e-9, 1.0], [0.0, 1.01]);
        let amounts = ([-2.0, 2.0], not_finite);
        let sizes = ([0.0, 9.0], [-0.1, infinity]);
        let cases: [Case; 11] = [
            ("`temperature`", |o, x| o.temperature = x, sizes),
            ("`top_p`", |o, x| o.top_p = x, masses),
            ("`min_p`", |o, x| o.min_p = x, shares),
            ("`typical_p`", |o, x| o.typical_p = x, masses),
            ("`xtc_probability`", |o, x| o.xtc_probability = x, shares),
            (
                "`xtc_threshold`",
                |o, x| o.xtc_threshold = x,
                ([0.0, 0.5], [-0.1, 0.51]),
            ),
            (
                "`repetition_penalty`",
                |o, x| o.repetition_penalty = x,
                ([0.1, 9.0], [0.0, infinity]),
            ),
            ("`presence_penalty`", |o, x| o.presence_penalty = x, amounts),
            (
                "`frequency_penalty`",
                |o, x| o.frequency_penalty = x,
                amounts,
            ),
            ("`dry_multiplier`", |o, x| o.dry_multiplier = x, sizes),
            (
                "`dry_base`",
                |o, x| o.dry_base = x,
                ([1.0, 9.0], [0.9, infinity]),
            ),
        ];
        for (name, set, (good, bad)) in cases {
            let validate = |value| {
                let mut options = SamplingOptions::default();
                set(&mut options, value);
                options.validate()
            };
            for value in good {
                assert!(validate(value).is_ok(), "{name} {value}");
            }
            for value in bad.into_iter().chain([nan]) {
                let error = validate(value).unwrap_err().to_string();
                assert!(error.contains(name), "{error}");
                assert!(error.contains(&value.to_string()), "{error}");
            }
        }
    }

    #[test]
    fn breakers_and_biases_are_checked() {
        let breakers = SamplingOptions {
            dry_sequence_breakers: vec!["a".to_owned(), String::new()],
            ..SamplingOptions::default()
        };
        let error = breakers.validate().unwrap_err().to_string();
        assert!(error.contains("`dry_sequence_breakers`"), "{error}");
        let bias = |bias| SamplingOptions {
            logit_bias: BTreeMap::from([(3, 1.0), (7, bias)]),
            ..SamplingOptions::default()
        };
        assert!(bias(f32::NEG_INFINITY).validate().is_ok());
        for wrong in [f32::NAN, f32::INFINITY] {
            let error = bias(wrong).validate().unwrap_err().to_string();
            let expected = format!("`logit_bias` is {wrong} for token id 7");
            assert!(error.contains(&expected), "{error}");
        }
    }

    #[test]
    fn json_keeps_every_option() {
        let options = SamplingOptions {
            temperature: 0.1,
            top_k: 2,
            top_p: 0.3,
            min_p: 0.4,
            typical_p: 0.5,
            xtc_probability: 0.6,
            xtc_threshold: 0.45,
            repetition_penalty: 1.1,
            presence_penalty: -0.7,
            frequency_penalty: 0.8,
            penalty_last_n: 9,
            dry_multiplier: 0.85,
            dry_base: 1.5,
            dry_allowed_length: 4,
            dry_penalty_last_n: 12,
            dry_sequence_breakers: vec!["\n\n".to_owned()],
            logit_bias: BTreeMap::from([(0, -1.1), (u32::MAX, f32::NEG_INFINITY)]),
            seed: u64::MAX,
        };
        let json = serde_json::to_string(&options).unwrap();
        assert!(
            json.contains(r#""logit_bias":{"0":-1.1,"4294967295":false}"#),
            "{json}"
        );
        assert_eq!(
            serde_json::from_str::<SamplingOptions>(&json).unwrap(),
            options
        );
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            serde_json::from_value::<SamplingOptions>(value).unwrap(),
            options
        );
        let defaults: SamplingOptions = serde_json::from_str("{}").unwrap();
        assert_eq!(defaults, SamplingOptions::default());
    }

    #[test]
    fn json_errors_say_what_is_wrong() {
        for (json, part) in [
            (r#"{"topp": 0.9}"#, "unknown field `topp`"),
            (r#"{"penalty_last_n": -1}"#, "invalid value: integer `-1`"),
            (r#"{"logit_bias": {"5": true}}"#, "token id 5 is true"),
            (
                r#"{"logit_bias": {"5": "x"}}"#,
                "a number, or false for a ban",
            ),
        ] {
            let error = serde_json::from_str::<SamplingOptions>(json).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
