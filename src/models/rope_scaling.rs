//! The settings of rotary position embeddings in `config.json`.
//!
//! Two spellings exist: older files have `rope_theta` and `rope_scaling` at the top level, newer
//! ones a single `rope_parameters` object.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::models::json::{self, Object};

/// The base of the rotary frequencies where a configuration names none, as in transformers.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// The rope types that are implemented, for error messages.
const SUPPORTED_ROPE_TYPES: &str = "default, linear, llama3, longrope, yarn";

/// The keys of a yarn section that have an effect here, for error messages.
const SUPPORTED_YARN_KEYS: &str = "factor, original_max_position_embeddings, beta_fast, beta_slow, attention_factor, truncate: true";

/// The longest context that makes sense, in tokens.
pub(crate) const MAX_POSITIONS: usize = 1 << 24;

/// How rotary position embeddings are stretched beyond the context that a model was trained on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// `YaRN`: low frequencies are interpolated, high ones are kept, with a ramp in between.
    Yarn {
        /// How many times longer the context becomes.
        factor: f64,
        /// The context before stretching, in tokens.
        original_max_position_embeddings: usize,
        /// Dimensions that turn more often than this within the original context are kept.
        beta_fast: f64,
        /// Dimensions that turn less often than this within the original context are interpolated.
        beta_slow: f64,
        /// What cosines and sines are multiplied by; `0.1 ln(factor) + 1` if the file does not say.
        attention_factor: Option<f64>,
    },
    /// Llama 3.1: as [`Yarn`](Self::Yarn) low frequencies are interpolated and high ones kept, but the
    /// ramp between them is by wavelength, and cosines and sines stay as they are.
    Llama3 {
        /// How many times longer the context becomes.
        factor: f64,
        /// Wavelengths longer than the original context divided by this are interpolated.
        low_freq_factor: f64,
        /// Wavelengths shorter than the original context divided by this are kept; above
        /// `low_freq_factor`.
        high_freq_factor: f64,
        /// The context before stretching, in tokens.
        original_max_position_embeddings: usize,
    },
    /// All frequencies are interpolated alike.
    Linear {
        /// How many times longer the context becomes.
        factor: f64,
    },
    /// Each frequency is interpolated by a factor of its own: `longrope` with the same factors for
    /// short and long texts.
    Factors {
        /// What each frequency is divided by, half as many as a head is wide.
        factors: Vec<f64>,
    },
}

impl RopeScaling {
    /// Reads the scaling of a configuration whose context is `max_position_embeddings` tokens.
    pub(crate) fn from_config(config: &Object, max_position_embeddings: usize) -> Result<Self> {
        let sections = sections(config)?;
        let Some(section) = sections.first() else {
            return Ok(Self::None);
        };
        for layer_type in ["full_attention", "sliding_attention"] {
            if section.get(layer_type).is_some() {
                return Err(Error::Unsupported {
                    path: section.path().to_owned(),
                    what: "rope per layer type",
                    found: layer_type.to_owned(),
                    supported: "one set of rope parameters for all layers".to_owned(),
                });
            }
        }
        let rope_type = match section.string("rope_type")? {
            Some(rope_type) => Some(rope_type),
            None => section.string("type")?,
        };
        match rope_type {
            // A factor without a type would silently have no effect.
            None if section.get("factor").is_some() => Err(section.invalid(
                "rope_type",
                format!("one of {SUPPORTED_ROPE_TYPES}, because there is a `factor`"),
            )),
            None | Some("default") => Ok(Self::None),
            Some("linear") => Ok(Self::Linear {
                factor: required_number(section, "factor")?,
            }),
            Some("llama3") => Self::llama3(section, max_position_embeddings),
            Some("longrope") => Self::longrope(section),
            Some("yarn") => Self::yarn(section, max_position_embeddings),
            Some(other) => Err(Error::Unsupported {
                path: section.path().to_owned(),
                what: "rope type",
                found: other.to_owned(),
                supported: SUPPORTED_ROPE_TYPES.to_owned(),
            }),
        }
    }

