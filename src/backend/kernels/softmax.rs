//! Softmax over attention scores, and its gradient.

use super::exp::exp;
use super::{for_rows, numbers, numbers_mut};
use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Tensor};

/// `softmax(scale · scores + mask)` over the last dimension, in place: `scores`, of shape
/// (…, queries, keys), must be a fresh result that has no other holder. The mask has shape
/// (1, queries, keys).
pub(in crate::backend) fn masked_softmax(
    scores: &Tensor,
    mask: Option<&Tensor>,
    scale: f32,
) -> Result<()> {
    let softmax = Softmax { scale };
    match mask {
        Some(mask) => scores.inplace_op2(mask, &softmax),
        None => scores.inplace_op1(&softmax),
    }
}

/// Turns `dp`, the gradient of probabilities `p`, into that of the scores, in place:
/// `scale · p · (dp - along)`, where `along` is `<p, dp>` of each row.
pub(in crate::backend) fn softmax_backward(
    dp: &Tensor,
    p: &Tensor,
    along: &Tensor,
    scale: f32,
) -> Result<()> {
    dp.inplace_op3(p, along, &Backward { scale })
}

struct Softmax {
    scale: f32,
}

impl Softmax {
    fn row(&self, row: &mut [f32], mask: Option<&[f32]>) {
        if let Some(mask) = mask {
            for (x, mask) in row.iter_mut().zip(mask) {
                *x = *x * self.scale + mask;
            }
        } else {
            for x in row.iter_mut() {
                *x *= self.scale;
            }
        }
        let max = row
            .iter()
            .fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
        let mut sum = 0f32;
        for x in row.iter_mut() {
            *x = exp(*x - max);
            sum += *x;
        }
        let inverse = 1.0 / sum;
        for x in row {
            *x *= inverse;
        }
    }
}

fn width(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(1).max(1)
}

impl InplaceOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, scores: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let scores = numbers_mut(scores, layout)?;
        for_rows(scores, width(layout), |_, row| self.row(row, None));
        Ok(())
    }
}

impl InplaceOp2 for Softmax {
    fn name(&self) -> &'static str {
        "masked-softmax"
    }

    fn cpu_fwd(
        &self,
        scores: &mut CpuStorage,
        layout: &Layout,
        mask: &CpuStorage,
        mask_layout: &Layout,
    ) -> Result<()> {
        let (scores, mask) = (numbers_mut(scores, layout)?, numbers(mask, mask_layout)?);
        let width = width(layout);
        let queries = mask.len() / width;
        for_rows(scores, width, |index, row| {
            let start = index % queries * width;
            self.row(row, Some(&mask[start..start + width]));
        });
        Ok(())
    }
}

struct Backward {
    scale: f32,
}

impl InplaceOp3 for Backward {
    fn name(&self) -> &'static str {
        "softmax-backward"
    }

    fn cpu_fwd(
        &self,
        dp: &mut CpuStorage,
        layout: &Layout,
        p: &CpuStorage,
        p_layout: &Layout,
        along: &CpuStorage,
        along_layout: &Layout,
    ) -> Result<()> {
        let (dp, p) = (numbers_mut(dp, layout)?, numbers(p, p_layout)?);
        let along = numbers(along, along_layout)?;
        let width = width(layout);
        for_rows(dp, width, |index, row| {
            let along = along[index];
            for (d, p) in row.iter_mut().zip(&p[index * width..]) {
                *d = self.scale * p * (*d - along);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::kernels::assert_close;
    use crate::backend::ops::gradcheck::random;

    #[test]
    fn agrees_with_the_chain() {
        let scores = (random(&[3, 4, 50], 1) * 20.0).unwrap();
        let mask = (random(&[1, 4, 50], 2) * 10.0).unwrap();
        let softmax = |x: Tensor| candle_nn::ops::softmax_last_dim(&x).unwrap();
        let scaled = (&scores * 0.3).unwrap();
        let copy = scores.copy().unwrap();
        masked_softmax(&copy, None, 0.3).unwrap();
        assert_close(&copy, &softmax(scaled.clone()), 1e-6);
        let copy = scores.copy().unwrap();
        masked_softmax(&copy, Some(&mask), 0.3).unwrap();
        assert_close(&copy, &softmax(scaled.broadcast_add(&mask).unwrap()), 1e-6);
    }
}
