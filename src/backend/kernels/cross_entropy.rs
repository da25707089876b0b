//! Cross-entropy of logits and its gradient.

use super::exp::{exponentials, largest};
use super::gemm::Instructions;
use super::gemm::simd::{Simd, Work};
use super::numbers_mut;
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};
use parking_lot::Mutex;
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
    let gradient = Gradient {
        targets: targets.to_vec1()?,
        weights,
        smoothing: smoothing as f32,
        losses: Mutex::new(vec![]),
    };
    logits.inplace_op1(&gradient)?;
    let losses = gradient.losses.into_inner();
    let loss: f64 = losses.iter().copied().map(f64::from).sum();
    #[allow(clippy::cast_possible_truncation, reason = "a loss fits f32")]
    Tensor::new(loss as f32, logits.device())
}

struct Gradient<'a> {
    targets: Vec<u32>,
    weights: Option<&'a [f32]>,
    smoothing: f32,
    /// The weighted loss of each row, once it is known.
    losses: Mutex<Vec<f32>>,
}

impl InplaceOp1 for Gradient<'_> {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let logits = numbers_mut(logits, layout)?;
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        let rows = logits.par_chunks_exact_mut(width).zip(&self.targets);
        let losses = rows.enumerate().map(|(index, (row, &target))| {
            let mut loss = 0.0;
            let weight = |weights: &[f32]| weights.get(index).copied().unwrap_or(0.0);
            Instructions::best().enter(Logits {
                row,
                target,
                weight: self.weights.map_or(1.0, weight),
                smoothing: self.smoothing,
                loss: &mut loss,
            });
            loss
        });
        *self.losses.lock() = losses.collect();
        Ok(())
    }
}

/// A row of logits, which becomes its gradient.
struct Logits<'a> {
    row: &'a mut [f32],
    target: u32,
    weight: f32,
    smoothing: f32,
    loss: &'a mut f32,
}

#[allow(unsafe_code, reason = "the trait's function is unsafe to call")]
impl Work for Logits<'_> {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as the trait says")]
    unsafe fn run<S: Simd>(self) {
        let Self {
            row,
            target,
            weight,
            smoothing,
            loss,
        } = self;
        let max = largest::<LANES>(row);
        let mut picked = row
            .get(target as usize)
            .map_or(f32::NAN, |logit| logit - max);
        if smoothing > 0.0 {
            picked += smoothing * (mean_above(row, max) - picked);
        }
        let sum = exponentials::<LANES>(row, max);
        *loss = weight * (sum.ln() - picked);
        let factor = weight / sum;
        #[allow(clippy::cast_precision_loss, reason = "a rough size is enough")]
        let everywhere = weight * smoothing / row.len() as f32;
        for x in row.iter_mut() {
            *x = *x * factor - everywhere;
        }
        if let Some(x) = row.get_mut(target as usize) {
            *x -= weight * (1.0 - smoothing);
        }
    }
}

/// Maxima and sums are of so many numbers at once.
const LANES: usize = 64;

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
