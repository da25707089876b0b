//! Which optimizer, and its settings.

use super::{AdafactorOptions, AdamOptions, AdamWOptions, MuonOptions, SgdOptions};
use crate::error::{Error, Result};
use crate::training::named;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How gradients change weights.
///
/// | name | memory beside the weights | |
/// |---|---|---|
/// | `adamw` | 2 numbers a weight | the default |
/// | `adam` | 2 | decay as part of the gradient |
/// | `sgd` | none; 1 with momentum | |
/// | `adafactor` | next to none; 1 with `beta1` | |
/// | `muon` | 1; 2 for embeddings, heads and vectors | for matrices between hidden states |
///
/// In JSON it is a name, or an object with a `name` and settings; those that are left out have their
/// defaults, and unknown ones are errors.
///
/// # Example
///
/// ```
/// use metal_candle::training::{OptimizerOptions, SgdOptions};
///
/// let options = OptimizerOptions::from_json(r#"{"name": "sgd", "momentum": 0.9}"#)?;
/// let sgd = SgdOptions { momentum: 0.9, ..SgdOptions::default() };
/// assert_eq!(options, OptimizerOptions::Sgd(sgd));
/// assert_eq!(OptimizerOptions::from_json(r#""adamw""#)?, OptimizerOptions::default());
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "name", rename_all = "lowercase")]
#[non_exhaustive]
pub enum OptimizerOptions {
    /// AdamW.
    AdamW(AdamWOptions),
    /// Adam.
    Adam(AdamOptions),
    /// Stochastic gradient descent.
    Sgd(SgdOptions),
    /// Adafactor.
    Adafactor(AdafactorOptions),
    /// Muon.
    Muon(MuonOptions),
}

impl Default for OptimizerOptions {
    fn default() -> Self {
        Self::AdamW(AdamWOptions::default())
    }
}

impl OptimizerOptions {
    /// `adamw`, `adam`, `sgd`, `adafactor` or `muon`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::AdamW(_) => "adamw",
            Self::Adam(_) => "adam",
            Self::Sgd(_) => "sgd",
            Self::Adafactor(_) => "adafactor",
            Self::Muon(_) => "muon",
        }
    }

    /// The optimizer by its name, with its defaults.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for any other name than those of [`OptimizerOptions::name`].
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "adamw" => Ok(Self::default()),
            "adam" => Ok(Self::Adam(AdamOptions::default())),
            "sgd" => Ok(Self::Sgd(SgdOptions::default())),
            "adafactor" => Ok(Self::Adafactor(AdafactorOptions::default())),
            "muon" => Ok(Self::Muon(MuonOptions::default())),
            _ => Err(Error::option(
                "optimizer",
                format!("`{name}`"),
                "`adamw`, `adam`, `sgd`, `adafactor` or `muon`",
            )),
        }
    }

    /// Reads options from JSON: a name, or an object with a `name` and settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that says what is wrong. Ranges are checked by
    /// [`OptimizerOptions::validate`].
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| {
            Error::option(
                "optimizer",
                format!("not understood ({error})"),
                "the name of an optimizer, or an object with its `name` and settings",
            )
        })
    }

    /// Checks the ranges of all settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the setting and its range.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::AdamW(options) => options.validate(),
            Self::Adam(options) => options.validate(),
            Self::Sgd(options) => options.validate(),
            Self::Adafactor(options) => options.validate(),
            Self::Muon(options) => options.validate(),
        }
    }
}

impl Serialize for OptimizerOptions {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        Self::serialize(self, to)
    }
}

