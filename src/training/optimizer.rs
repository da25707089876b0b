//! AdamW over one flat vector of weights.

use crate::error::{Error, Result};
use candle_core::Tensor;

/// The settings of AdamW (Loshchilov & Hutter, 2017, <https://arxiv.org/abs/1711.05101>), with the
/// defaults of PyTorch.
///
/// # Example
///
/// ```
/// use metal_candle::training::AdamWOptions;
///
/// assert_eq!(AdamWOptions::default().weight_decay, 0.01);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    /// Decay of the mean of gradients, in [0, 1). Default 0.9.
    pub beta1: f64,
    /// Decay of the mean of squared gradients, in [0, 1). Default 0.999.
    pub beta2: f64,
    /// Added to the denominator, above 0. Default 1e-8.
    pub eps: f64,
    /// Share of each weight taken away per step and unit of learning rate, 0 or more. Default 0.01.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
        }
    }
}

impl AdamWOptions {
    /// Checks the ranges of all fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the field and its range.
    pub fn validate(&self) -> Result<()> {
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::option(name, beta, "0 or more and below 1"));
            }
        }
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return Err(Error::option("eps", self.eps, "a number above 0"));
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(Error::option(
                "weight_decay",
                self.weight_decay,
                "0 or more",
            ));
        }
        Ok(())
    }
}

/// AdamW and its state, in `f32`.
#[derive(Debug, Clone)]
pub(crate) struct AdamW {
    options: AdamWOptions,
    /// Mean of gradients.
    pub first: Tensor,
    /// Mean of squared gradients.
    pub second: Tensor,
    /// Steps taken.
    pub steps: usize,
}

impl AdamW {
    pub(crate) fn new(options: AdamWOptions, weights: &Tensor) -> Result<Self> {
        Ok(Self {
            options,
            first: weights.zeros_like()?,
            second: weights.zeros_like()?,
            steps: 0,
        })
    }

    /// Continues with the state of an earlier run.
    pub(crate) fn resume(
        options: AdamWOptions,
        first: Tensor,
        second: Tensor,
        steps: usize,
    ) -> Self {
        Self {
            options,
            first,
            second,
            steps,
        }
    }

    /// The weights after one step.
    pub(crate) fn step(
        &mut self,
        weights: &Tensor,
        gradient: &Tensor,
        learning_rate: f64,
    ) -> Result<Tensor> {
        let AdamWOptions {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = self.options;
        let first = ((&self.first * beta1)? + (gradient * (1.0 - beta1))?)?;
        let second = ((&self.second * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
        let steps = self.steps + 1;
        let exponent = i32::try_from(steps).unwrap_or(i32::MAX);
        let first_correction = 1.0 - beta1.powi(exponent);
        let second_correction = 1.0 - beta2.powi(exponent);
        let denominator = ((&second * (1.0 / second_correction))?.sqrt()? + eps)?;
        let update = ((&first * (learning_rate / first_correction))? / denominator)?;
        let decayed = (weights * (1.0 - learning_rate * weight_decay))?;
        let weights = (decayed - update)?;
        (self.first, self.second, self.steps) = (first, second, steps);
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ops::gradcheck::random;
    use crate::backend::testing::{assert_agree, device, read, tolerance};
    use candle_core::{DType, Device};

    /// PyTorch's AdamW, a number at a time in f64.
    fn reference(options: AdamWOptions, mut weight: f64, gradients: &[f64], lr: f64) -> f64 {
        let (mut m, mut v) = (0.0, 0.0);
        for (n, g) in gradients.iter().enumerate() {
            let n = i32::try_from(n).unwrap() + 1;
            weight *= 1.0 - lr * options.weight_decay;
            m = options.beta1 * m + (1.0 - options.beta1) * g;
            v = options.beta2 * v + (1.0 - options.beta2) * g * g;
            let m_hat = m / (1.0 - options.beta1.powi(n));
            let v_hat = v / (1.0 - options.beta2.powi(n));
            weight -= lr * m_hat / (v_hat.sqrt() + options.eps);
        }
        weight
    }

    #[test]
    #[allow(clippy::cast_possible_truncation, reason = "rounding is meant")]
    fn follows_the_reference_steps() {
        let options = AdamWOptions {
            weight_decay: 0.1,
            ..AdamWOptions::default()
        };
        let columns = [[0.5, -0.25, 0.125], [1e-3, 2e-3, -4.0], [0.0, 0.0, 1.0]];
        let start = [1.0, -2.0, 0.5];
        let mut weights = Tensor::new(&[1f32, -2.0, 0.5], device()).unwrap();
        let mut adam = AdamW::new(options, &weights).unwrap();
        for step in 0..3 {
            let gradient: Vec<f32> = columns.iter().map(|g| g[step] as f32).collect();
            let gradient = Tensor::new(gradient, device()).unwrap();
            weights = adam.step(&weights, &gradient, 0.01).unwrap();
        }
        for ((found, start), gradients) in weights
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .zip(start)
            .zip(columns)
        {
            let expected = reference(options, start, &gradients, 0.01);
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6,
                "{found} {expected}"
            );
        }
    }

    #[test]
    fn every_device_takes_the_same_steps() {
        for len in [1, 33, 1025, 6144] {
            let run = |device: &Device| {
                let number = |seed| random(&[len], seed).to_device(device).unwrap();
                let mut weights = number(1);
                let mut adam = AdamW::new(AdamWOptions::default(), &weights).unwrap();
                let start = weights.clone();
                for step in 0..5 {
                    // From large to so small that eps counts, and out of a longer vector.
                    let gradient = Tensor::cat(&[number(9), number(10 + step)], 0).unwrap();
                    let scale = 10f64.powi(-3 * i32::try_from(step).unwrap());
                    let gradient = (gradient.narrow(0, len, len).unwrap() * scale).unwrap();
                    weights = adam.step(&weights, &gradient, 1e-2).unwrap();
                }
                // A step makes new weights; the old ones may still be in use.
                assert_eq!(read(&start), read(&random(&[len], 1)));
                [
                    ("weights", weights),
                    ("first moment", adam.first),
                    ("second moment", adam.second),
                ]
            };
            for ((what, found), (_, expected)) in run(device()).iter().zip(&run(&Device::Cpu)) {
                let what = format!("{len}: {what}");
                assert_agree(&what, found, expected, tolerance(DType::F32));
            }
        }
    }

    #[test]
    fn options_out_of_range_are_named() {
        let options = AdamWOptions {
            beta2: 1.0,
            ..AdamWOptions::default()
        };
        assert!(
            options
                .validate()
                .unwrap_err()
                .to_string()
                .contains("`beta2`")
        );
        let options = AdamWOptions {
            eps: 0.0,
            ..AdamWOptions::default()
        };
        assert!(
            options
                .validate()
                .unwrap_err()
                .to_string()
                .contains("`eps`")
        );
    }
}
