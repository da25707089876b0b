//! The choice of a token where the logits are, so that they need not come to the host.

#[cfg(feature = "cuda")]
use crate::backend::kernels;
use candle_core::{Result, Tensor};

/// The most likely token, the lowest id on ties, and its log-probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MostLikely {
    pub token: u32,
    pub logprob: f32,
}

impl MostLikely {
    /// That of logits in `f32` of shape (1, vocabulary). None where the device has no kernel for it, and where
    /// logits are not numbers.
    ///
    /// # Errors
    ///
    /// When the device fails.
    #[cfg_attr(
        not(feature = "cuda"),
        allow(clippy::unnecessary_wraps, reason = "what fails is a kernel")
    )]
    pub fn of(logits: &Tensor) -> Result<Option<Self>> {
        #[cfg(feature = "cuda")]
        if logits.device().is_cuda() && logits.dim(0)? == 1 && logits.is_contiguous() {
            let (token, logit, sum) = kernels::cuda::most_likely(logits)?;
            // The log-probability of the largest: its exponential is 1 of the sum.
            let is_found = logit.is_finite() && sum.is_finite() && sum > 0.0;
            return Ok(is_found.then(|| Self {
                token,
                logprob: -sum.ln(),
            }));
        }
        let _ = logits;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::random;
    use super::*;
    use crate::backend::testing::device;

    #[test]
    fn it_is_the_largest_of_logits_that_are_numbers() {
        let device = device();
        for count in [1usize, 7, 1024, 9001] {
            let mut logits = random(&[count], 3).to_vec1::<f32>().unwrap();
            let expected = count / 2;
            logits[expected] = 4.0;
            logits[count - 1] = 4.0;
            let of = |logits: &[f32]| {
                let logits = Tensor::new(logits, device).unwrap().unsqueeze(0).unwrap();
                MostLikely::of(&logits).unwrap()
            };
            let sum: f64 = logits.iter().map(|&x| f64::from(x - 4.0).exp()).sum();
            let found = of(&logits);
            assert_eq!(found.is_some(), device.is_cuda());
            if let Some(found) = found {
                assert_eq!(found.token as usize, expected);
                assert!(
                    (f64::from(found.logprob) + sum.ln()).abs() < 1e-5,
                    "{found:?} {sum}"
                );
            }
            for none in [f32::NAN, f32::INFINITY] {
                logits[count / 3] = none;
                assert_eq!(of(&logits), None);
            }
            assert_eq!(of(&vec![f32::NEG_INFINITY; count]), None);
        }
    }
}
