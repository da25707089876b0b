//! AVX-512: sixteen `f32` a vector, or sixteen pairs of `bf16` where the processor multiplies those.

use super::few_rows::{Dots, dots};
use super::simd::{MAX_LANES, Number, Simd, Work};
use super::tile::{Operands, tile};
use half::{bf16, f16};
use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __m512i, _mm256_loadu_si256, _mm512_add_ps,
    _mm512_castpd_ps, _mm512_castps_pd, _mm512_castsi512_ps, _mm512_cvtepu16_epi32,
    _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh, _mm512_cvtph_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_or_si512, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_unpackhi_pd,
    _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};
use std::mem::transmute;
use std::ops::Range;

/// Products of `f32`.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// Products of `bf16`, summed in `f32`.
#[derive(Clone, Copy)]
pub(super) struct Avx512Bf16;

/// What is the same for both.
macro_rules! same {
    ($features:literal) => {
        type Vector = __m512;
        const LANES: usize = 16;
        const ROWS: usize = 14;
        const COLUMNS: usize = 32;
        const FEW: usize = 8;
        const HEIGHTS: &'static [usize] = &[14, 8, 4];

        unsafe fn enter<W: Work>(work: W) {
            #[target_feature(enable = $features)]
            unsafe fn with_features<W: Work, S: Simd>(work: W) {
                // SAFETY: this is where it is to be run.
                unsafe { work.run::<S>() };
            }
            // SAFETY: the caller knows that the processor has the features.
            unsafe { with_features::<W, Self>(work) };
        }

        #[inline(always)]
        unsafe fn zero() -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn load(from: *const u32) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_loadu_ps(from.cast()) }
        }

        #[inline(always)]
        unsafe fn store(to: *mut u32, words: __m512) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to.cast(), words) };
        }

        #[inline(always)]
        unsafe fn repeat(from: *const u32) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_set1_ps(f32::from_bits(*from)) }
        }

        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_add_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn sum(a: __m512) -> f32 {
            // SAFETY: as above.
            unsafe { _mm512_reduce_add_ps(a) }
        }

        #[inline(always)]
        unsafe fn transpose(vectors: &mut [__m512; MAX_LANES]) {
            // SAFETY: as above.
            unsafe { transpose(vectors) };
        }

        #[inline(always)]
        unsafe fn tile(height: usize, operands: Operands) {
            // SAFETY: as above.
            unsafe {
                match height {
                    14 => tile::<Self, 14, 2>(operands),
                    8 => tile::<Self, 8, 2>(operands),
                    _ => tile::<Self, 4, 2>(operands),
                }
            }
        }

        #[inline(always)]
        unsafe fn few<T: Number>(of: &Dots<'_, T>, columns: Range<usize>) {
            // SAFETY: as above.
            unsafe {
                match of.rows {
                    0..=2 => dots::<Self, T, 2, 8>(of, columns),
                    3..=4 => dots::<Self, T, 4, 6>(of, columns),
                    _ => dots::<Self, T, 8, 3>(of, columns),
                }
            }
        }
    };
}

// SAFETY of all: the trait's.
impl Simd for Avx512 {
    const PER_WORD: usize = 1;
    same!("avx512f");

    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn words_f32(from: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn words_f16(from: *const f16) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn words_bf16(from: *const bf16) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_castsi512_ps(high(_mm256_loadu_si256(from.cast()))) }
    }
}

impl Simd for Avx512Bf16 {
    const PER_WORD: usize = 2;
    same!("avx512f,avx512bf16");

    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: as above; all bits mean something.
        unsafe {
            let (a, b) = (
                transmute::<__m512, __m512bh>(a),
                transmute::<__m512, __m512bh>(b),
            );
            _mm512_dpbf16_ps(sum, a, b)
        }
    }

    #[inline(always)]
    unsafe fn words_f32(from: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { round(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))) }
    }

    #[inline(always)]
    unsafe fn words_f16(from: *const f16) -> __m512 {
        // SAFETY: as above.
        unsafe { round(Avx512::words_f16(from), Avx512::words_f16(from.add(16))) }
    }

    #[inline(always)]
    unsafe fn words_bf16(from: *const bf16) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(from.cast()) }
    }

    #[inline(always)]
    unsafe fn pairs_f32(first: *const f32, second: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let (first, second) = (_mm512_loadu_ps(first), _mm512_loadu_ps(second));
            pairs(rounded(first), rounded(second))
        }
    }

    #[inline(always)]
    unsafe fn pairs_f16(first: *const f16, second: *const f16) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let (first, second) = (Avx512::words_f16(first), Avx512::words_f16(second));
            pairs(rounded(first), rounded(second))
        }
    }

    #[inline(always)]
    unsafe fn pairs_bf16(first: *const bf16, second: *const bf16) -> __m512 {
        // SAFETY: as above.
        unsafe {
            pairs(
                _mm256_loadu_si256(first.cast()),
                _mm256_loadu_si256(second.cast()),
            )
        }
    }
}

/// `low` and then `high`, rounded to `bf16`.
#[inline(always)]
unsafe fn round(low: __m512, high: __m512) -> __m512 {
    // SAFETY: as above; all bits mean something.
    unsafe { transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Rounded to `bf16`.
#[inline(always)]
unsafe fn rounded(numbers: __m512) -> __m256i {
    // SAFETY: as above; all bits mean something.
    unsafe { transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(numbers)) }
}

/// Sixteen bits in the upper half of each lane.
#[inline(always)]
unsafe fn high(halves: __m256i) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)) }
}

/// In each lane sixteen bits of `first`, and above them those of `second`.
#[inline(always)]
unsafe fn pairs(first: __m256i, second: __m256i) -> __m512 {
    // SAFETY: as above.
    unsafe { _mm512_castsi512_ps(_mm512_or_si512(_mm512_cvtepu16_epi32(first), high(second))) }
}

/// Lane i of vector j becomes lane j of vector i.
///
/// # Safety
///
/// As above; always to be inlined where the processor has AVX-512.
#[inline(always)]
#[allow(clippy::many_single_char_names, reason = "rows of a square")]
pub(in crate::backend::kernels) unsafe fn transpose(rows: &mut [__m512; 16]) {
    // SAFETY: as above.
    unsafe {
        // Of each four rows: columns 0, 4, 8 and 12, then those after them, ...
        let mut columns = [[_mm512_setzero_ps(); 4]; 4];
        for (rows, columns) in rows.as_chunks::<4>().0.iter().zip(&mut columns) {
            let [a, b, c, d] = *rows;
            let low = [_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d)];
            let high = [_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d)];
            let [a, b] = low.map(|half| _mm512_castps_pd(half));
            let [c, d] = high.map(|half| _mm512_castps_pd(half));
            *columns = [
                _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)),
                _mm512_castpd_ps(_mm512_unpacklo_pd(c, d)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)),
            ];
        }
        for column in 0..4 {
            let [a, b, c, d] = [0, 1, 2, 3].map(|group| columns[group][column]);
            let even = _mm512_shuffle_f32x4::<0x88>(a, b);
            let even_after = _mm512_shuffle_f32x4::<0x88>(c, d);
            let odd = _mm512_shuffle_f32x4::<0xdd>(a, b);
            let odd_after = _mm512_shuffle_f32x4::<0xdd>(c, d);
            rows[column] = _mm512_shuffle_f32x4::<0x88>(even, even_after);
            rows[column + 4] = _mm512_shuffle_f32x4::<0x88>(odd, odd_after);
            rows[column + 8] = _mm512_shuffle_f32x4::<0xdd>(even, even_after);
            rows[column + 12] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_after);
        }
    }
}
