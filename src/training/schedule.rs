//! The learning rate over the steps of a training run.

use super::named;
use crate::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::f64::consts::PI;

/// PyTorch's default for the factor of a step.
const GAMMA: f64 = 0.1;

/// How the learning rate goes on after the warm-up.
///
/// Constant, linear and cosine are `get_constant_schedule_with_warmup`,
/// `get_linear_schedule_with_warmup` and `get_cosine_schedule_with_warmup` of Hugging Face
/// transformers; step and exponential are `StepLR` and `ExponentialLR` of PyTorch, `step_decay` and
/// `exponential_decay` of mlx.
///
/// In JSON it is a name in lower case, or an object with a `name` and settings; unknown settings are
/// errors.
///
/// # Example
///
/// ```
/// use metal_candle::training::LrSchedule;
///
/// let schedule = LrSchedule::from_name("linear")?;
/// assert_eq!(schedule.learning_rate(1e-3, 0.0, 0, 10, 110), 0.0);
/// assert_eq!(schedule.learning_rate(1e-3, 0.0, 10, 10, 110), 1e-3);
/// assert_eq!(schedule.learning_rate(1e-3, 0.0, 60, 10, 110), 5e-4);
///
/// let schedule = LrSchedule::from_json(r#"{"name": "step", "step_size": 100, "gamma": 0.5}"#)?;
/// assert_eq!(schedule.learning_rate(1e-3, 0.0, 250, 0, 1000), 2.5e-4);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(
    remote = "Self",
    tag = "name",
    rename_all = "lowercase",
    deny_unknown_fields
)]
#[non_exhaustive]
pub enum LrSchedule {
    /// Stays at the base rate.
    Constant,
    /// Falls on a straight line to the floor at the last step.
    Linear,
    /// Falls on half a cosine wave to the floor at the last step.
    Cosine,
    /// Is multiplied by `gamma` each `step_size` steps, down to the floor.
    Step {
        /// Steps between two changes, at least 1.
        step_size: usize,
        /// The factor, above 0 and at most 1. In JSON 0.1 where it is left out, as in PyTorch.
        #[serde(default = "default_gamma")]
        gamma: f64,
    },
    /// Is multiplied by `gamma` each step, down to the floor.
    Exponential {
        /// The factor, above 0 and at most 1.
        gamma: f64,
    },
}

fn default_gamma() -> f64 {
    GAMMA
}

impl LrSchedule {
    /// `constant`, `linear`, `cosine`, `step` or `exponential`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
            Self::Step { .. } => "step",
            Self::Exponential { .. } => "exponential",
        }
    }

    /// The schedule called `constant`, `linear` or `cosine`. Those that need settings are read by
    /// [`LrSchedule::from_json`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for any other name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "constant" => Ok(Self::Constant),
            "linear" => Ok(Self::Linear),
            "cosine" => Ok(Self::Cosine),
            _ => Err(Error::option(
                "lr_schedule",
                format!("`{name}`"),
                "`constant`, `linear` or `cosine`, or an object such as \
                 {\"name\": \"step\", \"step_size\": 100, \"gamma\": 0.5} or \
                 {\"name\": \"exponential\", \"gamma\": 0.99}",
            )),
        }
    }

    /// Reads a schedule from JSON: a name, or an object with a `name` and settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that says what is wrong. Ranges are checked by
    /// [`LrSchedule::validate`].
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| {
            Error::option(
                "lr_schedule",
                format!("not understood ({error})"),
                "the name of a schedule, or an object with its `name` and settings",
            )
        })
    }

    /// Checks the ranges of all settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the setting and its range.
    pub fn validate(&self) -> Result<()> {
        let gamma = match *self {
            Self::Constant | Self::Linear | Self::Cosine => return Ok(()),
            Self::Step { step_size: 0, .. } => {
                return Err(Error::option("step_size", 0, "at least 1"));
            }
            Self::Step { gamma, .. } | Self::Exponential { gamma } => gamma,
        };
        if gamma > 0.0 && gamma <= 1.0 {
            Ok(())
        } else {
            Err(Error::option("gamma", gamma, "above 0 and at most 1"))
        }
    }

    /// The learning rate of a step, counted from 0.
    ///
    /// It rises on a straight line from 0 to `base` over `warmup_steps`, so the first step of a
    /// warm-up has a rate of 0. `min`, from 0 to `base`, is the floor: linear and cosine have it from
    /// `total_steps` on, step and exponential go no lower; the warm-up starts below it.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // Step counts are far below 2^53.
    pub fn learning_rate(
        &self,
        base: f64,
        min: f64,
        step: usize,
        warmup_steps: usize,
        total_steps: usize,
    ) -> f64 {
        if step < warmup_steps {
            return base * (step as f64 / warmup_steps as f64);
        }
        let after = step - warmup_steps;
        let left = total_steps.saturating_sub(step);
        // Without steps left all of the decay is done, and there is nothing to divide by.
        let decay_steps = (after + left).max(1) as f64;
        let decayed = match *self {
            Self::Constant => return base,
            Self::Linear | Self::Cosine if left == 0 => 0.0,
            Self::Linear => left as f64 / decay_steps,
            Self::Cosine => 0.5 * (1.0 + (PI * (after as f64 / decay_steps)).cos()),
            Self::Step { step_size, gamma } => {
                let changes = after / step_size.max(1);
                return (base * gamma.powf(changes as f64)).max(min);
            }
            Self::Exponential { gamma } => return (base * gamma.powf(after as f64)).max(min),
        };
        min + (base - min) * decayed
    }
}

