//! NEON, which every 64-bit ARM processor has: four `f32` a vector.

use super::few_rows::{Dots, dots};
use super::portable::Portable;
use super::simd::{MAX_LANES, Number, Simd, Work};
use super::tile::{Operands, tile};
use half::{bf16, f16};
use std::arch::aarch64::{
    float32x4_t, vaddq_f32, vaddvq_f32, vdupq_n_f32, vfmaq_f32, vld1_u16, vld1q_dup_f32, vld1q_f32,
    vreinterpretq_f32_f64, vreinterpretq_f32_u32, vreinterpretq_f64_f32, vshll_n_u16, vst1q_f32,
    vtrn1q_f32, vtrn1q_f64, vtrn2q_f32, vtrn2q_f64,
};
use std::ops::Range;

#[derive(Clone, Copy)]
pub(super) struct Neon;

// SAFETY of all: the trait's.
impl Simd for Neon {
    type Vector = float32x4_t;
    const LANES: usize = 4;
    const PER_WORD: usize = 1;
    const ROWS: usize = 8;
    const COLUMNS: usize = 12;
    const FEW: usize = 8;
    const HEIGHTS: &'static [usize] = &[8, 4];

    unsafe fn enter<W: Work>(work: W) {
        // SAFETY: this is where it is to be run.
        unsafe { work.run::<Self>() };
    }

    #[inline(always)]
    unsafe fn zero() -> float32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vld1q_f32(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u32, words: float32x4_t) {
        // SAFETY: as above.
        unsafe { vst1q_f32(to.cast(), words) };
    }

    #[inline(always)]
    unsafe fn repeat(from: *const u32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vld1q_dup_f32(from.cast()) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: float32x4_t, b: float32x4_t, sum: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vfmaq_f32(sum, a, b) }
    }

    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn sum(a: float32x4_t) -> f32 {
        // SAFETY: as above.
        unsafe { vaddvq_f32(a) }
    }

    #[inline(always)]
    #[allow(clippy::many_single_char_names, reason = "rows of a square")]
    unsafe fn transpose(rows: &mut [float32x4_t; MAX_LANES]) {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (vtrn1q_f32(rows[0], rows[1]), vtrn1q_f32(rows[2], rows[3]));
            let (c, d) = (vtrn2q_f32(rows[0], rows[1]), vtrn2q_f32(rows[2], rows[3]));
            let [a, b, c, d] = [a, b, c, d].map(|half| vreinterpretq_f64_f32(half));
            rows[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, b));
            rows[1] = vreinterpretq_f32_f64(vtrn1q_f64(c, d));
            rows[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, b));
            rows[3] = vreinterpretq_f32_f64(vtrn2q_f64(c, d));
        }
    }

    #[inline(always)]
    unsafe fn words_f32(from: *const f32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn words_f16(from: *const f16) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vld1q_f32(Portable::words_f16(from).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn words_bf16(from: *const bf16) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn tile(height: usize, operands: Operands) {
        // SAFETY: as above.
        unsafe {
            match height {
                8 => tile::<Self, 8, 3>(operands),
                _ => tile::<Self, 4, 3>(operands),
            }
        }
    }

    #[inline(always)]
    unsafe fn few<T: Number>(of: &Dots<'_, T>, columns: Range<usize>) {
        // SAFETY: as above.
        unsafe {
            match of.rows {
                0..=2 => dots::<Self, T, 2, 6>(of, columns),
                3..=4 => dots::<Self, T, 4, 6>(of, columns),
                _ => dots::<Self, T, 8, 3>(of, columns),
            }
        }
    }
}
