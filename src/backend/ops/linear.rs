//! A linear map with frozen weights, and the low-rank branch beside it.

use crate::backend::kernels;
use candle_core::{DType, Result, Tensor};

/// `x Wᵀ + b` for `x` of shape (n, in), `weight` of shape (out, in) and `bias` of shape (out).
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = if few_rows(x, weight)? {
        kernels::linear_few_rows(x, weight)?
    } else if kernels::takes_product(x, weight) {
        kernels::dense_product(x, weight)?
    } else {
        x.matmul(&weight.to_dtype(x.dtype())?.t()?)?
    };
    add_bias(y, bias)
}

/// `dy W` for `dy` of shape (n, out) and `weight` of shape (out, in): the gradient of `x` in [`linear`].
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub(crate) fn linear_backward(dy: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if kernels::takes_product(dy, weight) {
        kernels::dense_backward(dy, weight)
    } else {
        dy.matmul(&weight.to_dtype(dy.dtype())?)
    }
}

/// `dyᵀ x` in `f32` for `dy` of shape (n, out) and `x` of shape (n, in): the gradient of `weight` in
/// [`linear`].
///
/// # Errors
///
/// When shapes do not fit.
pub(crate) fn linear_weight_backward(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (dy, x) = (dy.to_dtype(DType::F32)?, x.to_dtype(DType::F32)?);
    if kernels::takes_product(&dy, &x) {
        kernels::dense_outer(&dy, &x)
    } else {
        dy.t()?.matmul(&x)
    }
}

/// Whether the kernel of decoding takes this product.
fn few_rows(x: &Tensor, weight: &Tensor) -> Result<bool> {
    Ok(x.dim(0)? <= kernels::FEW_ROWS && kernels::takes(x) && kernels::takes_weights(weight))
}

/// `y + b` for a fresh `y`, as [`add_into`] takes it, and `b` of shape (out), where there is one.
pub(crate) fn add_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        #[cfg(feature = "cuda")]
        Some(bias) if kernels::cuda::takes_all([&y, bias]) => {
            kernels::cuda::add_assign(&y, bias)?;
            Ok(y)
        }
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// A low-rank branch, ready to be added to a linear map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LowRank<'a> {
    /// (rank, in)
    pub a: &'a Tensor,
    /// (out, rank)
    pub b: &'a Tensor,
    /// A, B and `row_scale`, one after the other.
    pub packed: &'a Tensor,
    pub scaling: f64,
    /// Factors of the map's own outputs, (out), where they are not 1.
    pub row_scale: Option<&'a Tensor>,
    /// A and B in 16 bits, where products are computed with such.
    pub rounded: Option<&'a [Tensor; 2]>,
}

#[cfg(feature = "cuda")]
impl<'a> LowRank<'a> {
    /// A and B where kernels compute with them and `x`.
    fn for_cuda(&self, x: &Tensor) -> Option<(&'a Tensor, &'a Tensor)> {
        let [a, b] = self.rounded?;
        (kernels::cuda::takes_all([x, a]) && self.row_scale.is_none()).then_some((a, b))
    }

    #[allow(clippy::cast_possible_truncation, reason = "rounding is meant")]
    fn scaling_f32(&self) -> f32 {
        self.scaling as f32
    }
}

/// `row_scale ∘ y + scaling · (x Aᵀ) Bᵀ` for a fresh `y`.
pub(crate) fn add_branch(y: Tensor, x: &Tensor, branch: LowRank<'_>) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some((a, b)) = branch.for_cuda(x) {
        let down = kernels::cuda::product(x, &a.t()?, branch.scaling_f32(), x.dtype())?;
        kernels::cuda::add_product(&y, &down, &b.t()?, 1.0)?;
        return Ok(y);
    }
    let y = match branch.row_scale {
        Some(scale) => y.broadcast_mul(&scale.to_dtype(y.dtype())?)?,
        None => y,
    };
    let (a, b) = match branch.rounded {
        Some([a, b]) if a.dtype() == x.dtype() => (a, b),
        _ => (branch.a, branch.b),
    };
    if kernels::takes(&y) && kernels::takes_product(x, a) && !few_rows(x, a)? {
        let down = scaled(linear(x, a, None)?, branch.scaling)?;
        kernels::dense_product_onto(&y, &down, b)?;
        return Ok(y);
    }
    add_into(y, &low_rank(x, a, b, branch.scaling)?)
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
    let down = scaled(linear(&x.to_dtype(a.dtype())?, a, None)?, scale)?;
    linear(&down, b, None)?.to_dtype(x.dtype())
}

