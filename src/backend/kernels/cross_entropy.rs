//! Cross-entropy of logits and its gradient.

use super::exp::exp;
use super::{for_rows, numbers_mut};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

/// The summed negative log-likelihood of the targets, an `f32` scalar. `logits`, of shape (rows,
/// vocabulary), become its gradient in place: they must be a fresh result that has no other holder.
pub(in crate::backend) fn softmax_cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
) -> Result<Tensor> {
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
                match row.get(target as usize) {
                    Some(logit) => max + sum.ln() - logit,
                    None => f32::NAN,
                }
            })
            .collect();
        losses.iter().map(|&loss| f64::from(loss)).sum::<f64>()
    };
    let target_tensor = Tensor::new(targets, logits.device())?;
    logits.inplace_op2(&target_tensor, &Gradient)?;
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

struct Gradient;

impl InplaceOp2 for Gradient {
    fn name(&self) -> &'static str {
        "cross-entropy-gradient"
    }

    fn cpu_fwd(
        &self,
        logits: &mut CpuStorage,
        layout: &Layout,
        targets: &CpuStorage,
        _: &Layout,
    ) -> Result<()> {
        let logits = numbers_mut(logits, layout)?;
        let targets = targets.as_slice::<u32>()?;
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        for_rows(logits, width, |index, row| {
            let (max, sum) = normaliser(row);
            let inverse = 1.0 / sum;
            for x in row.iter_mut() {
                *x = exp(*x - max) * inverse;
            }
            if let Some(x) = targets
                .get(index)
                .and_then(|&target| row.get_mut(target as usize))
            {
                *x -= 1.0;
            }
        });
        Ok(())
    }
}
