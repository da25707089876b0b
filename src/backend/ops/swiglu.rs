//! The gated activation of the feed-forward block (Shazeer, 2020, <https://arxiv.org/abs/2002.05202>).

use candle_core::{DType, Result, Tensor};

/// `silu(gate) · up`, element by element.
///
/// # Errors
///
/// When shapes or dtypes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
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
}