fn scaled(x: Tensor, scale: f64) -> Result<Tensor> {
    #[allow(clippy::float_cmp, reason = "exactly 1 changes nothing")]
    if scale == 1.0 { Ok(x) } else { x * scale }
}

/// `y + x` for a fresh `y`, which gives its memory to the result.
///
/// `y` must have no other holder: on the CPU and on NVIDIA GPUs it is overwritten.
///
/// # Errors
///
/// When shapes or dtypes differ.
pub(crate) fn add_into(y: Tensor, x: &Tensor) -> Result<Tensor> {
    if kernels::takes(&y) && kernels::takes(x) {
        kernels::add_assign(&y, x)?;
        return Ok(y);
    }
    #[cfg(feature = "cuda")]
    if kernels::cuda::takes_all([&y, x]) && y.dims() == x.dims() {
        kernels::cuda::add_assign(&y, x)?;
        return Ok(y);
    }
    y + x
}

/// `dx + dy W` for a fresh `dx`, as [`add_into`] takes it.
fn add_product(dx: Tensor, dy: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if kernels::takes(&dx) && kernels::takes_product(dy, weight) {
        kernels::dense_backward_onto(&dx, dy, weight)?;
        return Ok(dx);
    }
    add_into(dx, &linear_backward(dy, weight)?)
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
    let found = Narrow::of(x, a, b, scale, dy)?;
    Ok(LowRankGradients {
        x: linear_backward(&found.through_b, a)?.to_dtype(x.dtype())?,
        a: found.a()?,
        b: found.b()?,
    })
}

/// What the gradients of a low-rank branch are made of.
struct Narrow {
    x: Tensor,
    dy: Tensor,
    /// `scale · x Aᵀ`
    down: Tensor,
    /// `scale · dy B`
    through_b: Tensor,
}

impl Narrow {
    fn of(x: &Tensor, a: &Tensor, b: &Tensor, scale: f64, dy: &Tensor) -> Result<Self> {
        let x = x.to_dtype(DType::F32)?;
        let dy = dy.to_dtype(DType::F32)?;
        // The factor goes where the tensors are narrow.
        Ok(Self {
            down: (linear(&x, a, None)? * scale)?,
            through_b: (linear_backward(&dy, b)? * scale)?,
            x,
            dy,
        })
    }

    fn a(&self) -> Result<Tensor> {
        linear_weight_backward(&self.through_b, &self.x)
    }

    fn b(&self) -> Result<Tensor> {
        linear_weight_backward(&self.dy, &self.down)
    }
}

/// [`low_rank_backward`] of a branch whose map has what `dx` gives for the gradient of its input: the gradient
/// of both with respect to `x`, which takes the memory of that.
///
/// # Errors
///
/// When shapes do not fit.
pub(crate) fn branch_backward(
    dx: impl FnOnce() -> Result<Tensor>,
    x: &Tensor,
    branch: LowRank<'_>,
    dy: &Tensor,
) -> Result<LowRankGradients> {
    #[cfg(feature = "cuda")]
    if let Some((a, b)) = branch.for_cuda(x) {
        use kernels::cuda::{add_product, product};
        let (scale, dtype) = (branch.scaling_f32(), x.dtype());
        let dx = dx()?;
        let down = product(x, &a.t()?, scale, dtype)?;
        let through_b = product(dy, b, scale, dtype)?;
        add_product(&dx, &through_b, a, 1.0)?;
        return Ok(LowRankGradients {
            x: dx,
            a: product(&through_b.t()?, x, 1.0, DType::F32)?,
            b: product(&dy.t()?, &down, 1.0, DType::F32)?,
        });
    }
    if kernels::takes(x) && kernels::takes_product(dy, branch.b) {
        let found = Narrow::of(x, branch.a, branch.b, branch.scaling, dy)?;
        let dx = add_product(dx()?, &found.through_b, branch.a)?;
        return Ok(LowRankGradients {
            x: dx,
            a: found.a()?,
            b: found.b()?,
        });
    }
    // First what waits for nothing that is added up.
    let found = low_rank_backward(x, branch.a, branch.b, branch.scaling, dy)?;
    Ok(LowRankGradients {
        x: add_into(dx()?, &found.x)?,
        ..found
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
        let dx = dy.matmul(&w).unwrap();
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
