//! From logits to weights: probabilities that still lack their common divisor.

use super::ranked::{Ranked, sum};

/// Exponents below this one are those of tokens that are never drawn: 2^-126 is the lowest weight.
pub(super) const LOWEST: f32 = -126.0;

/// Gives a logit its weight: its probability, at a temperature, relative to the highest one.
#[derive(Debug, Clone, Copy)]
pub(in crate::inference) struct Scale {
    highest: f32,
    factor: f32,
}

impl Scale {
    /// `highest` is the highest logit, `temperature` above 0.
    #[allow(clippy::cast_possible_truncation)] // Rounding to f32 is meant.
    pub fn new(highest: f32, temperature: f64) -> Self {
        let factor = (std::f64::consts::LOG2_E / temperature) as f32;
        Self {
            highest,
            // Bounded, so that 0 times it is 0 and that masked tokens times it are masked.
            factor: factor.clamp(f32::MIN_POSITIVE, f32::MAX),
        }
    }

    /// The binary logarithm of the weight of a logit: 0 for the highest one, negative for others.
    #[inline]
    pub fn exponent(self, logit: f32) -> f32 {
        (logit - self.highest) * self.factor
    }

    /// The weight of a logit: 1 for the highest one, 0 for a masked one.
    #[inline]
    pub fn weight(self, logit: f32) -> f32 {
        exp2(self.exponent(logit))
    }

    /// The weight of a token.
    #[inline]
    pub(super) fn weight_of(self, token: Ranked) -> f32 {
        self.weight(token.logit())
    }

    /// The weights of the tokens together.
    pub(super) fn mass(self, tokens: &[Ranked]) -> f64 {
        sum(tokens, |token| self.weight_of(*token))
    }
}

/// `2^x` for `x` up to 0, within 3 parts in 10 million; 0 below -126.5, and 1 at 0.
///
/// `x = n + f` with integer `n` and `|f| <= 1/2`: `2^f` by the polynomial of degree 5 that is 1 at 0
/// and has the least relative error (9.2e-8), `2^n` by its exponent bits. It has two thirds of the
/// operations of the exponential function of the kernels, which a pass over the vocabulary notices.
#[inline]
#[allow(clippy::excessive_precision)] // More digits than f32 has, so that the rounding is visible.
fn exp2(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to an integer.
    const BIAS: u32 = 127;
    // At -127 the exponent bits are 0, and so is their number.
    let x = if x > -127.0 { x } else { -127.0 };
    let rounded = x + ROUND;
    let f = x - (rounded - ROUND);
    let p = 1.326_466_524e-3;
    let p = p * f + 9.671_512_595e-3;
    let p = p * f + 5.550_733_893e-2;
    let p = p * f + 2.402_224_209e-1;
    let p = p * f + 6.931_469_776e-1;
    let p = p * f + 1.0;
    // The low bits of the sum are the integer; the shift leaves them only.
    p * f32::from_bits((rounded.to_bits() << 23).wrapping_add(BIAS << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_exact_enough_and_end_in_zero() {
        let mut x = 0f32;
        while x > LOWEST {
            let expected = f64::from(x).exp2();
            let error = (f64::from(exp2(x)) - expected).abs() / expected;
            assert!(error < 3e-7, "{x}: {error}");
            x -= 0.001_37;
        }
        assert_eq!(exp2(0.0).to_bits(), 1f32.to_bits());
        assert_eq!(exp2(-1.0).to_bits(), 0.5f32.to_bits());
        assert_eq!(exp2(LOWEST).to_bits(), f32::MIN_POSITIVE.to_bits());
        for x in [-127.0, -1e30, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(exp2(x).to_bits(), 0, "{x}");
        }
    }

    #[test]
    fn weights_are_relative_to_the_highest_logit() {
        for temperature in [0.1, 1.0, 7.0] {
            let scale = Scale::new(3.5, temperature);
            assert_eq!(scale.weight(3.5).to_bits(), 1f32.to_bits());
            assert_eq!(scale.weight(f32::NEG_INFINITY).to_bits(), 0);
            let expected = (-1.25 / temperature).exp();
            let found = f64::from(scale.weight(2.25));
            assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn extreme_temperatures_keep_the_highest_and_the_masked() {
        for temperature in [f64::MIN_POSITIVE, f64::MAX] {
            let scale = Scale::new(-2.0, temperature);
            assert_eq!(scale.weight(-2.0).to_bits(), 1f32.to_bits());
            assert_eq!(scale.weight(f32::NEG_INFINITY).to_bits(), 0);
        }
    }
}
