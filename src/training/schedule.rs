//! The learning rate over the steps of a training run.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the learning rate goes on after the warm-up.
///
/// The same as `get_constant_schedule_with_warmup`, `get_linear_schedule_with_warmup` and
/// `get_cosine_schedule_with_warmup` of Hugging Face transformers. In JSON the names are in lower
/// case.
///
/// # Example
///
/// ```
/// use metal_candle::training::LrSchedule;
///
/// let schedule = LrSchedule::from_name("linear")?;
/// assert_eq!(schedule.learning_rate(1e-3, 0, 10, 110), 0.0);
/// assert_eq!(schedule.learning_rate(1e-3, 10, 10, 110), 1e-3);
/// assert_eq!(schedule.learning_rate(1e-3, 60, 10, 110), 5e-4);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedule {
    /// Stays at the base rate.
    Constant,
    /// Falls on a straight line to 0 at the last step.
    Linear,
    /// Falls on half a cosine wave to 0 at the last step.
    Cosine,
}

impl LrSchedule {
    /// The schedule called `constant`, `linear` or `cosine`.
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
                "`constant`, `linear` or `cosine`",
            )),
        }
    }

    /// The learning rate of a step, counted from 0.
    ///
    /// It rises on a straight line from 0 to `base` over `warmup_steps`, so the first step of a
    /// warm-up has a rate of 0. Linear and cosine are 0 from `total_steps` on.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // Step counts are far below 2^53.
    pub fn learning_rate(
        &self,
        base: f64,
        step: usize,
        warmup_steps: usize,
        total_steps: usize,
    ) -> f64 {
        if step < warmup_steps {
            return base * (step as f64 / warmup_steps as f64);
        }
        if *self == Self::Constant {
            return base;
        }
        if step >= total_steps {
            return 0.0;
        }
        // Here `warmup_steps <= step < total_steps`, so nothing underflows or divides by 0.
        let decay_steps = (total_steps - warmup_steps) as f64;
        match self {
            Self::Constant => base,
            Self::Linear => base * ((total_steps - step) as f64 / decay_steps),
            Self::Cosine => {
                let progress = (step - warmup_steps) as f64 / decay_steps;
                base * (0.5 * (1.0 + (PI * progress).cos()))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // Exact values are expected.
mod tests {
    use super::*;

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
                step,
                steps("warmup_steps"),
                steps("total_steps"),
            );
            assert!((got - want.as_f64().unwrap()).abs() < 1e-18, "{got} {want}");
        }
    }

    #[test]
    fn linear_falls_to_zero() {
        let rate = |step| LrSchedule::Linear.learning_rate(8.0, step, 2, 10);
        let rates: Vec<f64> = (0..12).map(rate).collect();
        assert_eq!(rates, [0., 4., 8., 7., 6., 5., 4., 3., 2., 1., 0., 0.]);
    }

    #[test]
    fn constant_stays_after_the_warm_up() {
        let rate = |step| LrSchedule::Constant.learning_rate(3.0, step, 3, 5);
        assert_eq!([0, 1, 3, 4, 5, 900].map(rate), [0., 1., 3., 3., 3., 3.]);
    }

    #[test]
    fn degenerate_lengths_stay_finite() {
        for schedule in [LrSchedule::Constant, LrSchedule::Linear, LrSchedule::Cosine] {
            for (step, warmup, total) in [(0, 0, 0), (0, 0, 1), (1, 1, 1), (5, 9, 3), (9, 9, 3)] {
                let rate = schedule.learning_rate(1.0, step, warmup, total);
                assert!((0.0..=1.0).contains(&rate));
            }
        }
        assert_eq!(LrSchedule::Cosine.learning_rate(1.0, 10, 0, 10), 0.0);
        assert_eq!(LrSchedule::Cosine.learning_rate(1.0, 15, 0, 10), 0.0);
    }

    #[test]
    fn names_are_the_serde_names() {
        for schedule in [LrSchedule::Constant, LrSchedule::Linear, LrSchedule::Cosine] {
            let json = serde_json::to_string(&schedule).unwrap();
            let name = json.trim_matches('"');
            assert_eq!(LrSchedule::from_name(name).unwrap(), schedule);
        }
        let error = LrSchedule::from_name("Cosine").unwrap_err().to_string();
        assert!(
            error.contains("`constant`, `linear` or `cosine`"),
            "{error}"
        );
    }
}