    /// The context of a configuration whose file says `max_position_embeddings`.
    ///
    /// With `YaRN` at least the original one times the factor, as in vLLM: users who add the scaling by
    /// hand, as Qwen2.5 documents it, leave `max_position_embeddings` as it was.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "lengths fit f64; a length is positive, and beyond the largest integer becomes it"
    )]
    pub(crate) fn context(&self, max_position_embeddings: usize) -> usize {
        match self {
            Self::Yarn {
                factor,
                original_max_position_embeddings: original,
                ..
            } => {
                let stretched = (*original as f64 * factor) as usize;
                max_position_embeddings.max(stretched.min(MAX_POSITIONS))
            }
            Self::None | Self::Llama3 { .. } | Self::Linear { .. } | Self::Factors { .. } => {
                max_position_embeddings
            }
        }
    }

    fn llama3(section: &Object, max_position_embeddings: usize) -> Result<Self> {
        let low_freq_factor = required_number(section, "low_freq_factor")?;
        let high_freq_factor = required_number(section, "high_freq_factor")?;
        if high_freq_factor <= low_freq_factor {
            return Err(section.invalid(
                "high_freq_factor",
                format!("a number above low_freq_factor, which is {low_freq_factor}"),
            ));
        }
        Ok(Self::Llama3 {
            factor: required_number(section, "factor")?,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: section
                .size("original_max_position_embeddings", MAX_POSITIONS)?
                .unwrap_or(max_position_embeddings),
        })
    }

    fn longrope(section: &Object) -> Result<Self> {
        let list = |key: &str| {
            let factors: Option<Vec<f64>> = section
                .list(key)?
                .and_then(|factors| factors.iter().map(factor).collect());
            factors.ok_or_else(|| section.invalid(key, "a list of numbers above 0"))
        };
        let factors = list("short_factor")?;
        let scale = section.number_above("attention_factor", 0.0)?;
        let variant = if list("long_factor")? != factors {
            Some("other factors for long texts than for short ones".to_owned())
        } else if scale == Some(1.0) {
            None
        } else {
            let scale = section.get("attention_factor");
            Some(format!("attention_factor: {}", json::quote(scale)))
        };
        match variant {
            None => Ok(Self::Factors { factors }),
            Some(variant) => Err(Error::Unsupported {
                path: section.path().to_owned(),
                what: "longrope setting",
                found: variant,
                supported: "short_factor and long_factor that are the same, attention_factor: 1"
                    .to_owned(),
            }),
        }
    }

    /// Checks what depends on the width of a head.
    pub(crate) fn check(&self, config: &Object, head_dim: usize) -> Result<()> {
        match self {
            Self::Factors { factors } if factors.len() != head_dim / 2 => {
                let (count, half) = (factors.len(), head_dim / 2);
                Err(config.invalid(
                    "head_dim",
                    format!("twice the number of rope factors, which are {count}, not {half}"),
                ))
            }
            _ => Ok(()),
        }
    }

    fn yarn(section: &Object, max_position_embeddings: usize) -> Result<Self> {
        // Variants of yarn that other model families use; ignoring them would give wrong numbers.
        let variant = if section.bool("truncate")? == Some(false) {
            Some("truncate: false")
        } else {
            ["mscale", "mscale_all_dim"]
                .into_iter()
                .find(|key| section.get(key).is_some())
        };
        if let Some(variant) = variant {
            return Err(Error::Unsupported {
                path: section.path().to_owned(),
                what: "yarn setting",
                found: variant.to_owned(),
                supported: SUPPORTED_YARN_KEYS.to_owned(),
            });
        }
        let factor = required_number(section, "factor")?;
        let beta_fast = section.number_above("beta_fast", 0.0)?.unwrap_or(32.0);
        let beta_slow = section.number_above("beta_slow", 0.0)?.unwrap_or(1.0);
        if beta_fast <= beta_slow {
            return Err(section.invalid(
                "beta_fast",
                format!("a number above beta_slow, which is {beta_slow} (default 32)"),
            ));
        }
        Ok(Self::Yarn {
            factor,
            original_max_position_embeddings: section
                .size("original_max_position_embeddings", MAX_POSITIONS)?
                .unwrap_or(max_position_embeddings),
            beta_fast,
            beta_slow,
            attention_factor: section.number_above("attention_factor", 0.0)?,
        })
    }
}

