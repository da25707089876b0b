//! `x Wᵀ` for rows in eight bits, straight from the blocks, in whole numbers.
//!
//! Over a group of weights with codes q, a scale s and a bias b, and activations with codes p and a scale t,
//! the sum is s t Σ q p + b Σ x. Σ q p is exact.

use super::bytes::Bytes;
#[cfg(target_arch = "x86_64")]
use super::bytes::{AvxVnni, Maddubs, Ymm};
use super::codes::{Codes, UNIT};
use super::lanes::Lanes;
use super::types;
use super::unpack::{Bias, Small, Span, Super};
#[cfg(target_arch = "x86_64")]
use super::wide;
use crate::backend::ops::blocks::BlockType;
use std::ops::Range;

/// The outputs `outputs` of each row of `x`, into a slice of `y` for each: those of `x Wᵀ` for a matrix whose
/// blocks are `weight`, in rows of the width of `x`.
///
/// It reads the blocks once for every four rows of `x`, allocates nothing and starts no thread.
///
/// What does not fit is left as it was: outputs beyond the last row of the matrix, and those without a place
/// in `y`.
pub(in crate::backend) fn dot_rows(
    kind: BlockType,
    weight: &[u8],
    outputs: Range<usize>,
    x: &Codes,
    y: &mut [&mut [f32]],
) {
    let bytes = kind.row_bytes(x.width());
    let start = outputs.start.saturating_mul(bytes);
    let weight = weight.get(start..).unwrap_or_default();
    let weight = &weight[..weight.len().min(outputs.len().saturating_mul(bytes))];
    if weight.is_empty() {
        return;
    }
    for (four, y) in y.chunks_mut(4).enumerate() {
        let rows = std::array::from_fn(|row| x.row(4 * four + row));
        Part {
            bytes,
            weight,
            rows,
        }
        .product(kind, y);
    }
}

/// A row of activations.
#[derive(Clone, Copy, Default)]
pub(super) struct Row<'a> {
    codes: &'a [[i8; UNIT]],
    scales: &'a [f32],
    sums: &'a [f32],
    half_sums: &'a [[f32; 2]],
    fours: &'a [[i32; 8]],
}

impl Codes {
    /// A row; beyond the last one it is empty.
    #[inline(always)]
    fn row(&self, row: usize) -> Row<'_> {
        fn part<T>(all: &[T], row: usize, len: usize) -> &[T] {
            all.get(row * len..(row + 1) * len).unwrap_or_default()
        }
        Row {
            codes: part(&self.bytes, row, self.units),
            scales: part(&self.scales, row, self.units),
            sums: part(&self.sums, row, self.units),
            half_sums: part(&self.half_sums, row, self.units),
            fours: part(&self.fours, row, self.units),
        }
    }
}

/// Rows of a matrix and up to four of activations.
struct Part<'a> {
    /// Of a row of the matrix.
    bytes: usize,
    weight: &'a [u8],
    rows: [Row<'a>; 4],
}

