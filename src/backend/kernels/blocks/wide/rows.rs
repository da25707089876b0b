//! Activations in eight bits, four rows beside each other.

use super::unpack::{Small, Super};
use crate::backend::kernels::blocks::codes::{SMALLEST, UNIT};
use crate::backend::ops::blocks::BlockType;
use std::arch::x86_64::{
    __m128, __m128i, __m512, _mm_add_epi32, _mm_and_ps, _mm_andnot_ps, _mm_blendv_ps,
    _mm_castsi128_ps, _mm_cmplt_ps, _mm_cvtepi32_ps, _mm_cvtsi32_si128, _mm_div_ps, _mm_max_epi32,
    _mm_mul_ps, _mm_permute_ps, _mm_set1_ps, _mm_setzero_si128, _mm_sll_epi32, _mm_storeu_ps,
    _mm_storeu_si128, _mm_sub_epi32, _mm256_add_epi32, _mm256_castsi256_si128,
    _mm256_extracti128_si256, _mm256_max_epi32, _mm512_abs_ps, _mm512_broadcastss_ps,
    _mm512_castps_si512, _mm512_castsi512_si256, _mm512_cvtps_epi32, _mm512_cvtsepi32_epi8,
    _mm512_dpbusd_epi32, _mm512_extracti64x4_epi64, _mm512_inserti32x4, _mm512_loadu_ps,
    _mm512_max_epi32, _mm512_mul_ps, _mm512_permutexvar_epi32, _mm512_set_epi32, _mm512_set1_epi8,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_si512, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

/// Rows beside each other, as many as a tile has.
pub(in super::super) const ROWS: usize = 4;

/// Thirty-two numbers of each of four rows.
#[derive(Clone, Copy, Debug)]
#[repr(align(16))]
pub(in super::super) struct Rows {
    /// Four neighbouring codes of each row, then the next four.
    pub(super) codes: [[i32; ROWS]; UNIT / 4],
    pub(super) scales: [f32; ROWS],
    /// Where the sum of a group begins: what codes that count from below zero make too much, less than zero.
    pub(super) starts: [[i32; ROWS]; 2],
    /// The sums of the numbers of each group.
    pub(super) sums: [[f32; ROWS]; 2],
}

/// Rounds rows of `width` numbers, as [`Codes`](super::super::codes::Codes) does it, for products with blocks of a
/// type; up to four go into each row of units of `to`, and those that are missing are zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in super::super) fn quantize(kind: BlockType, x: &[f32], width: usize, to: &mut [Rows]) {
    by_type!(kind, small, large, x, width, to);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn small<T: Small<BYTES>, const BYTES: usize>(x: &[f32], width: usize, to: &mut [Rows]) {
    rows::<UNIT>(x, width, T::OFFSET, to);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn large<T: Super<BYTES, GROUP>, const BYTES: usize, const GROUP: usize>(
    x: &[f32],
    width: usize,
    to: &mut [Rows],
) {
    rows::<GROUP>(x, width, T::OFFSET, to);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn rows<const GROUP: usize>(x: &[f32], width: usize, offset: u32, to: &mut [Rows]) {
    const ZEROS: &[f32; UNIT] = &[0.0; UNIT];
    for (x, to) in x
        .chunks(ROWS * width)
        .zip(to.chunks_exact_mut(width / UNIT))
    {
        let mut rows = x.chunks_exact(width);
        let rows: [_; ROWS] =
            std::array::from_fn(|_| rows.next().unwrap_or_default().as_chunks().0);
        for (unit, to) in to.iter_mut().enumerate() {
            let x = rows.map(|row| row.get(unit).unwrap_or(ZEROS));
            to.quantize::<GROUP>(x, offset);
        }
    }
}

// SAFETY of all that follows: what is loaded or stored has as many numbers.

impl Rows {
    pub(in super::super) const ZERO: Self = Self {
        codes: [[0; ROWS]; UNIT / 4],
        scales: [0.0; ROWS],
        starts: [[0; ROWS]; 2],
        sums: [[0.0; ROWS]; 2],
    };

    /// A unit of each row, for weights in groups of `GROUP` numbers, which count from `2^offset` below zero, or from
    /// zero.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn quantize<const GROUP: usize>(&mut self, x: [&[f32; UNIT]; ROWS], offset: u32) {
        let mut numbers = [[_mm512_setzero_ps(); 2]; ROWS];
        for (numbers, x) in numbers.iter_mut().zip(x) {
            for (numbers, x) in numbers.iter_mut().zip(x.as_chunks::<16>().0) {
                // SAFETY: as above.
                *numbers = unsafe { _mm512_loadu_ps(x.as_ptr()) };
            }
        }
        let (inverses, scales) = inverses_and_scales(&numbers);
        // SAFETY: as above.
        unsafe { _mm_storeu_ps(self.scales.as_mut_ptr(), scales) };
        let mut sums = [_mm_setzero_si128(); 2];
        for half in 0..2 {
            let mut all = _mm512_setzero_si512();
            all = _mm512_inserti32x4::<0>(
                all,
                codes(numbers[0][half], _mm_permute_ps::<0x00>(inverses)),
            );
            all = _mm512_inserti32x4::<1>(
                all,
                codes(numbers[1][half], _mm_permute_ps::<0x55>(inverses)),
            );
            all = _mm512_inserti32x4::<2>(
                all,
                codes(numbers[2][half], _mm_permute_ps::<0xaa>(inverses)),
            );
            all = _mm512_inserti32x4::<3>(
                all,
                codes(numbers[3][half], _mm_permute_ps::<0xff>(inverses)),
            );
            let turned = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
            let all = _mm512_permutexvar_epi32(turned, all);
            // SAFETY: as above.
            unsafe { _mm512_storeu_si512(self.codes.as_mut_ptr().add(4 * half).cast(), all) };
            // Of each row four sums of four.
            let fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), all);
            let upper = _mm512_extracti64x4_epi64::<1>(fours);
            let twos = _mm256_add_epi32(_mm512_castsi512_si256(fours), upper);
            let upper = _mm256_extracti128_si256::<1>(twos);
            sums[half] = _mm_add_epi32(_mm256_castsi256_si128(twos), upper);
        }
        if GROUP == UNIT {
            sums = [_mm_add_epi32(sums[0], sums[1]), _mm_setzero_si128()];
        }
        for (group, sum) in sums.into_iter().enumerate() {
            let start = if offset == 0 {
                _mm_setzero_si128()
            } else {
                let offset = _mm_cvtsi32_si128(offset.cast_signed());
                _mm_sub_epi32(_mm_setzero_si128(), _mm_sll_epi32(sum, offset))
            };
            let sum = _mm_mul_ps(_mm_cvtepi32_ps(sum), scales);
            // SAFETY: as above.
            unsafe {
                _mm_storeu_si128(self.starts[group].as_mut_ptr().cast(), start);
                _mm_storeu_ps(self.sums[group].as_mut_ptr(), sum);
            }
        }
    }
}