fn required_number(section: &Object, key: &str) -> Result<f64> {
    let number = section.number_above(key, 0.0)?;
    number.ok_or_else(|| section.invalid(key, "a number above 0"))
}

/// What a frequency can be divided by.
fn factor(value: &Value) -> Option<f64> {
    value
        .as_f64()
        .filter(|factor| factor.is_finite() && *factor > 0.0)
}

/// Reads the base of the rotary frequencies in either spelling.
pub(crate) fn rope_theta(config: &Object) -> Result<f64> {
    // Above 1, because yarn divides by its logarithm and frequencies must fall with the dimension.
    for section in &sections(config)? {
        if let Some(theta) = section.number_above("rope_theta", 1.0)? {
            return Ok(theta);
        }
    }
    Ok(config
        .number_above("rope_theta", 1.0)?
        .unwrap_or(DEFAULT_ROPE_THETA))
}

/// The sections that describe rope, the one that wins first.
///
/// `rope_scaling` wins as in transformers: it is what users add by hand to lengthen the context.
fn sections<'a>(config: &Object<'a>) -> Result<Vec<Object<'a>>> {
    let sections = [
        config.object("rope_scaling")?,
        config.object("rope_parameters")?,
    ];
    Ok(sections
        .into_iter()
        .flatten()
        .filter(|section| !section.fields().is_empty())
        .collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::models::json;

    fn read(text: &str) -> Result<(f64, RopeScaling)> {
        let path = Path::new("config.json");
        let value = json::parse(text.as_bytes(), path)?;
        let config = Object::new(&value, path)?;
        Ok((
            rope_theta(&config)?,
            RopeScaling::from_config(&config, 1024)?,
        ))
    }

    #[test]
    fn both_spellings_give_the_same() {
        let old = r#"{"rope_theta": 1000000, "rope_scaling":
            {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}}"#;
        let new = r#"{"rope_parameters": {"rope_theta": 1000000.0, "rope_type": "yarn",
            "factor": 4, "original_max_position_embeddings": 256}}"#;
        let (theta, scaling) = read(old).unwrap();
        assert!((theta - 1e6).abs() < f64::EPSILON);
        assert_eq!(
            scaling,
            RopeScaling::Yarn {
                factor: 4.0,
                original_max_position_embeddings: 256,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: None,
            }
        );
        assert_eq!(read(new).unwrap(), (theta, scaling));
    }

    #[test]
    fn llama3_is_read() {
        let text = r#"{"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}"#;
        let expected = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        };
        assert_eq!(read(text).unwrap().1, expected);
    }

    #[test]
    fn interpolation_is_by_one_factor_or_by_one_for_each_frequency() {
        let text = r#"{"rope_scaling": {"type": "linear", "factor": 4}}"#;
        assert_eq!(read(text).unwrap().1, RopeScaling::Linear { factor: 4.0 });
        let text = r#"{"rope_scaling": {"rope_type": "longrope", "attention_factor": 1.0,
            "short_factor": [1, 2.5], "long_factor": [1.0, 2.5]}}"#;
        let scaling = read(text).unwrap().1;
        let factors = vec![1.0, 2.5];
        assert_eq!(scaling, RopeScaling::Factors { factors });
        let value = serde_json::json!({"head_dim": 6});
        let config = Object::new(&value, Path::new("config.json")).unwrap();
        scaling.check(&config, 4).unwrap();
        let error = scaling.check(&config, 6).unwrap_err().to_string();
        assert!(error.contains("`head_dim` is 6; expected twice"), "{error}");
    }

    #[test]
    fn without_a_type_there_is_no_scaling() {
        for text in [
            "{}",
            r#"{"rope_scaling": null}"#,
            r#"{"rope_scaling": {}, "rope_parameters": {"rope_type": "default"}}"#,
        ] {
            assert_eq!(read(text).unwrap(), (10_000.0, RopeScaling::None), "{text}");
        }
    }

    #[test]
    fn the_original_context_defaults_to_the_context() {
        let (_, scaling) = read(r#"{"rope_scaling": {"rope_type": "yarn", "factor": 2}}"#).unwrap();
        assert!(matches!(
            scaling,
            RopeScaling::Yarn {
                original_max_position_embeddings: 1024,
                ..
            }
        ));
    }

    #[test]
    fn other_types_and_variants_are_unsupported() {
        for (text, found) in [
            (
                r#"{"rope_scaling": {"type": "dynamic", "factor": 2}}"#,
                "dynamic",
            ),
            (
                r#"{"rope_scaling": {"type": "longrope", "attention_factor": 1,
                    "short_factor": [1], "long_factor": [2]}}"#,
                "other factors for long texts",
            ),
            (
                r#"{"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}}"#,
                "attention_factor: missing",
            ),
            (
                r#"{"rope_scaling": {"type": "yarn", "factor": 2, "mscale": 1}}"#,
                "mscale",
            ),
            (
                r#"{"rope_scaling": {"type": "yarn", "factor": 2, "truncate": false}}"#,
                "truncate",
            ),
            (
                r#"{"rope_parameters": {"full_attention": {}}}"#,
                "full_attention",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(
                matches!(error, Error::Unsupported { .. }),
                "{text}: {error}"
            );
            assert!(error.to_string().contains(found), "{error}");
        }
    }

    #[test]
    fn bad_values_name_the_dotted_key() {
        for (text, key) in [
            (r#"{"rope_theta": 0}"#, "`rope_theta`"),
            (r#"{"rope_theta": "big"}"#, "`rope_theta`"),
            (r#"{"rope_scaling": [1]}"#, "`rope_scaling`"),
            (
                r#"{"rope_scaling": {"factor": 2}}"#,
                "`rope_scaling.rope_type`",
            ),
            (
                r#"{"rope_scaling": {"type": "yarn"}}"#,
                "`rope_scaling.factor`",
            ),
            (
                r#"{"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1}}"#,
                "`rope_scaling.high_freq_factor`",
            ),
            (
                r#"{"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                    "high_freq_factor": 4}}"#,
                "`rope_parameters.high_freq_factor`",
            ),
            (
                r#"{"rope_scaling": {"type": "linear"}}"#,
                "`rope_scaling.factor`",
            ),
            (
                r#"{"rope_scaling": {"type": "longrope", "short_factor": [1, 0]}}"#,
                "`rope_scaling.short_factor`",
            ),
            (
                r#"{"rope_scaling": {"type": "longrope", "short_factor": [1]}}"#,
                "`rope_scaling.long_factor`",
            ),
            (
                r#"{"rope_scaling": {"type": "yarn", "factor": 0}}"#,
                "`rope_scaling.factor`",
            ),
            (
                r#"{"rope_parameters": {"type": "yarn", "factor": 2, "beta_fast": 0.5}}"#,
                "`rope_parameters.beta_fast`",
            ),
            (
                r#"{"rope_parameters": {"type": "yarn", "factor": 2, "attention_factor": -1}}"#,
                "`rope_parameters.attention_factor`",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(
                matches!(error, Error::InvalidConfig { .. }),
                "{text}: {error}"
            );
            assert!(error.to_string().contains(key), "{error}");
        }
    }
}