impl Part<'_> {
    /// The products of as many rows as `y` has.
    fn product(&self, kind: BlockType, y: &mut [&mut [f32]]) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                #[allow(unsafe_code, reason = "features that only some processors have")]
                // SAFETY: this processor has the features of each function.
                return unsafe {
                    if wide::is_there() {
                        wide::product(kind, self.weight, self.bytes, &self.rows, y);
                    } else if is_x86_feature_detected!("avxvnni") {
                        self.product_avx_vnni(kind, y);
                    } else {
                        self.product_avx2(kind, y);
                    }
                };
            }
        }
        self.product_of_type::<[u8; 32]>(kind, y);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    fn product_avx_vnni(&self, kind: BlockType, y: &mut [&mut [f32]]) {
        self.product_of_type::<Ymm<AvxVnni>>(kind, y);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn product_avx2(&self, kind: BlockType, y: &mut [&mut [f32]]) {
        self.product_of_type::<Ymm<Maddubs>>(kind, y);
    }

    #[inline(always)]
    fn product_of_type<B: Bytes>(&self, kind: BlockType, y: &mut [&mut [f32]]) {
        match kind {
            BlockType::Q4_0 => self.small::<B, types::Q4_0, _>(y),
            BlockType::Q4_1 => self.small::<B, types::Q4_1, _>(y),
            BlockType::Q5_0 => self.small::<B, types::Q5_0, _>(y),
            BlockType::Q5_1 => self.small::<B, types::Q5_1, _>(y),
            BlockType::Q8_0 => self.small::<B, types::Q8_0, _>(y),
            BlockType::Q2K => self.large::<B, types::Q2K, _, _>(y),
            BlockType::Q3K => self.large::<B, types::Q3K, _, _>(y),
            BlockType::Q4K => self.large::<B, types::Q4K, _, _>(y),
            BlockType::Q5K => self.large::<B, types::Q5K, _, _>(y),
            BlockType::Q6K => self.large::<B, types::Q6K, _, _>(y),
        }
    }

    #[inline(always)]
    fn small<B: Bytes, T: Small<BYTES>, const BYTES: usize>(&self, y: &mut [&mut [f32]]) {
        match y.len() {
            1 => self.small_rows::<B, T, BYTES, 1, 4>(y),
            2 => self.small_rows::<B, T, BYTES, 2, 2>(y),
            _ => self.small_rows::<B, T, BYTES, 4, 1>(y),
        }
    }

    #[inline(always)]
    fn large<B: Bytes, T: Super<BYTES, GROUPS>, const BYTES: usize, const GROUPS: usize>(
        &self,
        y: &mut [&mut [f32]],
    ) {
        match y.len() {
            1 => self.large_rows::<B, T, BYTES, GROUPS, 1, 4>(y),
            2 => self.large_rows::<B, T, BYTES, GROUPS, 2, 2>(y),
            _ => self.large_rows::<B, T, BYTES, GROUPS, 4, 1>(y),
        }
    }

    #[inline(always)]
    fn small_rows<
        B: Bytes,
        T: Small<BYTES>,
        const BYTES: usize,
        const ROWS: usize,
        const PARTS: usize,
    >(
        &self,
        y: &mut [&mut [f32]],
    ) {
        for (output, weight) in self.weight.chunks_exact(self.bytes).enumerate() {
            let (eights, rest) = weight.as_chunks::<BYTES>().0.as_chunks::<8>();
            let mut sums = [Sums::<B::Sums, PARTS>::new(); ROWS];
            for (index, blocks) in eights.iter().enumerate() {
                let span = T::span::<B, 8>(blocks);
                for (sums, x) in sums.iter_mut().zip(&self.rows) {
                    if let Some(x) = x.units::<8>(8 * index) {
                        sums.add(&span, x, x.sums, T::BIAS);
                    }
                }
            }
            for (index, block) in rest.iter().enumerate() {
                let span = T::span::<B, 1>(std::array::from_ref(block));
                for (sums, x) in sums.iter_mut().zip(&self.rows) {
                    if let Some(x) = x.units::<1>(8 * eights.len() + index) {
                        sums.add(&span, x, x.sums, T::BIAS);
                    }
                }
            }
            write(y, output, sums.map(|sums| sums.total(T::BIAS)));
        }
    }

    #[inline(always)]
    fn large_rows<
        B: Bytes,
        T: Super<BYTES, GROUPS>,
        const BYTES: usize,
        const GROUPS: usize,
        const ROWS: usize,
        const PARTS: usize,
    >(
        &self,
        y: &mut [&mut [f32]],
    ) {
        for (output, weight) in self.weight.chunks_exact(self.bytes).enumerate() {
            let mut sums = [Sums::<B::Sums, PARTS>::new(); ROWS];
            for (index, block) in weight.as_chunks().0.iter().enumerate() {
                let span = T::span::<B>(block);
                for (sums, x) in sums.iter_mut().zip(&self.rows) {
                    if let Some(x) = x.units::<8>(8 * index) {
                        sums.add(&span, x, x.sums_of(), T::BIAS);
                    }
                }
            }
            write(y, output, sums.map(|sums| sums.total(T::BIAS)));
        }
    }
}

#[inline(always)]
pub(super) fn write<const ROWS: usize>(y: &mut [&mut [f32]], output: usize, sums: [f32; ROWS]) {
    for (y, sum) in y.iter_mut().zip(sums) {
        if let Some(y) = y.get_mut(output) {
            *y = sum;
        }
    }
}

/// Some units of a row of activations.
#[derive(Clone, Copy)]
pub(super) struct Units<'a, const UNITS: usize> {
    pub codes: &'a [[i8; UNIT]; UNITS],
    pub scales: &'a [f32; UNITS],
    pub sums: &'a [f32; UNITS],
    pub half_sums: &'a [[f32; 2]; UNITS],
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "instructions of one kind of processors need them")
    )]
    pub fours: &'a [[i32; 8]; UNITS],
}

impl<'a, const UNITS: usize> Units<'a, UNITS> {
    /// The sums of groups: of units, or of their halves where there are twice as many.
    #[inline(always)]
    fn sums_of<const GROUPS: usize>(&self) -> &'a [f32; GROUPS] {
        let sums = if GROUPS == UNITS {
            self.sums.as_slice()
        } else {
            self.half_sums.as_flattened()
        };
        sums.first_chunk().unwrap_or(&[0.0; GROUPS])
    }
}

