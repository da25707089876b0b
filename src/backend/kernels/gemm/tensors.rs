//! The products for tensors, of one matrix or of as many as dimensions before the last two make.

use super::{backward, outer, product};
use crate::backend::kernels::dot::Numbers;
use crate::backend::kernels::numbers;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

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
        let (batch, rows, inner) = matrices(left_layout)?;
        let (right_batch, right_rows, right_columns) = matrices(right_layout)?;
        let (fits, m, n) = match self {
            Self::Product => (inner == right_columns, rows, right_rows),
            Self::Backward => (inner == right_rows, rows, right_columns),
            Self::Outer => (rows == right_rows, inner, right_columns),
        };
        if !fits || batch != right_batch {
            return Err(candle_core::Error::Msg(format!(
                "no product of matrices of shapes {:?} and {:?}",
                left_layout.dims(),
                right_layout.dims()
            )));
        }
        let left = numbers(left, left_layout)?;
        let weights = Numbers::of(right, right_layout)?;
        let count: usize = batch.iter().product();
        let mut result = vec![0f32; count * m * n];
        let compute = |index: usize, result: &mut [f32]| {
            let left = &left[index * rows * inner..][..rows * inner];
            let size = right_rows * right_columns;
            match (self, weights.part(index * size..(index + 1) * size)) {
                (Self::Product, weights) => product(left, rows, inner, weights, n, result),
                (Self::Backward, weights) => backward(left, rows, inner, weights, n, result),
                (Self::Outer, Numbers::F32(x)) => outer(left, rows, inner, x, n, result),
                (Self::Outer, _) => {}
            }
        };
        if matches!(self, Self::Outer) && !matches!(weights, Numbers::F32(_)) {
            return Err(candle_core::Error::Msg(
                "an outer product takes f32 only".to_owned(),
            ));
        }
        match m * n {
            0 => {}
            size if count == 1 => compute(0, &mut result[..size]),
            size => {
                let parts = result.par_chunks_exact_mut(size).enumerate();
                parts.for_each(|(index, result)| compute(index, result));
            }
        }
        let shape = [batch, &[m, n]].concat();
        Ok((CpuStorage::F32(result), Shape::from(shape)))
    }
}

/// The dimensions before a matrix, and those of the matrix.
fn matrices(layout: &Layout) -> Result<(&[usize], usize, usize)> {
    match layout.dims() {
        [batch @ .., rows, columns] => Ok((batch, *rows, *columns)),
        _ => Err(candle_core::Error::Msg("not a matrix".to_owned())),
    }
}
