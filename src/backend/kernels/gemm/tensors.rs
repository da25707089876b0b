//! The products for tensors.

use super::{Weights, backward, outer, product};
use crate::backend::kernels::numbers;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};

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
        let (rows, inner) = left_layout.shape().dims2()?;
        let (right_rows, right_columns) = right_layout.shape().dims2()?;
        let (fits, m, n) = match self {
            Self::Product => (inner == right_columns, rows, right_rows),
            Self::Backward => (inner == right_rows, rows, right_columns),
            Self::Outer => (rows == right_rows, inner, right_columns),
        };
        if !fits {
            return Err(candle_core::Error::Msg(format!(
                "no product of matrices of {rows} x {inner} and {right_rows} x {right_columns}"
            )));
        }
        let left = numbers(left, left_layout)?;
        let weights = weights(right, right_layout)?;
        let mut result = vec![0f32; m * n];
        match (self, weights) {
            (Self::Product, weights) => product(left, rows, inner, weights, n, &mut result),
            (Self::Backward, weights) => backward(left, rows, inner, weights, n, &mut result),
            (Self::Outer, Weights::F32(x)) => outer(left, rows, inner, x, n, &mut result),
            (Self::Outer, _) => {
                return Err(candle_core::Error::Msg(
                    "an outer product takes f32 only".to_owned(),
                ));
            }
        }
        Ok((CpuStorage::F32(result), Shape::from((m, n))))
    }
}

fn weights<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Weights<'a>> {
    let range = layout.contiguous_offsets().map(|(start, end)| start..end);
    let found = range.and_then(|range| match storage {
        CpuStorage::F32(numbers) => numbers.get(range).map(Weights::F32),
        CpuStorage::F16(numbers) => numbers.get(range).map(Weights::F16),
        CpuStorage::BF16(numbers) => numbers.get(range).map(Weights::Bf16),
        _ => None,
    });
    found.ok_or_else(|| {
        candle_core::Error::Msg("the product takes contiguous floats only".to_owned())
    })
}
