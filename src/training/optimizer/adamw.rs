//! Adam and AdamW.

use super::{Specs, Step, Stepped, check_fractions, check_not_negative, check_positive};
use crate::backend::ops::adam::{AdamStep, adam};
use crate::error::Result;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

const FIRST: &str = "first_moment";
const SECOND: &str = "second_moment";

/// The settings of AdamW (Loshchilov & Hutter, 2017, <https://arxiv.org/abs/1711.05101>), with the
/// defaults of PyTorch. Weights decay apart from the gradient.
///
/// # Example
///
/// ```
/// use metal_candle::training::AdamWOptions;
///
/// assert_eq!(AdamWOptions::default().weight_decay, 0.01);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWOptions {
    /// Decay of the mean of gradients, in [0, 1). Default 0.9.
    pub beta1: f64,
    /// Decay of the mean of squared gradients, in [0, 1). Default 0.999.
    pub beta2: f64,
    /// Added to the denominator, above 0. Default 1e-8.
    pub eps: f64,
    /// Share of each weight taken away per step and unit of learning rate, 0 or more. Default 0.01.
    pub weight_decay: f64,
    /// Make up for means that start at 0. Default true; in mlx it is false.
    pub bias_correction: bool,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            bias_correction: true,
        }
    }
}

impl AdamWOptions {
    /// Checks the ranges of all fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) that names the field and its range.
    pub fn validate(&self) -> Result<()> {
        check_fractions([("beta1", self.beta1), ("beta2", self.beta2)])?;
        check_positive([("eps", self.eps)])?;
        check_not_negative([("weight_decay", self.weight_decay)])
    }

    pub(super) fn step(&self, step: &Step) -> Result<Stepped> {
        let keep = 1.0 - step.learning_rate * self.weight_decay;
        adam_step(self, step, step.gradient, keep)
    }
}

/// The settings of Adam (Kingma & Ba, 2014, <https://arxiv.org/abs/1412.6980>), with the defaults of
/// PyTorch. Decay of weights goes through the moments, as part of the gradient;
/// [`AdamWOptions`] decay them apart from it.
///
/// # Example
///
/// ```
/// use metal_candle::training::AdamOptions;
///
/// // As in mlx.
/// let options = AdamOptions { bias_correction: false, ..AdamOptions::default() };
/// options.validate()?;
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamOptions {
    /// Decay of the mean of gradients, in [0, 1). Default 0.9.
    pub beta1: f64,
    /// Decay of the mean of squared gradients, in [0, 1). Default 0.999.
    pub beta2: f64,
    /// Added to the denominator, above 0. Default 1e-8.
    pub eps: f64,
    /// Share of each weight added to its gradient, 0 or more. Default 0.
    pub weight_decay: f64,
    /// Make up for means that start at 0. Default true; in mlx it is false.
    pub bias_correction: bool,
}

impl Default for AdamOptions {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            bias_correction: true,
        }
    }
}

impl AdamOptions {
    /// Checks the ranges of all fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) that names the field and its range.
    pub fn validate(&self) -> Result<()> {
        self.as_adamw().validate()
    }

    /// The same numbers for AdamW.
    fn as_adamw(&self) -> AdamWOptions {
        AdamWOptions {
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            bias_correction: self.bias_correction,
        }
    }

    pub(super) fn step(&self, step: &Step) -> Result<Stepped> {
        if self.weight_decay > 0.0 {
            let gradient = (step.gradient + (step.weights * self.weight_decay)?)?;
            adam_step(&self.as_adamw(), step, &gradient, 1.0)
        } else {
            adam_step(&self.as_adamw(), step, step.gradient, 1.0)
        }
    }
}

/// The parts of the state for `len` weights.
pub(super) fn moments(len: usize) -> Specs {
    vec![(FIRST, len), (SECOND, len)]
}

/// The weights, each multiplied with `keep` and then moved along the moments.
fn adam_step(options: &AdamWOptions, step: &Step, gradient: &Tensor, keep: f64) -> Result<Stepped> {
    let AdamWOptions {
        beta1, beta2, eps, ..
    } = *options;
    let correction = |beta: f64| {
        if options.bias_correction {
            1.0 - beta.powi(i32::try_from(step.number).unwrap_or(i32::MAX))
        } else {
            1.0
        }
    };
    let numbers = AdamStep {
        beta1,
        beta2,
        eps,
        first_scale: step.learning_rate / correction(beta1),
        second_scale: 1.0 / correction(beta2),
        keep,
    };
    let (first, second) = (step.state(FIRST)?, step.state(SECOND)?);
    let [weights, first, second] = adam(step.weights, gradient, first, second, &numbers)?;
    Ok((weights, vec![(FIRST, first), (SECOND, second)]))
}