/// A schedule without settings is its name.
impl Serialize for LrSchedule {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Constant | Self::Linear | Self::Cosine => to.serialize_str(self.name()),
            Self::Step { .. } | Self::Exponential { .. } => Self::serialize(self, to),
        }
    }
}

impl<'de> Deserialize<'de> for LrSchedule {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let object = named::object(from)?;
        let schedule = Self::deserialize(&object).map_err(D::Error::custom)?;
        // Serde lets a variant without fields have any.
        let mut keys = object
            .as_object()
            .into_iter()
            .flat_map(|object| object.keys());
        match (schedule, keys.find(|key| *key != "name")) {
            (Self::Constant | Self::Linear | Self::Cosine, Some(key)) => {
                let name = schedule.name();
                let message = format!("unknown field `{key}`, `{name}` has no settings");
                Err(D::Error::custom(message))
            }
            _ => Ok(schedule),
        }
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // Exact values are expected.
mod tests {
    use super::*;

    const ALL: [LrSchedule; 5] = [
        LrSchedule::Constant,
        LrSchedule::Linear,
        LrSchedule::Cosine,
        LrSchedule::Step {
            step_size: 3,
            gamma: 0.5,
        },
        LrSchedule::Exponential { gamma: 0.9 },
    ];

    #[test]
    fn cosine_matches_the_reference_run() {
        let fixture: serde_json::Value = serde_json::from_str(include_str!(
            "../../tests/fixtures/lora/train_cosine/expected.json"
        ))
        .unwrap();
        let steps = |key| usize::try_from(fixture["schedule"][key].as_u64().unwrap()).unwrap();
        let base = fixture["hyper"]["base_lr"].as_f64().unwrap();
        let expected = fixture["lr"].as_array().unwrap();
        assert_eq!(expected.len(), 10);
        for (step, want) in expected.iter().enumerate() {
            let got = LrSchedule::Cosine.learning_rate(
                base,
                0.0,
                step,
                steps("warmup_steps"),
                steps("total_steps"),
            );
            assert!((got - want.as_f64().unwrap()).abs() < 1e-18, "{got} {want}");
        }
    }

    #[test]
    fn linear_falls_to_the_floor() {
        let rate = |step| LrSchedule::Linear.learning_rate(8.0, 0.0, step, 2, 10);
        let rates: Vec<f64> = (0..12).map(rate).collect();
        assert_eq!(rates, [0., 4., 8., 7., 6., 5., 4., 3., 2., 1., 0., 0.]);
        let rate = |step| LrSchedule::Linear.learning_rate(9.0, 1.0, step, 2, 10);
        let rates: Vec<f64> = (0..12).map(rate).collect();
        assert_eq!(rates, [0., 4.5, 9., 8., 7., 6., 5., 4., 3., 2., 1., 1.]);
    }

    #[test]
    fn cosine_falls_to_the_floor() {
        let rate = |step| LrSchedule::Cosine.learning_rate(5.0, 1.0, step, 2, 10);
        for (step, expected) in [(0, 0.0), (1, 2.5), (2, 5.0), (6, 3.0), (10, 1.0), (99, 1.0)] {
            assert!((rate(step) - expected).abs() < 1e-15, "{step}");
        }
        // 1 + 4 (1 + cos(pi / 4)) / 2
        assert!((rate(4) - (3.0 + 2.0f64.sqrt())).abs() < 1e-15);
    }

    #[test]
    fn constant_stays_after_the_warm_up() {
        let rate = |step| LrSchedule::Constant.learning_rate(3.0, 1.0, step, 3, 5);
        assert_eq!([0, 1, 3, 4, 5, 900].map(rate), [0., 1., 3., 3., 3., 3.]);
    }

