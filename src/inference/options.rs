//! The settings of token sampling.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How the next token is chosen.
///
/// The steps are applied in the order of Hugging Face transformers: temperature, top-k, top-p,
/// softmax. The default is greedy decoding.
///
/// # Example
///
/// ```
/// use metal_candle::inference::SamplingOptions;
///
/// let options = SamplingOptions {
///     temperature: 0.7,
///     top_p: 0.9,
///     ..SamplingOptions::default()
/// };
/// assert!(options.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// Divisor of the logits: below 1 sharpens, above 1 flattens the distribution. 0 is greedy
    /// decoding: always the most likely token, the lowest id on ties. Finite and at least 0.
    pub temperature: f64,
    /// Number of most likely tokens to choose from. 0 is off.
    pub top_k: usize,
    /// Probability mass to choose from: the smallest set of most likely tokens whose sum reaches
    /// it. Above 0, up to 1; 1 is off.
    pub top_p: f64,
    /// Seed of the random generator: the same seed and logits give the same tokens.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
        }
    }
}

impl SamplingOptions {
    /// Checks that every option is in its range.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] with the name and range of the first option that is not.
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(Error::option(
                "temperature",
                self.temperature,
                "a finite number of at least 0",
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::option(
                "top_p",
                self.top_p,
                "a number above 0, up to 1",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_named() {
        let base = SamplingOptions::default;
        assert!(base().validate().is_ok());
        let check = |options: SamplingOptions, name| {
            let error = options.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        };
        for temperature in [-0.1, f64::NAN, f64::INFINITY] {
            check(
                SamplingOptions {
                    temperature,
                    ..base()
                },
                "`temperature`",
            );
        }
        for top_p in [0.0, -1.0, 1.01, f64::NAN] {
            check(SamplingOptions { top_p, ..base() }, "`top_p`");
        }
    }
}
