//! Addition into a tensor that nobody else holds.

use super::{EachRow, each_row, numbers, numbers_mut};
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};

/// `y += x`, in place: `y` must be a fresh result that has no other holder.
pub(in crate::backend) fn add_assign(y: &Tensor, x: &Tensor) -> Result<()> {
    y.inplace_op2(x, &AddAssign)
}

struct AddAssign;

impl InplaceOp2 for AddAssign {
    fn name(&self) -> &'static str {
        "add-assign"
    }

    fn cpu_fwd(&self, y: &mut CpuStorage, ly: &Layout, x: &CpuStorage, lx: &Layout) -> Result<()> {
        let (y, x) = (numbers_mut(y, ly)?, numbers(x, lx)?);
        if y.len() != x.len() {
            return Err(candle_core::Error::Msg(
                "add-assign of two lengths".to_owned(),
            ));
        }
        let width = y.len().clamp(1, 1 << 12);
        let whole = y.len() / width * width;
        let (rows, rest) = y.split_at_mut(whole);
        each_row(rows, width, &Add { x });
        add(rest, &x[whole..]);
        Ok(())
    }
}

struct Add<'a> {
    x: &'a [f32],
}

impl EachRow for Add<'_> {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as the trait says")]
    fn row(&self, index: usize, row: &mut [f32]) {
        add(row, &self.x[index * row.len()..]);
    }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "it is vectorised where it is called")]
fn add(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::kernels::assert_close;
    use crate::backend::ops::gradcheck::random;

    #[test]
    fn adds_in_place() {
        for shape in [&[3, 5][..], &[70_001], &[0]] {
            let (y, x) = (random(shape, 1), random(shape, 2));
            let expected = (&y + &x).unwrap();
            add_assign(&y, &x).unwrap();
            assert_close(&y, &expected, 0.0);
        }
        assert!(add_assign(&random(&[2], 1), &random(&[3], 1)).is_err());
    }
}
