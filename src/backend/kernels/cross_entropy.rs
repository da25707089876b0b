//! Cross-entropy of logits and its gradient.

use super::exp::exp;
use super::{for_rows, numbers_mut};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

/// The summed loss of the targets, an `f32` scalar, each with its weight and smoothed over all labels.
/// `logits`, of shape (rows, vocabulary), become its gradient in place: they must be a fresh result
/// that has no other holder.
pub(in crate::backend) fn softmax_cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    weights: Option<&[f32]>,
    smoothing: f64,
) -> Result<Tensor> {
    #[allow(clippy::cast_possible_truncation, reason = "rounding is meant")]
    let smoothing = smoothing as f32;
    let targets_on_device = targets;
    // A row's loss has no place in the matrix, so it is computed before the row is overwritten.
    let targets: Vec<u32> = targets.to_vec1()?;
    let loss = {
        let (storage, layout) = logits.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            return Err(super::not_contiguous());
        };
        let numbers = super::numbers(storage, layout)?;
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        let losses: Vec<f32> = numbers
            .par_chunks_exact(width)
            .zip(&targets)
            .map(|(row, &target)| {
                let (max, sum) = normaliser(row);
                let Some(logit) = row.get(target as usize) else {
                    return f32::NAN;
                };
                let mut picked = logit - max;
                if smoothing > 0.0 {
                    picked += smoothing * (mean_above(row, max) - picked);
                }
                sum.ln() - picked
            })
            .collect();
        let losses = losses.iter().enumerate();
        losses
            .map(|(row, &loss)| f64::from(weight(weights, row)) * f64::from(loss))
            .sum::<f64>()
    };
    let gradient = Gradient {
        weights: weights.map(<[f32]>::to_vec),
        smoothing,
    };
    logits.inplace_op2(&targets_on_device.contiguous()?, &gradient)?;
    #[allow(clippy::cast_possible_truncation, reason = "a loss fits f32")]
    Tensor::new(loss as f32, logits.device())
}

/// The largest logit, and the sum of exponentials of logits less it.
fn normaliser(row: &[f32]) -> (f32, f32) {
    let max = row
        .iter()
        .fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
    // Several sums at once, so that the compiler vectorises and long rows lose no digits.
    let mut sums = [0f32; 16];
    let chunks = row.chunks_exact(sums.len());
    let rest: f32 = chunks.remainder().iter().map(|x| exp(x - max)).sum();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += exp(x - max);
        }
    }
    (max, sums.iter().sum::<f32>() + rest)
}

/// The mean of the logits less the largest.
fn mean_above(row: &[f32], max: f32) -> f32 {
    let sum: f64 = row.iter().map(|x| f64::from(x - max)).sum();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "rounding is meant, and a vocabulary fits f64"
    )]
    let mean = (sum / row.len() as f64) as f32;
    mean
}

fn weight(weights: Option<&[f32]>, row: usize) -> f32 {
    weights.map_or(1.0, |weights| weights.get(row).copied().unwrap_or(0.0))
}

struct Gradient {
    weights: Option<Vec<f32>>,
    smoothing: f32,
}

impl InplaceOp2 for Gradient {
    fn name(&self) -> &'static str {
        "cross-entropy-gradient"
    }

    fn cpu_fwd(
        &self,
        logits: &mut CpuStorage,
        layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> Result<()> {
        let logits = numbers_mut(logits, layout)?;
        let targets = match targets_layout.contiguous_offsets() {
            Some((start, end)) => &targets.as_slice::<u32>()?[start..end],
            None => return Err(super::not_contiguous()),
        };
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        for_rows(logits, width, |index, row| {
            let (max, sum) = normaliser(row);
            let weight = weight(self.weights.as_deref(), index);
            let factor = weight / sum;
            #[allow(clippy::cast_precision_loss, reason = "a rough size is enough")]
            let everywhere = weight * self.smoothing / row.len() as f32;
            for x in row.iter_mut() {
                *x = exp(*x - max) * factor - everywhere;
            }
            if let Some(x) = targets
                .get(index)
                .and_then(|&target| row.get_mut(target as usize))
            {
                *x -= weight * (1.0 - self.smoothing);
            }
        });
        Ok(())
    }
}
