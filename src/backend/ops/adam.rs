//! One step of Adam (Kingma & Ba, 2014, <https://arxiv.org/abs/1412.6980>).

use crate::backend::kernels;
use candle_core::{Result, Tensor};

/// The numbers of one step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamStep {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// What the mean of gradients is multiplied with: learning rate and correction of its bias.
    pub first_scale: f64,
    /// What the mean of squared gradients is multiplied with: the correction of its bias.
    pub second_scale: f64,
    /// What each weight is multiplied with first.
    pub keep: f64,
}

/// The weights, the mean of gradients and the mean of squared gradients after a step, from those
/// before it; all of them contiguous and of the same shape.
///
/// With `m = β₁ first + (1 - β₁) g` and `v = β₂ second + (1 - β₂) g²` the weights are
/// `keep · w - first_scale · m / (√(second_scale · v) + ε)`.
///
/// # Errors
///
/// When shapes or dtypes differ.
pub(crate) fn adam(
    weights: &Tensor,
    gradient: &Tensor,
    first: &Tensor,
    second: &Tensor,
    step: &AdamStep,
) -> Result<[Tensor; 3]> {
    if [weights, gradient, first, second]
        .into_iter()
        .all(kernels::takes)
    {
        return kernels::adam(weights, gradient, first, second, step);
    }
    let first = ((first * step.beta1)? + (gradient * (1.0 - step.beta1))?)?;
    let second = ((second * step.beta2)? + (gradient.sqr()? * (1.0 - step.beta2))?)?;
    let denominator = ((&second * step.second_scale)?.sqrt()? + step.eps)?;
    let update = ((&first * step.first_scale)? / denominator)?;
    let weights = ((weights * step.keep)? - update)?;
    Ok([weights, first, second])
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::random;
    use super::*;

    const STEP: AdamStep = AdamStep {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-3,
        first_scale: 0.02,
        second_scale: 1.25,
        keep: 0.9,
    };

    #[test]
    fn the_kernel_agrees_with_the_chain() {
        // Around the width of a task, and enough for several threads.
        for rows in [1, 7, 4096, 40_000] {
            let inputs: [Tensor; 4] = std::array::from_fn(|i| {
                let numbers = random(&[2, rows], i as u64 + 1);
                // A mean of squares is not negative.
                if i == 3 {
                    numbers.sqr().unwrap()
                } else {
                    numbers
                }
            });
            let run = |lay: fn(&Tensor) -> Tensor| {
                let [weights, gradient, first, second] = inputs.each_ref().map(lay);
                adam(&weights, &gradient, &first, &second, &STEP).unwrap()
            };
            let kernel = run(Tensor::clone);
            // A transposed view takes the chain.
            let chain = run(|x| x.t().unwrap().contiguous().unwrap().t().unwrap());
            for (kernel, chain) in kernel.iter().zip(&chain) {
                let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(numbers(kernel), numbers(chain), "{rows}");
            }
        }
    }

    #[test]
    fn lengths_that_differ_are_errors() {
        let (a, b) = (random(&[5], 1), random(&[6], 2));
        assert!(adam(&a, &b, &a, &a, &STEP).is_err());
        assert!(adam(&a, &a, &a, &b, &STEP).is_err());
        assert!(adam(&b, &a, &a, &a, &STEP).is_err());
    }
}