/// Sixteen codes.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn codes(x: __m512, inverse: __m128) -> __m128i {
    let scaled = _mm512_mul_ps(x, _mm512_broadcastss_ps(inverse));
    _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled))
}

/// What makes codes of the numbers of four rows, and numbers of codes.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn inverses_and_scales(numbers: &[[__m512; 2]; ROWS]) -> (__m128, __m128) {
    // As whole numbers, of which those of infinities and of what is no number are the largest.
    let mut sizes = [_mm512_setzero_si512(); ROWS];
    for (size, [low, high]) in sizes.iter_mut().zip(numbers) {
        let (low, high) = (_mm512_abs_ps(*low), _mm512_abs_ps(*high));
        *size = _mm512_max_epi32(_mm512_castps_si512(low), _mm512_castps_si512(high));
    }
    let [a, b, c, d] = sizes;
    let ab = _mm512_max_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_max_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let all = _mm512_max_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let upper = _mm512_extracti64x4_epi64::<1>(all);
    let half = _mm256_max_epi32(_mm512_castsi512_si256(all), upper);
    let upper = _mm256_extracti128_si256::<1>(half);
    let largest = _mm_castsi128_ps(_mm_max_epi32(_mm256_castsi256_si128(half), upper));

    let is_finite = _mm_cmplt_ps(largest, _mm_set1_ps(f32::INFINITY));
    let is_small = _mm_cmplt_ps(largest, _mm_set1_ps(SMALLEST));
    let inverses = _mm_div_ps(_mm_set1_ps(127.0), largest);
    let inverses = _mm_andnot_ps(is_small, _mm_and_ps(is_finite, inverses));
    let scales = _mm_div_ps(largest, _mm_set1_ps(127.0));
    let scales = _mm_blendv_ps(_mm_set1_ps(f32::NAN), scales, is_finite);
    (inverses, _mm_andnot_ps(is_small, scales))
}
