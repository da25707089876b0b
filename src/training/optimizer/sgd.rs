//! Stochastic gradient descent, with momentum or without.

use super::shape::{self, WeightShape};
use super::{Specs, Step, Stepped, check_fractions, check_not_negative};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

const BUFFER: &str = "momentum_buffer";

/// The settings of stochastic gradient descent, with the meaning and the defaults of PyTorch's `SGD`.
///
/// The first step takes the whole gradient for the momentum, without dampening. (mlx dampens it
/// too.)
///
/// # Example
///
/// ```
/// use metal_candle::training::SgdOptions;
///
/// let options = SgdOptions { momentum: 0.9, nesterov: true, ..SgdOptions::default() };
/// options.validate()?;
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SgdOptions {
    /// Share of the last step's direction that the next one keeps, in [0, 1). Default 0, which needs
    /// no memory for it.
    pub momentum: f64,
    /// Share of the gradient that the momentum does not take, from 0 to 1. Default 0.
    pub dampening: f64,
    /// Look ahead along the momentum (Sutskever et al., 2013); needs a momentum, and no dampening.
    /// Default false.
    pub nesterov: bool,
    /// Share of each weight added to its gradient, 0 or more. Default 0.
    pub weight_decay: f64,
}

impl SgdOptions {
    /// Checks the ranges of all fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the field and its range.
    pub fn validate(&self) -> Result<()> {
        check_fractions([("momentum", self.momentum)])?;
        if !(0.0..=1.0).contains(&self.dampening) {
            return Err(Error::option("dampening", self.dampening, "0 to 1"));
        }
        if self.nesterov && (self.momentum <= 0.0 || self.dampening > 0.0) {
            let expected = "a `momentum` above 0 and no `dampening` with it";
            return Err(Error::option("nesterov", true, expected));
        }
        check_not_negative([("weight_decay", self.weight_decay)])
    }

    pub(super) fn specs(&self, shapes: &[WeightShape]) -> Specs {
        if self.momentum > 0.0 {
            vec![(BUFFER, shape::len(shapes))]
        } else {
            vec![]
        }
    }

    pub(super) fn step(&self, step: &Step) -> Result<Stepped> {
        let mut direction = step.gradient.clone();
        if self.weight_decay > 0.0 {
            direction = (direction + (step.weights * self.weight_decay)?)?;
        }
        let mut state = vec![];
        if self.momentum > 0.0 {
            let buffer = if step.number == 1 {
                // A copy: the gradient is the caller's.
                direction.force_contiguous()?
            } else {
                ((step.state(BUFFER)? * self.momentum)? + (&direction * (1.0 - self.dampening))?)?
            };
            direction = if self.nesterov {
                (direction + (&buffer * self.momentum)?)?
            } else {
                buffer.clone()
            };
            state.push((BUFFER, buffer));
        }
        let weights = (step.weights - (direction * step.learning_rate)?)?;
        Ok((weights, state))
    }
}
