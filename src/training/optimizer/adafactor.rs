//! Adafactor: second moments kept as their rows' and columns' means.

use super::shape::{Parts, Pieces, WeightShape, groups};
use super::{Specs, Step, Stepped, check_fractions, check_not_negative, check_positive, shape};
use crate::error::{Error, Result};
use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

const ROWS: &str = "row_moment";
const COLUMNS: &str = "column_moment";
const SECOND: &str = "second_moment";
const FIRST: &str = "first_moment";

/// The settings of Adafactor (Shazeer & Stern, 2018, <https://arxiv.org/abs/1804.04235>), with the
/// meaning of `Adafactor` in Hugging Face transformers.
///
/// For a matrix it keeps the mean squares of rows and of columns, for a vector those of each number:
/// hardly any memory beside the weights. The learning rate is that of the schedule, and weights are
/// not scaled, as in transformers' trainer (`relative_step` and `scale_parameter` false; the paper's
/// and mlx's defaults derive the rate from the number of the step and the size of the weights).
///
/// # Example
///
/// ```
/// use metal_candle::training::AdafactorOptions;
///
/// let options = AdafactorOptions { beta1: Some(0.9), ..AdafactorOptions::default() };
/// options.validate()?;
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdafactorOptions {
    /// Added to squared gradients, above 0; and the least size that `scale_parameter` takes weights
    /// to have, 0 or more. Default 1e-30 and 1e-3.
    pub eps: (f64, f64),
    /// A tensor's change is scaled down to this root mean square, before the learning rate; above 0.
    /// Default 1.
    pub clip_threshold: f64,
    /// After step n the mean of squared gradients keeps 1 - n to this power; below 0. Default -0.8.
    pub decay_rate: f64,
    /// Decay of the mean of changes, in [0, 1). Default none, which needs no memory for it.
    pub beta1: Option<f64>,
    /// Share of each weight taken away per step and unit of learning rate, 0 or more. Default 0.
    pub weight_decay: f64,
    /// Multiply the learning rate of a tensor by the root mean square of its weights. Default false.
    pub scale_parameter: bool,
}

impl Default for AdafactorOptions {
    fn default() -> Self {
        Self {
            eps: (1e-30, 1e-3),
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta1: None,
            weight_decay: 0.0,
            scale_parameter: false,
        }
    }
}

impl AdafactorOptions {
    /// Checks the ranges of all fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the field and its range.
    pub fn validate(&self) -> Result<()> {
        check_positive([("eps", self.eps.0), ("clip_threshold", self.clip_threshold)])?;
        check_not_negative([("eps", self.eps.1), ("weight_decay", self.weight_decay)])?;
        check_fractions([("beta1", self.beta1.unwrap_or(0.0))])?;
        if self.decay_rate.is_finite() && self.decay_rate < 0.0 {
            Ok(())
        } else {
            let expected = "a number below 0";
            Err(Error::option("decay_rate", self.decay_rate, expected))
        }
    }

    pub(super) fn specs(&self, shapes: &[WeightShape]) -> Specs {
        let sum = |matrix, len: fn(&WeightShape) -> usize| {
            let shapes = shapes.iter().filter(|shape| shape.len() > 0);
            shapes.filter(|s| s.is_matrix() == matrix).map(len).sum()
        };
        let mut specs = vec![
            (ROWS, sum(true, WeightShape::rows)),
            (COLUMNS, sum(true, WeightShape::columns)),
            (SECOND, sum(false, WeightShape::len)),
        ];
        if self.beta1.is_some() {
            specs.push((FIRST, shape::len(shapes)));
        }
        specs
    }

    pub(super) fn step(&self, step: &Step) -> Result<Stepped> {
        let [mut rows, mut columns, mut second] =
            [ROWS, COLUMNS, SECOND].map(|name| Parts::of(step, name));
        let (mut updates, mut kept) = (Pieces::default(), Pieces::default());
        #[allow(clippy::cast_precision_loss, reason = "steps are far below 2^53")]
        let keep = 1.0 - (step.number as f64).powf(self.decay_rate);
        for group in groups(step.shapes.iter()) {
            let gradient = group.gather(step.gradient)?;
            let squares = (gradient.sqr()? + self.eps.0)?;
            let update = if group.matrix {
                let rows = rows.average(&squares.mean_keepdim(D::Minus1)?, keep)?;
                let columns = columns.average(&squares.mean_keepdim(D::Minus2)?, keep)?;
                let rows = rows.broadcast_div(&rows.mean_keepdim(D::Minus2)?)?;
                // Roots first: the product of two small means is nothing in `f32`.
                gradient
                    .broadcast_div(&rows.sqrt()?)?
                    .broadcast_div(&columns.sqrt()?)?
            } else {
                (gradient / second.average(&squares, keep)?.sqrt()?)?
            };
            let excess = (rms(&update)? / self.clip_threshold)?.maximum(1.0)?;
            let mut rate = (excess.recip()? * step.learning_rate)?;
            if self.scale_parameter {
                let weights = group.gather(step.weights)?;
                let scale = rms(&weights)?.maximum(self.eps.1)?;
                rate = (rate * &scale)?;
                let factor = scale.affine(-self.weight_decay * step.learning_rate, 1.0)?;
                kept.put(&group, &weights.broadcast_mul(&factor)?)?;
            }
            updates.put(&group, &update.broadcast_mul(&rate)?)?;
        }

        let mut state = vec![];
        for part in [rows, columns, second] {
            part.finish(&mut state)?;
        }
        let mut update = updates.join()?;
        if let Some(beta1) = self.beta1 {
            update = ((step.state(FIRST)? * beta1)? + (update * (1.0 - beta1))?)?;
            state.push((FIRST, update.clone()));
        }
        let kept = if self.scale_parameter {
            kept.join()?
        } else {
            (step.weights * (1.0 - self.weight_decay * step.learning_rate))?
        };
        Ok(((kept - update)?, state))
    }
}

/// The root mean square of each of n matrices, as (n, 1, 1).
fn rms(x: &Tensor) -> Result<Tensor> {
    let means = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(means.mean_keepdim(D::Minus2)?.sqrt()?)
}