impl<'de> Deserialize<'de> for OptimizerOptions {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        Self::deserialize(named::object(from)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = ["adamw", "adam", "sgd", "adafactor", "muon"];

    #[test]
    fn names_and_json_read_back() {
        for name in NAMES {
            let options = OptimizerOptions::from_name(name).unwrap();
            options.validate().unwrap();
            assert_eq!(options.name(), name);
            let json = serde_json::to_value(options).unwrap();
            assert_eq!(json["name"], name);
            for json in [
                json,
                serde_json::json!(name),
                serde_json::json!({"name": name}),
            ] {
                let read = OptimizerOptions::from_json(&json.to_string()).unwrap();
                assert_eq!(read, options, "{json}");
            }
        }
        let error = OptimizerOptions::from_name("lion").unwrap_err().to_string();
        for name in NAMES {
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
    }

    #[test]
    fn settings_are_those_of_the_json() {
        let json = r#"{
            "name": "muon", "momentum": 0.8, "ns_coefficients": [2, -1.5, 0.5],
            "adjust_lr": "match_rms_adamw", "adamw": {"beta2": 0.95}
        }"#;
        let expected = MuonOptions {
            momentum: 0.8,
            ns_coefficients: (2.0, -1.5, 0.5),
            adjust_lr: super::super::AdjustLr::MatchRmsAdamW,
            adamw: AdamWOptions {
                beta2: 0.95,
                ..AdamWOptions::default()
            },
            ..MuonOptions::default()
        };
        let options = OptimizerOptions::from_json(json).unwrap();
        assert_eq!(options, OptimizerOptions::Muon(expected));
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(OptimizerOptions::from_json(&text).unwrap(), options);
        let json = r#"{"name": "adafactor", "eps": [1e-20, 0.5], "beta1": 0.5}"#;
        let expected = AdafactorOptions {
            eps: (1e-20, 0.5),
            beta1: Some(0.5),
            ..AdafactorOptions::default()
        };
        let options = OptimizerOptions::from_json(json).unwrap();
        assert_eq!(options, OptimizerOptions::Adafactor(expected));
    }

    #[test]
    fn json_that_is_not_understood_says_why() {
        for (json, reason) in [
            (r#"{"name": "sgd", "momentun": 0.9}"#, "`momentun`"),
            (r#"{"name": "muon", "adamw": {"beta3": 1}}"#, "`beta3`"),
            (r#"{"name": "lion"}"#, "`adafactor`"),
            (r#""lion""#, "`adafactor`"),
            (r#"{"momentum": 0.9}"#, "`name`"),
            (r#"{"name": "adam", "eps": "small"}"#, "\"small\""),
            ("7", "7 is neither a name"),
            ("{", "EOF"),
        ] {
            let error = OptimizerOptions::from_json(json).unwrap_err().to_string();
            assert!(error.contains("option `optimizer`"), "{error}");
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (json, message) in [
            (
                r#"{"name": "adamw", "beta1": -0.1}"#,
                "`beta1` is -0.1; expected 0 or more and below 1",
            ),
            (
                r#"{"name": "adamw", "beta2": 1}"#,
                "`beta2` is 1; expected 0 or more and below 1",
            ),
            (
                r#"{"name": "adamw", "eps": 0}"#,
                "`eps` is 0; expected a number above 0",
            ),
            (
                r#"{"name": "adamw", "weight_decay": -1}"#,
                "`weight_decay` is -1; expected 0 or more",
            ),
            (r#"{"name": "adam", "beta1": 1.5}"#, "`beta1`"),
            (r#"{"name": "adam", "beta2": 1.5}"#, "`beta2`"),
            (r#"{"name": "adam", "eps": -1}"#, "`eps`"),
            (r#"{"name": "adam", "weight_decay": -1}"#, "`weight_decay`"),
            (r#"{"name": "sgd", "momentum": 1}"#, "`momentum`"),
            (
                r#"{"name": "sgd", "dampening": 2}"#,
                "`dampening` is 2; expected 0 to 1",
            ),
            (r#"{"name": "sgd", "weight_decay": -1}"#, "`weight_decay`"),
            (r#"{"name": "sgd", "nesterov": true}"#, "`nesterov` is true"),
            (
                r#"{"name": "sgd", "nesterov": true, "momentum": 0.9, "dampening": 0.1}"#,
                "`nesterov` is true; expected a `momentum` above 0 and no `dampening` with it",
            ),
            (r#"{"name": "adafactor", "eps": [0, 0]}"#, "`eps`"),
            (r#"{"name": "adafactor", "eps": [1e-30, -1]}"#, "`eps`"),
            (
                r#"{"name": "adafactor", "clip_threshold": 0}"#,
                "`clip_threshold`",
            ),
            (
                r#"{"name": "adafactor", "decay_rate": 0.8}"#,
                "`decay_rate` is 0.8; expected a number below 0",
            ),
            (r#"{"name": "adafactor", "beta1": 1}"#, "`beta1`"),
            (
                r#"{"name": "adafactor", "weight_decay": -1}"#,
                "`weight_decay`",
            ),
            (r#"{"name": "muon", "momentum": 1}"#, "`momentum`"),
            (
                r#"{"name": "muon", "ns_steps": 0}"#,
                "`ns_steps` is 0; expected 1 to 99",
            ),
            (r#"{"name": "muon", "ns_steps": 100}"#, "`ns_steps`"),
            (r#"{"name": "muon", "eps": 0}"#, "`eps`"),
            (r#"{"name": "muon", "weight_decay": -1}"#, "`weight_decay`"),
            (r#"{"name": "muon", "adamw": {"beta1": 2}}"#, "`beta1`"),
        ] {
            let options = OptimizerOptions::from_json(json).unwrap();
            let error = options.validate().unwrap_err().to_string();
            assert!(error.contains(message), "{json}: {error}");
        }
        let nan = AdamWOptions {
            eps: f64::NAN,
            ..AdamWOptions::default()
        };
        assert!(OptimizerOptions::AdamW(nan).validate().is_err());
        let nan = MuonOptions {
            ns_coefficients: (1.0, 2.0, f64::NAN),
            ..MuonOptions::default()
        };
        let error = OptimizerOptions::Muon(nan).validate().unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`ns_coefficients` is (1, 2, NaN)")
        );
    }
}
