//! Activations in eight bits, for products with codes of weights in whole numbers.

/// Numbers that share a scale.
pub(in crate::backend) const UNIT: usize = 32;

/// Below this all is as good as zero, and its inverse may be too large for an `f32`.
pub(super) const SMALLEST: f32 = 1e-30;

/// Rows of activations as codes of eight bits, with a scale for each 32 numbers.
///
/// A number is code · scale, and off by at most half a scale, which is 1/254 of the largest of its 32.
/// The memory is kept from one use to the next.
#[derive(Debug, Default)]
pub(in crate::backend) struct Codes {
    pub(super) units: usize,
    pub(super) bytes: Vec<[i8; UNIT]>,
    pub(super) scales: Vec<f32>,
    /// The sums of the 32 numbers of each unit, and of its two halves: weights with a bias need them, and codes
    /// that count from elsewhere than zero.
    pub(super) sums: Vec<f32>,
    pub(super) half_sums: Vec<[f32; 2]>,
    /// The sums of four neighbouring codes each, less than zero instead of more.
    pub(super) fours: Vec<[i32; 8]>,
}

impl Codes {
    /// The numbers in a row.
    pub(in crate::backend) fn width(&self) -> usize {
        self.units * UNIT
    }

    /// Makes room for `rows` rows of `width` numbers, so that [`quantize`](Self::quantize) of no more of them
    /// allocates nothing.
    pub(in crate::backend) fn reserve(&mut self, rows: usize, width: usize) {
        let count = rows * (width / UNIT);
        self.bytes.reserve(count.saturating_sub(self.bytes.len()));
        self.scales.reserve(count.saturating_sub(self.scales.len()));
        self.sums.reserve(count.saturating_sub(self.sums.len()));
        (self.half_sums).reserve(count.saturating_sub(self.half_sums.len()));
        self.fours.reserve(count.saturating_sub(self.fours.len()));
    }

    /// Replaces what is there by rows of `width` numbers, a multiple of 32; what is left of `x` after the last
    /// whole row is left out.
    ///
    /// Where a number is not finite, all 32 products with its unit are no numbers.
    pub(in crate::backend) fn quantize(&mut self, x: &[f32], width: usize) {
        self.units = width / UNIT;
        let rows = x.len().checked_div(width).unwrap_or(0);
        let x = &x[..rows * width];
        self.bytes.clear();
        self.scales.clear();
        self.sums.clear();
        self.half_sums.clear();
        self.fours.clear();
        self.reserve(rows, width);
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                #[allow(unsafe_code, reason = "a feature that only some processors have")]
                // SAFETY: this processor has the feature.
                return unsafe { self.extend_avx2(x) };
            }
        }
        self.extend(x);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn extend_avx2(&mut self, x: &[f32]) {
        self.extend(x);
    }

    #[inline(always)]
    fn extend(&mut self, x: &[f32]) {
        for unit in x.as_chunks::<UNIT>().0 {
            let (codes, scale) = quantize_unit(unit);
            let mut fours = [0i16; 8];
            for (four, codes) in fours.iter_mut().zip(codes.as_chunks::<4>().0) {
                *four = codes.iter().map(|code| i16::from(*code)).sum();
            }
            let mut halves = [0f32; 2];
            for (half, fours) in halves.iter_mut().zip(fours.as_chunks::<4>().0) {
                *half = f32::from(fours.iter().sum::<i16>()) * scale;
            }
            self.bytes.push(codes);
            self.scales.push(scale);
            self.sums.push(halves[0] + halves[1]);
            self.half_sums.push(halves);
            self.fours.push(fours.map(|four| -i32::from(four)));
        }
    }
}

#[inline(always)]
pub(super) fn quantize_unit(x: &[f32; UNIT]) -> ([i8; UNIT], f32) {
    /// Adding it leaves the nearest whole number in the lowest bits.
    const MAGIC: f32 = 12_582_912.0;
    // As whole numbers, of which those of infinities and of what is no number are the largest.
    let mut largest = [0u32; 8];
    for eight in x.as_chunks::<8>().0 {
        for (largest, x) in largest.iter_mut().zip(eight) {
            *largest = (*largest).max(x.abs().to_bits());
        }
    }
    let largest = f32::from_bits(largest.into_iter().fold(0, u32::max));
    if !largest.is_finite() {
        return ([0; UNIT], f32::NAN);
    }
    if largest < SMALLEST {
        return ([0; UNIT], 0.0);
    }
    let inverse = 127.0 / largest;
    let codes = x.map(|x| (x * inverse + MAGIC).to_bits().to_le_bytes()[0].cast_signed());
    (codes, largest / 127.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ops::gradcheck::random;

    impl Codes {
        pub(in super::super) fn rows(&self) -> usize {
            self.bytes.len().checked_div(self.units).unwrap_or(0)
        }
    }

    fn quantized(x: &[f32], width: usize) -> Codes {
        let mut codes = Codes::default();
        codes.quantize(x, width);
        codes
    }

    #[test]
    fn a_number_is_off_by_at_most_half_a_scale() {
        let mut x: Vec<f32> = random(&[3 * 96], 1)
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        // Units of large and small numbers, of none, and of numbers that have no inverse.
        x[32..64].fill(0.0);
        for (x, factor) in x
            .chunks_exact_mut(32)
            .zip([1.0, 1.0, 1e30, 1e-20, 1e-38, 5e-45])
        {
            for x in x {
                *x *= factor;
            }
        }
        let found = quantized(&x, 96);
        assert_eq!((found.rows(), found.width()), (3, 96));
        for (unit, x) in x.chunks_exact(32).enumerate() {
            let (codes, scale) = (&found.bytes[unit], f64::from(found.scales[unit]));
            let mut halves = [0f64; 2];
            for (i, (code, x)) in codes.iter().zip(x).enumerate() {
                let number = f64::from(*code) * scale;
                // The largest number has the code 127, and so the scale its 127th part.
                let bound = scale.max(1e-30 / 127.0) * 127.0 / 254.0 * 1.000_01;
                assert!((number - f64::from(*x)).abs() <= bound, "{number} {x}");
                halves[i / 16] += number;
            }
            let close = |a: f32, b: f64| (f64::from(a) - b).abs() <= 1e-6 * b.abs();
            assert!(close(found.sums[unit], halves[0] + halves[1]));
            assert!(close(found.half_sums[unit][0], halves[0]));
            assert!(close(found.half_sums[unit][1], halves[1]));
        }
        assert!(found.bytes[0].iter().any(|code| code.unsigned_abs() == 127));
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1f32; 64];
            x[40] = number;
            let found = quantized(&x, 64);
            assert!(found.scales[0].is_finite() && found.scales[1].is_nan());
            assert!(found.sums[1].is_nan() && found.half_sums[1][0].is_nan());
        }
    }

    #[test]
    fn memory_is_used_again() {
        let x: Vec<f32> = random(&[640], 1).flatten_all().unwrap().to_vec1().unwrap();
        let mut codes = Codes::default();
        codes.reserve(10, 64);
        let place = codes.bytes.as_ptr();
        for width in [64, 32, 640] {
            codes.quantize(&x, width);
            assert_eq!((codes.rows(), codes.bytes.as_ptr()), (640 / width, place));
        }
        codes.quantize(&[], 64);
        assert_eq!(codes.rows(), 0);
        codes.quantize(&x, 0);
        assert_eq!(codes.rows(), 0);
    }
}