impl<'a> Row<'a> {
    #[inline(always)]
    pub(super) fn units<const UNITS: usize>(&self, start: usize) -> Option<Units<'a, UNITS>> {
        Some(Units {
            codes: self.codes.get(start..)?.first_chunk()?,
            scales: self.scales.get(start..)?.first_chunk()?,
            sums: self.sums.get(start..)?.first_chunk()?,
            half_sums: self.half_sums.get(start..)?.first_chunk()?,
            fours: self.fours.get(start..)?.first_chunk()?,
        })
    }
}

/// The sum over a row so far, in parts that do not wait for each other.
#[derive(Clone, Copy)]
struct Sums<L, const PARTS: usize> {
    scaled: [L; PARTS],
    biased: L,
    /// Of what is less than eight groups.
    biased_rest: f32,
}

impl<L: Lanes, const PARTS: usize> Sums<L, PARTS> {
    #[inline(always)]
    fn new() -> Self {
        Self {
            scaled: [L::repeat(0.0); PARTS],
            biased: L::repeat(0.0),
            biased_rest: 0.0,
        }
    }

    #[inline(always)]
    fn add<B: Bytes<Sums = L>, const UNITS: usize, const GROUPS: usize>(
        &mut self,
        span: &Span<B, UNITS, GROUPS>,
        x: Units<UNITS>,
        sums: &[f32; GROUPS],
        bias: Bias,
    ) {
        for unit in 0..UNITS {
            let (codes, x_codes, x_scale) = (span.codes[unit], &x.codes[unit], x.scales[unit]);
            let products = match bias {
                Bias::None => codes.dot_signed(x_codes),
                _ => codes.dot(x_codes),
            };
            let scale = if GROUPS == UNITS {
                L::repeat(span.scales[unit] * x_scale)
            } else {
                let [a, b] = [span.scales[2 * unit], span.scales[2 * unit + 1]];
                L::halves(a, b).times(L::repeat(x_scale))
            };
            let total = &mut self.scaled[unit % PARTS];
            *total = products.times_plus(scale, *total);
        }
        let factors = match bias {
            Bias::None => return,
            Bias::Offset(_) => &span.scales,
            Bias::Own => &span.biases,
        };
        let ((factors, factors_rest), (sums, sums_rest)) = (factors.as_chunks(), sums.as_chunks());
        for (factors, sums) in factors.iter().zip(sums) {
            self.biased = L::new(factors).times_plus(L::new(sums), self.biased);
        }
        for (factor, sum) in factors_rest.iter().zip(sums_rest) {
            self.biased_rest += factor * sum;
        }
    }

