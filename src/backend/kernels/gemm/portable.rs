//! As the compiler sees fit: for processors whose instructions have no file here.

use super::few_rows::{Dots, dots};
use super::simd::{MAX_LANES, Number, Simd, Work};
use super::tile::{Operands, tile};
use half::{bf16, f16};
use std::array::from_fn;
use std::ops::Range;

#[derive(Clone, Copy)]
pub(super) struct Portable;

// SAFETY of all: the trait's; pointers are good for what is read and written.
impl Simd for Portable {
    type Vector = [f32; 4];
    const LANES: usize = 4;
    const PER_WORD: usize = 1;
    const ROWS: usize = 4;
    const COLUMNS: usize = 8;
    const FEW: usize = 4;
    const HEIGHTS: &'static [usize] = &[4, 2];

    unsafe fn enter<W: Work>(work: W) {
        // SAFETY: this is where it is to be run.
        unsafe { work.run::<Self>() };
    }

    #[inline(always)]
    unsafe fn zero() -> Self::Vector {
        [0.0; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self::Vector {
        // SAFETY: as above.
        unsafe { from.cast::<Self::Vector>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u32, words: Self::Vector) {
        // SAFETY: as above.
        unsafe { to.cast::<Self::Vector>().write_unaligned(words) };
    }

    #[inline(always)]
    unsafe fn repeat(from: *const u32) -> Self::Vector {
        // SAFETY: as above.
        [f32::from_bits(unsafe { *from }); 4]
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, sum: Self::Vector) -> Self::Vector {
        from_fn(|lane| sum[lane] + a[lane] * b[lane])
    }

    #[inline(always)]
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        from_fn(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    unsafe fn sum(a: Self::Vector) -> f32 {
        (a[0] + a[1]) + (a[2] + a[3])
    }

    #[inline(always)]
    unsafe fn transpose(vectors: &mut [Self::Vector; MAX_LANES]) {
        let rows = [vectors[0], vectors[1], vectors[2], vectors[3]];
        for (lane, vector) in vectors.iter_mut().enumerate().take(4) {
            *vector = from_fn(|row| rows[row][lane]);
        }
    }

    #[inline(always)]
    unsafe fn words_f32(from: *const f32) -> Self::Vector {
        // SAFETY: as above.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn words_f16(from: *const f16) -> Self::Vector {
        // SAFETY: as above.
        let bits = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
        bits.map(widen_f16)
    }

    #[inline(always)]
    unsafe fn words_bf16(from: *const bf16) -> Self::Vector {
        // SAFETY: as above.
        let bits = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
        bits.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }

    #[inline(always)]
    unsafe fn tile(height: usize, operands: Operands) {
        // SAFETY: as above.
        unsafe {
            match height {
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
                0..=2 => dots::<Self, T, 2, 2>(of, columns),
                _ => dots::<Self, T, 4, 2>(of, columns),
            }
        }
    }
}

/// An `f16` as the `f32` of the same value, without branches, so that it is done for several at once.
#[inline(always)]
fn widen_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // The exponent is that of `f32` but for its bias, 127 and not 15; the product is right for
    // subnormal numbers too.
    let finite = (f32::from_bits(magnitude) * f32::from_bits((127 + 127 - 15) << 23)).to_bits();
    let special = if bits & 0x7c00 == 0x7c00 {
        0x7f80_0000
    } else {
        0
    };
    f32::from_bits(sign | finite | special)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_widened() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (widen_f16(bits), f16::from_bits(bits).to_f32());
            let same = found.to_bits() == expected.to_bits();
            assert!(same || found.is_nan() && expected.is_nan(), "{bits:x}");
        }
    }
}
