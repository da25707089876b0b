//! The exponential function in a form that compilers vectorise.

/// `e^x` within 2 units in the last place; 0 below -87 and the largest power of 2 above 88.
///
/// `x = n ln 2 + r` with integer `n` and `|r| <= ln 2 / 2`; `e^r` by the polynomial of Cephes
/// (Moshier, 1992), `2^n` by its exponent bits. No branch, no table, no call.
#[inline(always)]
#[allow(
    clippy::excessive_precision,
    clippy::inline_always,
    reason = "the constants are the reference's; it is vectorised where it is called"
)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to an integer, in the lowest bits.
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that the first product is exact.
    let r = (clamped - n * 0.693_359_375) + n * 2.121_944_4e-4;
    let p = 1.987_569_15e-4;
    let p = p * r + 1.398_199_95e-3;
    let p = p * r + 8.333_451_9e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_55e-1;
    let p = p * r + 5.000_000_1e-1;
    // A conversion to an integer would check its range, one number after the other.
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits() - 127);
    let power = f32::from_bits(exponent << 23);
    let result = ((p * r) * r + r + 1.0) * power;
    if x < -87.0 { 0.0 } else { result }
}

/// The largest of a row, taken of so many numbers at once, so that the compiler makes vectors of them.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it is vectorised where it is called")]
pub(super) fn largest<const LANES: usize>(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (largest, &x) in largest.iter_mut().zip(chunk) {
            *largest = if x > *largest { x } else { *largest };
        }
    }
    let all = largest.iter().chain(rest);
    all.fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
}

/// Makes exponentials of a row, less `max`, and gives their sum, of so many sums at once: long rows lose no
/// digits so.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it is vectorised where it is called")]
pub(super) fn exponentials<const LANES: usize>(row: &mut [f32], max: f32) -> f32 {
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    let mut sums = [0f32; LANES];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *x = exp(*x - max);
            *sum += *x;
        }
    }
    let mut sum: f32 = sums.iter().sum();
    for x in rest {
        *x = exp(*x - max);
        sum += *x;
    }
    sum
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it is vectorised where it is called")]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_as_exact_as_f32_allows() {
        let mut x = -86.9f32;
        while x < 88.0 {
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2.5e-7, "{x}: {error}");
            x += 0.0137;
        }
        assert_eq!(exp(-1e30).to_bits(), 0);
        assert_eq!(exp(0.0).to_bits(), 1f32.to_bits());
        assert!(exp(1e30).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }
}
