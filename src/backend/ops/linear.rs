//! A linear map with frozen weights, and the low-rank branch beside it.

use crate::backend::kernels;
use candle_core::{DType, Result, Tensor};

/// `x Wᵀ + b` for `x` of shape (n, in), `weight` of shape (out, in) and `bias` of shape (out).
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let few_rows = x.dim(0)? <= kernels::FEW_ROWS;
    let y = if few_rows && kernels::takes(x) && kernels::takes(weight) {
        kernels::linear_few_rows(x, weight)?
    } else {
        x.matmul(&weight.t()?)?
    };
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// The gradient of [`linear`] with respect to `x`: `dy W`. The weight is frozen and gets none.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub fn linear_backward(dy: &Tensor, weight: &Tensor) -> Result<Tensor> {
    dy.matmul(weight)
}

/// `scale · (x Aᵀ) Bᵀ` for `a` of shape (rank, in) and `b` of shape (out, rank): the branch that
/// LoRA adds to a linear map (Hu et al., 2021, <https://arxiv.org/abs/2106.09685>).
///
/// It computes in the dtype of `a` and returns that of `x`.
///
/// # Errors
///
/// When shapes do not fit.
pub fn low_rank(x: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    let down = (linear(&x.to_dtype(a.dtype())?, a, None)? * scale)?;
    linear(&down, b, None)?.to_dtype(x.dtype())
}

/// `y + x` for a fresh `y`, which gives its memory to the result.
///
/// `y` must have no other holder: on the CPU it is overwritten.
///
/// # Errors
///
/// When shapes or dtypes differ.
pub(crate) fn add_into(y: Tensor, x: &Tensor) -> Result<Tensor> {
    if kernels::takes(&y) && kernels::takes(x) {
        kernels::add_assign(&y, x)?;
        Ok(y)
    } else {
        y + x
    }
}

/// The gradients of [`low_rank`].
#[derive(Debug)]
pub struct LowRankGradients {
    /// With respect to `x`, in its dtype.
    pub x: Tensor,
    /// With respect to `a`, `f32`.
    pub a: Tensor,
    /// With respect to `b`, `f32`.
    pub b: Tensor,
}

/// The gradients of [`low_rank`] for its inputs and the gradient `dy` of its result.
///
/// # Errors
///
/// When shapes do not fit.
pub fn low_rank_backward(
    x: &Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
    dy: &Tensor,
) -> Result<LowRankGradients> {
    let wide = x.to_dtype(DType::F32)?;
    let dy = dy.to_dtype(DType::F32)?;
    // The factor goes where the tensors are narrow.
    let down = (wide.matmul(&a.t()?)? * scale)?;
    let through_b = (dy.matmul(b)? * scale)?;
    Ok(LowRankGradients {
        x: through_b.matmul(a)?.to_dtype(x.dtype())?,
        a: through_b.t()?.matmul(&wide)?,
        b: dy.t()?.matmul(&down)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, random};
    use super::*;

    #[test]
    fn frozen_linear_agrees_with_finite_differences() {
        let (x, w, b) = (random(&[5, 7], 1), random(&[3, 7], 2), random(&[3], 3));
        let dy = random(&[5, 3], 4);
        let dx = linear_backward(&dy, &w).unwrap();
        check("x", &x, &dx, &dy, |x| linear(x, &w, Some(&b)));
    }

    #[test]
    fn low_rank_agrees_with_finite_differences() {
        let (x, a, b) = (random(&[5, 7], 1), random(&[2, 7], 2), random(&[3, 2], 3));
        let dy = random(&[5, 3], 4);
        let g = low_rank_backward(&x, &a, &b, 1.5, &dy).unwrap();
        check("x", &x, &g.x, &dy, |x| low_rank(x, &a, &b, 1.5));
        check("a", &a, &g.a, &dy, |a| low_rank(&x, a, &b, 1.5));
        check("b", &b, &g.b, &dy, |b| low_rank(&x, &a, b, 1.5));
    }
}
