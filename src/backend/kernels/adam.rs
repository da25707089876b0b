//! One step of Adam: a pass for each of its three results.

use super::{numbers, rows};
use crate::backend::ops::adam::AdamStep;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

/// The weights and both moments after a step.
pub(in crate::backend) fn adam(
    weights: &Tensor,
    gradient: &Tensor,
    first: &Tensor,
    second: &Tensor,
    step: &AdamStep,
) -> Result<[Tensor; 3]> {
    let moment = |moment: &Tensor, beta, squared| {
        let (new, beta) = (single(1.0 - beta), single(beta));
        moment.apply_op2_no_bwd(gradient, &Moment { beta, new, squared })
    };
    let first = moment(first, step.beta1, false)?;
    let second = moment(second, step.beta2, true)?;
    let update = Update {
        eps: single(step.eps),
        first_scale: single(step.first_scale),
        second_scale: single(step.second_scale),
        keep: single(step.keep),
    };
    let weights = weights.apply_op3_no_bwd(&first, &second, &update)?;
    Ok([weights, first, second])
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the dtype of the numbers that it is used with"
)]
fn single(x: f64) -> f32 {
    x as f32
}

/// Elements that one task takes.
const WIDTH: usize = 1 << 12;

/// A vector of `len` numbers; `write` gets a part of it and where that starts.
fn vector(len: usize, cost: usize, write: impl Fn(usize, &mut [f32]) + Sync) -> CpuStorage {
    let mut result = rows(len.div_ceil(WIDTH), WIDTH, cost, |index, row| {
        write(index * WIDTH, row);
    });
    result.truncate(len);
    CpuStorage::F32(result)
}

fn check_lengths(a: &[f32], b: &[f32]) -> Result<()> {
    if a.len() == b.len() {
        Ok(())
    } else {
        Err(candle_core::Error::Msg("adam of two lengths".to_owned()))
    }
}

/// `beta · moment + new · gradient`, or with the square of the gradient.
struct Moment {
    beta: f32,
    new: f32,
    squared: bool,
}

impl CustomOp2 for Moment {
    fn name(&self) -> &'static str {
        "adam-moment"
    }

    fn cpu_fwd(
        &self,
        moment: &CpuStorage,
        moment_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let moment = numbers(moment, moment_layout)?;
        let gradient = numbers(gradient, gradient_layout)?;
        check_lengths(moment, gradient)?;
        let result = vector(moment.len(), 2, |start, part| {
            let inputs = moment[start..].iter().zip(&gradient[start..]);
            if self.squared {
                for (y, (m, g)) in part.iter_mut().zip(inputs) {
                    *y = m * self.beta + g * g * self.new;
                }
            } else {
                for (y, (m, g)) in part.iter_mut().zip(inputs) {
                    *y = m * self.beta + g * self.new;
                }
            }
        });
        Ok((result, moment_layout.shape().clone()))
    }
}

/// `keep · weight - first_scale · first / (√(second_scale · second) + ε)`.
struct Update {
    eps: f32,
    first_scale: f32,
    second_scale: f32,
    keep: f32,
}

impl CustomOp3 for Update {
    fn name(&self) -> &'static str {
        "adam-update"
    }

    fn cpu_fwd(
        &self,
        weights: &CpuStorage,
        weights_layout: &Layout,
        first: &CpuStorage,
        first_layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let weights = numbers(weights, weights_layout)?;
        let (first, second) = (
            numbers(first, first_layout)?,
            numbers(second, second_layout)?,
        );
        check_lengths(weights, first)?;
        check_lengths(weights, second)?;
        let result = vector(weights.len(), 3, |start, part| {
            let moments = first[start..].iter().zip(&second[start..]);
            for ((y, w), (m, v)) in part.iter_mut().zip(&weights[start..]).zip(moments) {
                let denominator = (v * self.second_scale).sqrt() + self.eps;
                *y = w * self.keep - m * self.first_scale / denominator;
            }
        });
        Ok((result, weights_layout.shape().clone()))
    }
}
