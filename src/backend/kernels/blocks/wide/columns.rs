//! Rows of the matrix, which are columns of the result, turned: a vector has four codes of each of sixteen.

use super::unpack::{Small, Span, Super};
use crate::backend::kernels::blocks::codes::UNIT;
use crate::backend::kernels::gemm::transpose;
use std::arch::x86_64::{__m512, _mm512_castsi512_ps, _mm512_setzero_ps, _mm512_storeu_ps};

/// Columns in a vector.
pub(super) const LANES: usize = 16;

/// Vectors of columns beside each other, as many as a tile has.
pub(super) const VECTORS: usize = 2;

/// Thirty-two numbers of each of some columns.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Columns {
    /// Four neighbouring codes of each column, then the next four.
    pub codes: [[[u32; LANES]; VECTORS]; UNIT / 4],
    /// Of each group.
    pub scales: [[[f32; LANES]; VECTORS]; 2],
    pub biases: [[[f32; LANES]; VECTORS]; 2],
}

impl Columns {
    pub const ZERO: Self = Self {
        codes: [[[0; LANES]; VECTORS]; UNIT / 4],
        scales: [[[0.0; LANES]; VECTORS]; 2],
        biases: [[[0.0; LANES]; VECTORS]; 2],
    };
}

/// Turns rows of `bytes` each; those that are missing are zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
pub(super) fn small<T: Small<BYTES>, const BYTES: usize>(
    weight: &[u8],
    bytes: usize,
    to: &mut [Columns],
) {
    let mut rows = weight.chunks_exact(bytes);
    for vector in 0..VECTORS {
        let rows: [&[[u8; BYTES]]; LANES] =
            std::array::from_fn(|_| rows.next().unwrap_or_default().as_chunks().0);
        let (eights, rest) = to.as_chunks_mut::<8>();
        let (pairs, odd) = rest.as_chunks_mut::<2>();
        let (after_eights, after_pairs) = (8 * eights.len(), 8 * eights.len() + 2 * pairs.len());
        for (index, to) in eights.iter_mut().enumerate() {
            small_units::<T, BYTES, 8>(rows, 8 * index, vector, to);
        }
        for (index, to) in pairs.iter_mut().enumerate() {
            small_units::<T, BYTES, 2>(rows, after_eights + 2 * index, vector, to);
        }
        if let [to] = odd {
            let mut pair = [*to; 2];
            small_units::<T, BYTES, 2>(rows, after_pairs, vector, &mut pair);
            *to = pair[0];
        }
    }
}

/// Turns some units of each row.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
fn small_units<T: Small<BYTES>, const BYTES: usize, const UNITS: usize>(
    rows: [&[[u8; BYTES]]; LANES],
    start: usize,
    vector: usize,
    to: &mut [Columns; UNITS],
) {
    let mut turning = Turning::new();
    for (lane, row) in rows.into_iter().enumerate() {
        let blocks = std::array::from_fn(|block| {
            let block = row.get(start + block);
            block.copied().unwrap_or([0; BYTES])
        });
        // SAFETY: the processor is that of this function.
        turning.set(lane, &unsafe { T::span::<UNITS>(&blocks) });
    }
    turning.write::<UNITS, UNIT>(vector, to);
}

/// [`small`], for blocks of 256 numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
pub(super) fn large<T: Super<BYTES, GROUP>, const BYTES: usize, const GROUP: usize>(
    weight: &[u8],
    bytes: usize,
    to: &mut [Columns],
) {
    let mut rows = weight.chunks_exact(bytes);
    for vector in 0..VECTORS {
        let rows: [&[[u8; BYTES]]; LANES] =
            std::array::from_fn(|_| rows.next().unwrap_or_default().as_chunks().0);
        for (index, to) in to.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let mut turning = Turning::new();
            for (lane, row) in rows.into_iter().enumerate() {
                let block = row.get(index).unwrap_or(&[0; BYTES]);
                // SAFETY: the processor is that of this function.
                turning.set(lane, &unsafe { T::span(block) });
            }
            turning.write::<8, GROUP>(vector, to);
        }
    }
}

/// Some units of sixteen columns.
struct Turning {
    codes: [[__m512; LANES]; 4],
    scales: [__m512; LANES],
    biases: [__m512; LANES],
}

impl Turning {
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn new() -> Self {
        Self {
            codes: [[_mm512_setzero_ps(); LANES]; 4],
            scales: [_mm512_setzero_ps(); LANES],
            biases: [_mm512_setzero_ps(); LANES],
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn set<const UNITS: usize, const GROUP: usize>(
        &mut self,
        lane: usize,
        span: &Span<UNITS, GROUP>,
    ) {
        for (to, codes) in self.codes.iter_mut().zip(span.codes) {
            to[lane] = _mm512_castsi512_ps(codes);
        }
        self.scales[lane] = span.scales;
        self.biases[lane] = span.biases;
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn write<const UNITS: usize, const GROUP: usize>(
        mut self,
        vector: usize,
        to: &mut [Columns; UNITS],
    ) {
        // SAFETY: the processor is that of this function; what is stored has sixteen lanes.
        unsafe {
            for (pair, codes) in to.as_chunks_mut::<2>().0.iter_mut().zip(&mut self.codes) {
                transpose(codes);
                for (unit, codes) in pair.iter_mut().zip(codes.as_chunks::<8>().0) {
                    for (to, codes) in unit.codes.iter_mut().zip(codes) {
                        _mm512_storeu_ps(to[vector].as_mut_ptr().cast(), *codes);
                    }
                }
            }
            transpose(&mut self.scales);
            transpose(&mut self.biases);
            let groups = UNIT / GROUP;
            for (unit, to) in to.iter_mut().enumerate() {
                for group in 0..groups {
                    let (scales, biases) = (
                        self.scales[unit * groups + group],
                        self.biases[unit * groups + group],
                    );
                    _mm512_storeu_ps(to.scales[group][vector].as_mut_ptr(), scales);
                    _mm512_storeu_ps(to.biases[group][vector].as_mut_ptr(), biases);
                }
            }
        }
    }
}
