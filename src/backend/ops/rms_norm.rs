//! Root-mean-square layer normalisation (Zhang & Sennrich, 2019, <https://arxiv.org/abs/1910.07467>).

use super::linear::add_into;
use crate::backend::kernels;
use candle_core::{D, DType, Result, Tensor};

/// `weight · x / sqrt(mean(x²) + eps)` over the last dimension.
///
/// `x` is contiguous with last dimension `weight.dim(0)`, in the same dtype as `weight`.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if kernels::cuda::takes_all([x, weight]) {
        return kernels::cuda::rms_norm(x, weight, narrow(eps));
    }
    if [x, weight].into_iter().all(kernels::takes) {
        return kernels::rms_norm(x, weight, narrow(eps));
    }
    candle_nn::ops::rms_norm(x, weight, narrow(eps))
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "an epsilon such as 1e-6 fits f32"
)]
fn narrow(eps: f64) -> f32 {
    eps as f32
}

/// `x + y` for a fresh `x`, as [`add_into`] takes it, and its [`rms_norm`].
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub(crate) fn add_rms_norm(
    x: Tensor,
    y: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if kernels::cuda::takes_all([&x, y, weight]) {
        return kernels::cuda::norm_sum(&x, y, weight, narrow(eps));
    }
    let sum = add_into(x, y)?;
    let normed = rms_norm(&sum, weight, eps)?;
    Ok((sum, normed))
}

/// The gradient of [`rms_norm`] with respect to `x`, computed in `f32`. The weight is frozen.
///
/// With `x̂ = x / rms` and `g = dy · weight` it is `(g - x̂ · mean(g · x̂)) / rms`.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub fn rms_norm_backward(x: &Tensor, weight: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
    if [x, weight, dy].into_iter().all(kernels::takes) {
        return kernels::rms_norm_backward(x, weight, narrow(eps), dy, None);
    }
    #[cfg(feature = "cuda")]
    if kernels::cuda::takes_all([x, weight, dy]) {
        return kernels::cuda::rms_norm_backward(x, weight, narrow(eps), dy, None);
    }
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F32)?;
    let inverse = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    let normed = x.broadcast_mul(&inverse)?;
    let g = dy
        .to_dtype(DType::F32)?
        .broadcast_mul(&weight.to_dtype(DType::F32)?)?;
    let along = (&g * &normed)?.mean_keepdim(D::Minus1)?;
    (g - normed.broadcast_mul(&along)?)?
        .broadcast_mul(&inverse)?
        .to_dtype(dtype)
}

/// [`rms_norm_backward`] and `more`, what else the gradient of `x` is made of.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub(crate) fn rms_norm_backward_add(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    dy: &Tensor,
    more: &Tensor,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if kernels::cuda::takes_all([x, weight, dy, more]) {
        return kernels::cuda::rms_norm_backward(x, weight, narrow(eps), dy, Some(more));
    }
    if [x, weight, dy, more].into_iter().all(kernels::takes) {
        return kernels::rms_norm_backward(x, weight, narrow(eps), dy, Some(more));
    }
    add_into(rms_norm_backward(x, weight, eps, dy)?, more)
}

/// The gradient of [`rms_norm`] with respect to the weight, in `f32`: the sum of `dy · x̂` over all rows.
///
/// # Errors
///
/// When shapes do not fit.
pub fn rms_norm_weight_backward(x: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
    let x = x.to_dtype(DType::F32)?;
    let inverse = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    let products = (x.broadcast_mul(&inverse)? * dy.to_dtype(DType::F32)?)?;
    products.reshape(((), x.dim(D::Minus1)?))?.sum(0)
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, random};
    use super::*;

    #[test]
    fn agrees_with_finite_differences() {
        let (x, w, dy) = (random(&[4, 9], 1), random(&[9], 2), random(&[4, 9], 3));
        let dx = rms_norm_backward(&x, &w, 1e-6, &dy).unwrap();
        check("x", &x, &dx, &dy, |x| rms_norm(x, &w, 1e-6));
        let dw = rms_norm_weight_backward(&x, 1e-6, &dy).unwrap();
        check("weight", &w, &dw, &dy, |w| rms_norm(&x, w, 1e-6));
    }

    #[test]
    fn scales_to_unit_root_mean_square() {
        let x = (random(&[3, 64], 1) * 50.0).unwrap();
        let w = Tensor::ones(64, DType::F32, x.device()).unwrap();
        let y = rms_norm(&x, &w, 1e-6).unwrap();
        for row in y.sqr().unwrap().mean(1).unwrap().to_vec1::<f32>().unwrap() {
            assert!((row - 1.0).abs() < 1e-5, "{row}");
        }
    }

    #[test]
    fn the_kernel_agrees_with_the_chain() {
        let (x, w) = (random(&[30, 9], 1), random(&[9], 2));
        // A transposed view takes the chain.
        let dy = random(&[9, 30], 3).t().unwrap();
        let chain = rms_norm_backward(&x, &w, 1e-6, &dy).unwrap();
        let kernel = rms_norm_backward(&x, &w, 1e-6, &dy.contiguous().unwrap()).unwrap();
        let gap = (chain - kernel).unwrap().abs().unwrap().max_all().unwrap();
        assert!(gap.to_scalar::<f32>().unwrap() < 1e-5);
    }
}
