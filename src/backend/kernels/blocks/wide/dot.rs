//! Products of a few rows of activations with rows of a matrix.

use super::unpack::{Small, Span, Super};
use crate::backend::kernels::blocks::dot::{Row, Units, write};
use crate::backend::ops::blocks::BlockType;
use std::arch::x86_64::{
    __m512, __m512i, _mm_castsi128_ps, _mm_cvtsi32_si128, _mm_loadl_epi64, _mm256_loadu_ps,
    _mm512_add_ps, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_reduce_add_ps,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_sll_epi32, _mm512_zextps128_ps512,
    _mm512_zextps256_ps512,
};

/// The products of as many rows as `y` has, at most four, with rows of a matrix of `bytes` each.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in super::super) fn product(
    kind: BlockType,
    weight: &[u8],
    bytes: usize,
    rows: &[Row<'_>; 4],
    y: &mut [&mut [f32]],
) {
    let part = Part {
        weight,
        bytes,
        rows,
    };
    by_type!(kind, small, large, &part, y);
}

struct Part<'a> {
    weight: &'a [u8],
    bytes: usize,
    rows: &'a [Row<'a>; 4],
}

// SAFETY of all that follows: what is loaded has as many bytes as are read.

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn small<T: Small<BYTES>, const BYTES: usize>(part: &Part<'_>, y: &mut [&mut [f32]]) {
    match y.len() {
        1 => small_rows::<T, BYTES, 1>(part, y),
        2 => small_rows::<T, BYTES, 2>(part, y),
        3 => small_rows::<T, BYTES, 3>(part, y),
        _ => small_rows::<T, BYTES, 4>(part, y),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn large<T: Super<BYTES, GROUP>, const BYTES: usize, const GROUP: usize>(
    part: &Part<'_>,
    y: &mut [&mut [f32]],
) {
    match y.len() {
        1 => large_rows::<T, BYTES, GROUP, 1>(part, y),
        2 => large_rows::<T, BYTES, GROUP, 2>(part, y),
        3 => large_rows::<T, BYTES, GROUP, 3>(part, y),
        _ => large_rows::<T, BYTES, GROUP, 4>(part, y),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn small_rows<T: Small<BYTES>, const BYTES: usize, const ROWS: usize>(
    part: &Part<'_>,
    y: &mut [&mut [f32]],
) {
    for (output, weight) in part.weight.chunks_exact(part.bytes).enumerate() {
        let mut sums = [Sum::new(); ROWS];
        let (eights, rest) = weight.as_chunks::<BYTES>().0.as_chunks::<8>();
        for (index, blocks) in eights.iter().enumerate() {
            // SAFETY: as above.
            let span = unsafe { T::span(blocks) };
            for (sum, x) in sums.iter_mut().zip(part.rows) {
                if let Some(x) = x.units::<8>(8 * index) {
                    sum.add(&span, x, T::OFFSET, T::BIASED);
                }
            }
        }
        let done = 8 * eights.len();
        let (pairs, odd) = rest.as_chunks::<2>();
        for (index, blocks) in pairs.iter().enumerate() {
            // SAFETY: as above.
            let span = unsafe { T::span(blocks) };
            for (sum, x) in sums.iter_mut().zip(part.rows) {
                if let Some(x) = x.units::<2>(done + 2 * index) {
                    sum.add(&span, x, T::OFFSET, T::BIASED);
                }
            }
        }
        if let [block] = odd {
            // SAFETY: as above.
            let span = unsafe { T::span(&[*block, [0; BYTES]]) };
            for (sum, x) in sums.iter_mut().zip(part.rows) {
                if let Some(x) = x.units::<1>(done + 2 * pairs.len()) {
                    let pair = Units {
                        codes: &[x.codes[0], [0; 32]],
                        scales: &[x.scales[0], 0.0],
                        sums: &[x.sums[0], 0.0],
                        half_sums: &[x.half_sums[0], [0.0; 2]],
                        fours: &[x.fours[0], [0; 8]],
                    };
                    sum.add(&span, pair, T::OFFSET, T::BIASED);
                }
            }
        }
        write(y, output, sums.map(|sum| sum.total(T::BIASED)));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn large_rows<T: Super<BYTES, GROUP>, const BYTES: usize, const GROUP: usize, const ROWS: usize>(
    part: &Part<'_>,
    y: &mut [&mut [f32]],
) {
    for (output, weight) in part.weight.chunks_exact(part.bytes).enumerate() {
        let mut sums = [Sum::new(); ROWS];
        for (index, block) in weight.as_chunks().0.iter().enumerate() {
            // SAFETY: as above.
            let span = unsafe { T::span(block) };
            for (sum, x) in sums.iter_mut().zip(part.rows) {
                if let Some(x) = x.units::<8>(8 * index) {
                    sum.add(&span, x, T::OFFSET, T::BIASED);
                }
            }
        }
        write(y, output, sums.map(|sum| sum.total(T::BIASED)));
    }
}

/// The sum over a row so far.
#[derive(Clone, Copy)]
struct Sum {
    scaled: __m512,
    biased: __m512,
}

impl Sum {
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn new() -> Self {
        let zero = _mm512_setzero_ps();
        Self {
            scaled: zero,
            biased: zero,
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn add<const UNITS: usize, const GROUP: usize>(
        &mut self,
        span: &Span<UNITS, GROUP>,
        x: Units<'_, UNITS>,
        offset: u32,
        is_biased: bool,
    ) {
        // SAFETY: as above.
        unsafe {
            let mut scales = floats(x.scales);
            if GROUP == 16 {
                scales = _mm512_permutexvar_ps(lanes(|lane| lane / 2), scales);
            }
            let scales = _mm512_mul_ps(scales, span.scales);
            for pair in 0..UNITS / 2 {
                let codes = _mm512_loadu_si512(x.codes.as_ptr().add(2 * pair).cast());
                let fours = _mm512_loadu_si512(x.fours.as_ptr().add(2 * pair).cast());
                let start = if offset == 0 {
                    _mm512_setzero_si512()
                } else {
                    _mm512_sll_epi32(fours, _mm_cvtsi32_si128(offset.cast_signed()))
                };
                let products = _mm512_dpbusd_epi32(start, span.codes[pair], codes);
                let lanes = lanes(|lane| (64 * pair + 4 * lane) / GROUP);
                let scale = _mm512_permutexvar_ps(lanes, scales);
                self.scaled = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scale, self.scaled);
            }
            if is_biased {
                let sums = if GROUP == 16 {
                    _mm512_loadu_ps(x.half_sums.as_ptr().cast())
                } else {
                    floats(x.sums)
                };
                self.biased = _mm512_fmadd_ps(span.biases, sums, self.biased);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn total(self, is_biased: bool) -> f32 {
        if is_biased {
            _mm512_reduce_add_ps(_mm512_add_ps(self.scaled, self.biased))
        } else {
            _mm512_reduce_add_ps(self.scaled)
        }
    }
}

/// Two or eight numbers, and zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn floats<const LEN: usize>(numbers: &[f32; LEN]) -> __m512 {
    // SAFETY: as above.
    unsafe {
        if LEN == 8 {
            _mm512_zextps256_ps512(_mm256_loadu_ps(numbers.as_ptr()))
        } else {
            let two = _mm_loadl_epi64(numbers.as_ptr().cast());
            _mm512_zextps128_ps512(_mm_castsi128_ps(two))
        }
    }
}

/// For each lane which one to take.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn lanes(of: impl Fn(usize) -> usize) -> __m512i {
    let lanes: [u32; 16] = std::array::from_fn(|lane| u32::try_from(of(lane)).unwrap_or(0));
    // SAFETY: as above.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}