    #[inline(always)]
    fn total(self, bias: Bias) -> f32 {
        let mut scaled = L::repeat(0.0);
        for part in self.scaled {
            scaled = scaled.plus(part);
        }
        let scaled: f32 = scaled.numbers().iter().sum();
        let biased = || self.biased.numbers().iter().sum::<f32>() + self.biased_rest;
        match bias {
            Bias::None => scaled,
            Bias::Offset(offset) => scaled - f32::from(offset) * biased(),
            Bias::Own => scaled + biased(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::kernels::blocks::decode::decode_all;
    use crate::backend::ops::blocks::BlockWeight;
    use crate::backend::ops::gradcheck::random;

    fn numbers(shape: &[usize], seed: u64) -> Vec<f32> {
        let numbers = random(shape, seed).flatten_all().unwrap();
        numbers.to_vec1().unwrap()
    }

    fn blocks(kind: BlockType, output: usize, input: usize) -> Vec<u8> {
        let weight = BlockWeight::quantize(&random(&[output, input], 2), kind).unwrap();
        weight.bytes().unwrap().into_owned()
    }

    /// The sum over a row, and that of the sizes of what is added up.
    fn exact(x: impl Iterator<Item = f64>, weight: &[f32]) -> (f64, f64) {
        x.zip(weight).fold((0.0, 0.0), |(sum, size), (x, w)| {
            let product = x * f64::from(*w);
            (sum + product, size + product.abs())
        })
    }

    /// Products with the codes are exact up to the rounding of `f32`; those with the numbers are off by as much
    /// as each number is, which is 1/254 of the largest of its 32.
    #[test]
    fn products_are_within_what_codes_are_off_by() {
        for kind in BlockType::ALL {
            // Of one block, of some beside eights, and of more.
            let len = kind.block_len();
            for (output, input) in [(1, len), (2, 7 * len), (5, 768), (3, 1792)] {
                let weight = blocks(kind, output, input);
                let dense = decode_all(kind, &weight, input);
                for rows in [1, 2, 3, 4, 7] {
                    let x = numbers(&[rows, input], 1);
                    let mut codes = Codes::default();
                    codes.quantize(&x, input);
                    let mut y = vec![f32::NAN; rows * output];
                    let mut places: Vec<_> = y.chunks_exact_mut(output).collect();
                    dot_rows(kind, &weight, 0..output, &codes, &mut places);
                    for (index, y) in y.into_iter().enumerate() {
                        let (row, dense) = (index / output, &dense[index % output * input..]);
                        let rounded = codes.row(row).codes.iter().zip(codes.row(row).scales);
                        let rounded = rounded.flat_map(|(codes, scale)| {
                            codes.map(|code| f64::from(code) * f64::from(*scale))
                        });
                        let (expected, size) = exact(rounded, &dense[..input]);
                        let off = (f64::from(y) - expected).abs();
                        assert!(off <= 2e-6 * size, "{kind:?}: {y} {expected}");
                        let x = x[row * input..][..input].iter().map(|x| f64::from(*x));
                        let (expected, _) = exact(x, &dense[..input]);
                        let steps = codes.row(row).scales.iter().zip(dense.chunks(32));
                        let bound: f64 = steps
                            .map(|(scale, dense)| {
                                let size: f32 = dense.iter().map(|x| x.abs()).sum();
                                f64::from(scale / 2.0 * size)
                            })
                            .sum();
                        let off = (f64::from(y) - expected).abs();
                        assert!(off <= bound + 2e-6 * size, "{kind:?}: {y} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_way_in_which_processors_do_it_agrees() {
        fn of(
            kind: BlockType,
            weight: &[u8],
            codes: &Codes,
            product: impl Fn(&Part, &mut [&mut [f32]]),
        ) -> Vec<f32> {
            let part = Part {
                bytes: kind.row_bytes(codes.width()),
                weight,
                rows: std::array::from_fn(|row| codes.row(row)),
            };
            let mut y = [[f32::NAN; 3]; 4];
            let mut places: Vec<_> = y.iter_mut().map(<[f32; 3]>::as_mut_slice).collect();
            product(&part, &mut places[..codes.rows()]);
            y[..codes.rows()].concat()
        }
        for kind in BlockType::ALL {
            let weight = blocks(kind, 3, 768);
            for rows in 1..=4 {
                let mut codes = Codes::default();
                codes.quantize(&numbers(&[rows, 768], 1), 768);
                let expected = of(kind, &weight, &codes, |part, y| {
                    part.product_of_type::<[u8; 32]>(kind, y);
                });
                let agree = |name: &str, found: &[f32]| {
                    for (a, b) in found.iter().zip(&expected) {
                        assert!((a - b).abs() <= 2e-5, "{name}, {kind:?}: {a} {b}");
                    }
                };
                agree(
                    "chosen",
                    &of(kind, &weight, &codes, |part, y| part.product(kind, y)),
                );
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code, reason = "features that only some processors have")]
                {
                    let vectors = is_x86_feature_detected!("avx2")
                        && is_x86_feature_detected!("fma")
                        && is_x86_feature_detected!("f16c");
                    if vectors {
                        // SAFETY: this processor has the features.
                        let found = of(kind, &weight, &codes, |part, y| unsafe {
                            part.product_avx2(kind, y);
                        });
                        agree("avx2", &found);
                    }
                    if vectors && is_x86_feature_detected!("avxvnni") {
                        // SAFETY: this processor has the features.
                        let found = of(kind, &weight, &codes, |part, y| unsafe {
                            part.product_avx_vnni(kind, y);
                        });
                        agree("avxvnni", &found);
                    }
                }
            }
        }
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "what is copied or left as it was")]
    fn what_does_not_fit_is_left_out() {
        let weight = blocks(BlockType::Q4_0, 5, 64);
        let mut codes = Codes::default();
        codes.quantize(&numbers(&[2, 64], 1), 64);
        let mut all = [[0f32; 5]; 2];
        let [a, b] = &mut all;
        dot_rows(BlockType::Q4_0, &weight, 0..5, &codes, &mut [a, b]);
        let mut some = [[7f32; 4]; 3];
        let [a, b, c] = &mut some;
        // Two outputs more than there are, one place less, and a row more.
        dot_rows(
            BlockType::Q4_0,
            &weight,
            2..7,
            &codes,
            &mut [a, &mut b[..1], c],
        );
        assert_eq!(some[0], [all[0][2], all[0][3], all[0][4], 7.0]);
        assert_eq!(some[1], [all[1][2], 7.0, 7.0, 7.0]);
        let mut none = [7f32; 2];
        let past = 5..7;
        dot_rows(BlockType::Q4_0, &weight, past, &codes, &mut [&mut none]);
        dot_rows(BlockType::Q4_0, &[], 0..2, &codes, &mut [&mut none]);
        dot_rows(
            BlockType::Q4_0,
            &weight,
            0..2,
            &Codes::default(),
            &mut [&mut none],
        );
        assert_eq!(none, [7.0; 2]);
    }
}
