//! The gated activation of the feed-forward block (Shazeer, 2020, <https://arxiv.org/abs/2002.05202>).

use crate::backend::kernels;
use candle_core::{DType, Result, Tensor};

/// `silu(gate) · up`, element by element.
///
/// # Errors
///
/// When shapes or dtypes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if kernels::takes(gate) && kernels::takes(up) {
        return kernels::swiglu(gate, up);
    }
    #[cfg(feature = "cuda")]
    if kernels::cuda::takes_all([gate, up]) {
        return kernels::cuda::swiglu(gate, up);
    }
    gate.silu()? * up
}

/// The gradients of [`swiglu`] with respect to `gate` and `up`, computed in `f32`.
///
/// With `s = sigmoid(gate)` they are `dy · up · s · (1 + gate · (1 - s))` and `dy · gate · s`.
///
/// # Errors
///
/// When shapes or dtypes differ.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    if [gate, up, dy].into_iter().all(kernels::takes) {
        return kernels::swiglu_backward(gate, up, dy);
    }
    #[cfg(feature = "cuda")]
    if kernels::cuda::takes_all([gate, up, dy]) {
        return kernels::cuda::swiglu_backward(gate, up, dy);
    }
    let dtype = gate.dtype();
    let gate = gate.to_dtype(DType::F32)?;
    let dy = dy.to_dtype(DType::F32)?;
    let sigmoid = candle_nn::ops::sigmoid(&gate)?;
    let silu = (&gate * &sigmoid)?;
    let dup = (&dy * &silu)?;
    // s (1 + g (1 - s)) = s + silu (1 - s) = silu + s (1 - silu)
    let slope = ((&silu + &sigmoid)? - (&sigmoid * &silu)?)?;
    let dgate = ((dy * up.to_dtype(DType::F32)?)? * slope)?;
    Ok((dgate.to_dtype(dtype)?, dup.to_dtype(dtype)?))
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, random};
    use super::*;

    #[test]
    fn agrees_with_finite_differences() {
        let gate = (random(&[4, 6], 1) * 3.0).unwrap();
        let (up, dy) = (random(&[4, 6], 2), random(&[4, 6], 3));
        let (dgate, dup) = swiglu_backward(&gate, &up, &dy).unwrap();
        check("gate", &gate, &dgate, &dy, |gate| swiglu(gate, &up));
        check("up", &up, &dup, &dy, |up| swiglu(&gate, up));
    }

    #[test]
    fn the_kernel_agrees_with_the_chain() {
        // A transposed view takes the chain.
        let turned = |shape: &[usize], seed| random(shape, seed).t().unwrap();
        let (gate, up, dy) = (
            turned(&[30, 7], 1),
            turned(&[30, 7], 2),
            turned(&[30, 7], 3),
        );
        let copy = |x: &Tensor| x.contiguous().unwrap();
        let gap = |a: &Tensor, b: &Tensor| {
            let gap = (a - b).unwrap().abs().unwrap().max_all().unwrap();
            gap.to_scalar::<f32>().unwrap()
        };
        let chain = swiglu(&gate, &up).unwrap();
        assert!(gap(&chain, &swiglu(&copy(&gate), &copy(&up)).unwrap()) < 1e-6);
        let chain = swiglu_backward(&gate, &up, &dy).unwrap();
        let kernel = swiglu_backward(&copy(&gate), &copy(&up), &copy(&dy)).unwrap();
        assert!(gap(&chain.0, &kernel.0) < 1e-6 && gap(&chain.1, &kernel.1) < 1e-6);
    }
}
