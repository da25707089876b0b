//! The products for tensors, of one matrix or of as many as dimensions before the last two make.

use super::{as_room, backward, outer, product};
use crate::backend::kernels::dot::Numbers;
use crate::backend::kernels::{numbers, numbers_mut};
use candle_core::{CpuStorage, CustomOp2, DType, InplaceOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Whether there is a product for activations and weights like these: `f32` with a contiguous matrix of
/// floats, on the CPU.
///
/// Apple's Accelerate has a unit for products of `f32` that these instructions do not reach.
pub(in crate::backend) fn takes_product(x: &Tensor, weight: &Tensor) -> bool {
    let weights = match weight.dtype() {
        DType::F32 => !cfg!(feature = "accelerate"),
        DType::F16 | DType::BF16 => true,
        _ => false,
    };
    weights
        && x.device().is_cpu()
        && weight.device().is_cpu()
        && x.dtype() == DType::F32
        && x.rank() == 2
        && weight.rank() == 2
        && weight.is_contiguous()
}

/// Whether there are products of the matrices in tensors like these: `f32`, on the CPU.
pub(in crate::backend) fn takes_products(a: &Tensor, b: &Tensor) -> bool {
    let takes = |x: &Tensor| x.device().is_cpu() && x.dtype() == DType::F32 && x.rank() >= 2;
    !cfg!(feature = "accelerate") && takes(a) && takes(b)
}

/// `x Wᵀ`, (rows, out), for `x` of shape (rows, in) and `weight` of shape (out, in).
pub(in crate::backend) fn dense_product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2_no_bwd(weight, &Dense::Product)
}

/// `dy W`, (rows, in), for `dy` of shape (rows, out) and `weight` of shape (out, in).
pub(in crate::backend) fn dense_backward(dy: &Tensor, weight: &Tensor) -> Result<Tensor> {
    dy.contiguous()?.apply_op2_no_bwd(weight, &Dense::Backward)
}

/// `dyᵀ x`, (out, in), for `dy` of shape (rows, out) and `x` of shape (rows, in), both `f32`.
pub(in crate::backend) fn dense_outer(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    dy.contiguous()?
        .apply_op2_no_bwd(&x.contiguous()?, &Dense::Outer)
}

/// `y += x Wᵀ`, in place: `y` must be a fresh result that has no other holder.
pub(in crate::backend) fn dense_product_onto(
    y: &Tensor,
    x: &Tensor,
    weight: &Tensor,
) -> Result<()> {
    y.inplace_op3(&x.contiguous()?, weight, &Dense::Product)
}

/// `dx += dy W`, in place: `dx` must be a fresh result that has no other holder.
pub(in crate::backend) fn dense_backward_onto(
    dx: &Tensor,
    dy: &Tensor,
    weight: &Tensor,
) -> Result<()> {
    dx.inplace_op3(&dy.contiguous()?, weight, &Dense::Backward)
}

enum Dense {
    Product,
    Backward,
    Outer,
}

impl CustomOp2 for Dense {
    fn name(&self) -> &'static str {
        "dense-product"
    }

    fn cpu_fwd(
        &self,
        left: &CpuStorage,
        left_layout: &Layout,
        right: &CpuStorage,
        right_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(left_layout, right_layout)?;
        let left = numbers(left, left_layout)?;
        let weights = Numbers::of(right, right_layout)?;
        let len = sizes.count * sizes.rows * sizes.columns;
        let mut result = Vec::with_capacity(len);
        let room = &mut result.spare_capacity_mut()[..len];
        self.compute(&sizes, left, weights, room, false)?;
        // SAFETY: the products wrote all of it.
        unsafe { result.set_len(len) };
        let (batch, ..) = matrices(left_layout)?;
        let shape = [batch, &[sizes.rows, sizes.columns]].concat();
        Ok((CpuStorage::F32(result), Shape::from(shape)))
    }
}

impl InplaceOp3 for Dense {
    fn name(&self) -> &'static str {
        "dense-product-onto"
    }

    fn cpu_fwd(
        &self,
        onto: &mut CpuStorage,
        onto_layout: &Layout,
        left: &CpuStorage,
        left_layout: &Layout,
        right: &CpuStorage,
        right_layout: &Layout,
    ) -> Result<()> {
        let sizes = self.sizes(left_layout, right_layout)?;
        let left = numbers(left, left_layout)?;
        let weights = Numbers::of(right, right_layout)?;
        let onto = numbers_mut(onto, onto_layout)?;
        if onto_layout.dims() != [sizes.rows, sizes.columns] {
            bail!("a product onto {:?}", onto_layout.dims());
        }
        self.compute(&sizes, left, weights, as_room(onto), true)
    }
}

/// How many products there are, of which size.
struct Sizes {
    count: usize,
    rows: usize,
    columns: usize,
    /// Numbers in each of the operands.
    left: usize,
    right: usize,
}

impl Dense {
    fn sizes(&self, left: &Layout, right: &Layout) -> Result<Sizes> {
        let (batch, rows, inner) = matrices(left)?;
        let (right_batch, right_rows, right_columns) = matrices(right)?;
        let (fits, m, n) = match self {
            Self::Product => (inner == right_columns, rows, right_rows),
            Self::Backward => (inner == right_rows, rows, right_columns),
            Self::Outer => (rows == right_rows, inner, right_columns),
        };
        if !fits || batch != right_batch {
            bail!(
                "no product of matrices of shapes {:?} and {:?}",
                left.dims(),
                right.dims()
            );
        }
        Ok(Sizes {
            count: batch.iter().product(),
            rows: m,
            columns: n,
            left: rows * inner,
            right: right_rows * right_columns,
        })
    }

    fn compute(
        &self,
        sizes: &Sizes,
        left: &[f32],
        weights: Numbers<'_>,
        result: &mut [MaybeUninit<f32>],
        add: bool,
    ) -> Result<()> {
        if matches!(self, Self::Outer) && !matches!(weights, Numbers::F32(_)) {
            bail!("an outer product takes f32 only");
        }
        let (m, n) = (sizes.rows, sizes.columns);
        let compute = |index: usize, result: &mut [MaybeUninit<f32>]| {
            let left = &left[index * sizes.left..][..sizes.left];
            let weights = weights.part(index * sizes.right..(index + 1) * sizes.right);
            match (self, weights) {
                (Self::Product, weights) => {
                    product([m, n, sizes.left / m], left, weights, result, add);
                }
                (Self::Backward, weights) => {
                    backward([m, n, sizes.left / m], left, weights, result, add);
                }
                (Self::Outer, Numbers::F32(x)) => {
                    outer([m, n, sizes.left / m], left, x, result);
                }
                (Self::Outer, _) => {}
            }
        };
        match m * n {
            0 => {}
            size if sizes.count == 1 => compute(0, &mut result[..size]),
            size => {
                let parts = result.par_chunks_exact_mut(size).enumerate();
                parts.for_each(|(index, result)| compute(index, result));
            }
        }
        Ok(())
    }
}

/// The dimensions before a matrix, and those of the matrix.
fn matrices(layout: &Layout) -> Result<(&[usize], usize, usize)> {
    match layout.dims() {
        [batch @ .., rows, columns] => Ok((batch, *rows, *columns)),
        _ => bail!("not a matrix"),
    }
}
