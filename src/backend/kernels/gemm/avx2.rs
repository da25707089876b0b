//! AVX2 with fused multiply-add: eight `f32` a vector.

use super::few_rows::{Dots, dots};
use super::simd::{MAX_LANES, Number, Simd, Work};
use super::tile::{Operands, tile};
use half::{bf16, f16};
use std::arch::x86_64::{
    __m256, _mm_add_ps, _mm_cvtss_f32, _mm_loadu_si128, _mm_movehdup_ps, _mm_movehl_ps,
    _mm256_add_ps, _mm256_castpd_ps, _mm256_castps_pd, _mm256_castps256_ps128, _mm256_castsi256_ps,
    _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_extractf128_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32,
    _mm256_storeu_ps, _mm256_unpackhi_pd, _mm256_unpackhi_ps, _mm256_unpacklo_pd,
    _mm256_unpacklo_ps,
};
use std::ops::Range;

#[derive(Clone, Copy)]
pub(super) struct Avx2;

// SAFETY of all: the trait's.
impl Simd for Avx2 {
    type Vector = __m256;
    const LANES: usize = 8;
    const PER_WORD: usize = 1;
    const ROWS: usize = 6;
    const COLUMNS: usize = 16;
    const FEW: usize = 4;
    const HEIGHTS: &'static [usize] = &[6, 4, 2];

    unsafe fn enter<W: Work>(work: W) {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn with_features<W: Work>(work: W) {
            // SAFETY: this is where it is to be run.
            unsafe { work.run::<Avx2>() };
        }
        // SAFETY: the caller knows that the processor has the features.
        unsafe { with_features(work) };
    }

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u32, words: __m256) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to.cast(), words) };
    }

    #[inline(always)]
    unsafe fn repeat(from: *const u32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_set1_ps(f32::from_bits(*from)) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, sum: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sum(a: __m256) -> f32 {
        // SAFETY: as above.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ps(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    #[allow(clippy::many_single_char_names, reason = "rows of a square")]
    unsafe fn transpose(rows: &mut [__m256; MAX_LANES]) {
        // SAFETY: as above.
        unsafe {
            // Of each four rows: columns 0 and 4, then those after them, ...
            let mut columns = [[_mm256_setzero_ps(); 4]; 2];
            for (rows, columns) in rows.as_chunks::<4>().0.iter().zip(&mut columns) {
                let [a, b, c, d] = *rows;
                let low = [_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d)];
                let high = [_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d)];
                let [a, b] = low.map(|half| _mm256_castps_pd(half));
                let [c, d] = high.map(|half| _mm256_castps_pd(half));
                *columns = [
                    _mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                    _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)),
                    _mm256_castpd_ps(_mm256_unpacklo_pd(c, d)),
                    _mm256_castpd_ps(_mm256_unpackhi_pd(c, d)),
                ];
            }
            let [above, below] = columns;
            for (column, (a, b)) in above.into_iter().zip(below).enumerate() {
                rows[column] = _mm256_permute2f128_ps::<0x20>(a, b);
                rows[column + 4] = _mm256_permute2f128_ps::<0x31>(a, b);
            }
        }
    }

    #[inline(always)]
    unsafe fn words_f32(from: *const f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn words_f16(from: *const f16) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn words_bf16(from: *const bf16) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
        }
    }

    #[inline(always)]
    unsafe fn tile(height: usize, operands: Operands) {
        // SAFETY: as above.
        unsafe {
            match height {
                6 => tile::<Self, 6, 2>(operands),
                4 => tile::<Self, 4, 2>(operands),
                _ => tile::<Self, 2, 2>(operands),
            }
        }
    }

    #[inline(always)]
    unsafe fn few<T: Number>(of: &Dots<'_, T>, columns: Range<usize>) {
        // SAFETY: as above.
        unsafe {
            match of.rows {
                0..=2 => dots::<Self, T, 2, 4>(of, columns),
                _ => dots::<Self, T, 4, 2>(of, columns),
            }
        }
    }
}