    /// PyTorch's `StepLR(step_size=3, gamma=0.5)` after two steps of warm-up.
    #[test]
    fn step_falls_every_few_steps() {
        let rate = |min| move |step| ALL[3].learning_rate(8.0, min, step, 2, 10);
        let rates: Vec<f64> = (0..13).map(rate(0.0)).collect();
        assert_eq!(rates, [0., 4., 8., 8., 8., 4., 4., 4., 2., 2., 2., 1., 1.]);
        let rates: Vec<f64> = (7..13).map(rate(1.5)).collect();
        assert_eq!(rates, [4., 2., 2., 2., 1.5, 1.5]);
    }

    /// PyTorch's `ExponentialLR(gamma=0.9)` after two steps of warm-up.
    #[test]
    fn exponential_falls_every_step() {
        let rate = |min| move |step| ALL[4].learning_rate(1.0, min, step, 2, 10);
        let expected = [0.0, 0.5, 1.0, 0.9, 0.81, 0.729, 0.6561, 0.590_49];
        for (step, expected) in expected.into_iter().enumerate() {
            assert!((rate(0.0)(step) - expected).abs() < 1e-15, "{step}");
        }
        assert!((rate(0.7)(5) - 0.729).abs() < 1e-15);
        assert_eq!([6, 1_000_000].map(rate(0.7)), [0.7, 0.7]);
        assert_eq!(rate(0.0)(usize::MAX), 0.0);
    }

    #[test]
    fn degenerate_lengths_stay_finite() {
        let zero = LrSchedule::Step {
            step_size: 0,
            gamma: 0.5,
        };
        for schedule in ALL.into_iter().chain([zero]) {
            for (step, warmup, total) in [(0, 0, 0), (0, 0, 1), (1, 1, 1), (5, 9, 3), (9, 9, 3)] {
                let rate = schedule.learning_rate(1.0, 0.0, step, warmup, total);
                assert!((0.0..=1.0).contains(&rate));
            }
        }
        assert_eq!(LrSchedule::Cosine.learning_rate(1.0, 0.0, 10, 0, 10), 0.0);
        assert_eq!(LrSchedule::Cosine.learning_rate(1.0, 0.0, 15, 0, 10), 0.0);
        assert_eq!(LrSchedule::Linear.learning_rate(1.0, 0.1, 9, 9, 3), 0.1);
    }

    #[test]
    fn names_and_json_read_back() {
        for schedule in ALL {
            schedule.validate().unwrap();
            let json = serde_json::to_value(schedule).unwrap();
            let name = schedule.name();
            assert!(json == name || json["name"] == name, "{json}");
            assert_eq!(LrSchedule::from_json(&json.to_string()).unwrap(), schedule);
        }
        for schedule in &ALL[..3] {
            let name = schedule.name();
            assert_eq!(LrSchedule::from_name(name).unwrap(), *schedule);
            let object = serde_json::json!({ "name": name }).to_string();
            assert_eq!(LrSchedule::from_json(&object).unwrap(), *schedule);
        }
        let schedule = LrSchedule::from_json(r#"{"name": "step", "step_size": 30}"#).unwrap();
        let expected = LrSchedule::Step {
            step_size: 30,
            gamma: 0.1,
        };
        assert_eq!(schedule, expected);
        for name in ["Cosine", "step"] {
            let error = LrSchedule::from_name(name).unwrap_err().to_string();
            assert!(
                error.contains("`constant`, `linear` or `cosine`"),
                "{error}"
            );
        }
    }

    #[test]
    fn json_that_is_not_understood_says_why() {
        for (json, reason) in [
            (r#"{"name": "cosine", "gamma": 0.5}"#, "`gamma`"),
            (r#"{"name": "exponential", "gama": 0.5}"#, "`gama`"),
            (r#"{"name": "exponential"}"#, "`gamma`"),
            (r#""step""#, "`step_size`"),
            (r#"{"name": "step", "step_size": -1}"#, "-1"),
            (r#""poly""#, "`exponential`"),
            ("true", "true is neither a name"),
        ] {
            let error = LrSchedule::from_json(json).unwrap_err().to_string();
            assert!(error.contains("option `lr_schedule`"), "{error}");
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let step = |step_size, gamma| LrSchedule::Step { step_size, gamma };
        let exponential = |gamma| LrSchedule::Exponential { gamma };
        for (schedule, message) in [
            (step(0, 0.5), "`step_size` is 0; expected at least 1"),
            (step(1, 0.0), "`gamma` is 0; expected above 0 and at most 1"),
            (exponential(1.5), "`gamma` is 1.5"),
            (exponential(f64::NAN), "`gamma` is NaN"),
        ] {
            let error = schedule.validate().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        exponential(1.0).validate().unwrap();
    }
}
