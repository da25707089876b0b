//! What a product asks of a processor's vector instructions.

use half::{bf16, f16};

/// Vector instructions of one kind.
///
/// Numbers of a product are packed to words of 32 bits: one `f32`, or two `bf16` that are neighbours along
/// the depth of the product.
///
/// # Safety
///
/// All functions need a processor with the instructions, and are to be called only within [`Simd::enter`],
/// which inlines them; pointers need to be good for what is read or written, at any alignment.
pub(in crate::backend::kernels) trait Simd: Copy {
    /// `LANES` words.
    type Vector: Copy;
    const LANES: usize;
    /// Numbers in a word.
    const PER_WORD: usize;
    /// Rows of the largest tile: not more than `LANES`, or a multiple of it.
    const ROWS: usize;
    /// Columns of a tile, a multiple of `LANES`.
    const COLUMNS: usize;
    /// Rows that [`Simd::few`] computes at once.
    const FEW: usize;

    /// Runs the work in a function that is compiled for these instructions.
    unsafe fn enter<W: Work>(work: W);

    unsafe fn zero() -> Self::Vector;
    unsafe fn load(from: *const u32) -> Self::Vector;
    unsafe fn store(to: *mut u32, words: Self::Vector);
    /// One word in all lanes.
    unsafe fn repeat(from: *const u32) -> Self::Vector;
    /// `sum + a · b`, where the sums are `f32`, one a lane.
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, sum: Self::Vector) -> Self::Vector;
    /// Of `f32`.
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The sum of all lanes, which are `f32`.
    unsafe fn sum(a: Self::Vector) -> f32;
    /// Lane i of vector j becomes lane j of vector i.
    unsafe fn transpose(vectors: &mut [Self::Vector; MAX_LANES]);

    /// `LANES · PER_WORD` neighbouring numbers as words.
    unsafe fn words_f32(from: *const f32) -> Self::Vector;
    unsafe fn words_f16(from: *const f16) -> Self::Vector;
    unsafe fn words_bf16(from: *const bf16) -> Self::Vector;
    /// `LANES` words, of which each has a number of either row; where there is one number in a word, as here,
    /// the second row does not count.
    #[inline(always)]
    unsafe fn pairs_f32(first: *const f32, _second: *const f32) -> Self::Vector {
        // SAFETY: the caller's.
        unsafe { Self::words_f32(first) }
    }
    #[inline(always)]
    unsafe fn pairs_f16(first: *const f16, _second: *const f16) -> Self::Vector {
        // SAFETY: the caller's.
        unsafe { Self::words_f16(first) }
    }
    #[inline(always)]
    unsafe fn pairs_bf16(first: *const bf16, _second: *const bf16) -> Self::Vector {
        // SAFETY: the caller's.
        unsafe { Self::words_bf16(first) }
    }

    /// The heights that tiles have, the largest first.
    const HEIGHTS: &'static [usize];
    /// [`super::tile::tile`] of one of the heights.
    unsafe fn tile(height: usize, operands: super::tile::Operands);
    /// [`super::few_rows::dots`] of at most `FEW` rows.
    unsafe fn few<T: Number>(dots: &super::few_rows::Dots<'_, T>, columns: std::ops::Range<usize>);
}

/// The most lanes there are.
pub(in crate::backend::kernels) const MAX_LANES: usize = 16;

/// The height of the lowest tile that so many rows fit in.
#[inline(always)]
pub(in crate::backend::kernels) fn height<S: Simd>(rows: usize) -> usize {
    let mut height = S::ROWS;
    for &lower in S::HEIGHTS {
        if lower >= rows {
            height = lower;
        }
    }
    height
}

/// Work that any instructions can do.
pub(in crate::backend::kernels) trait Work {
    /// Always to be inlined.
    ///
    /// # Safety
    ///
    /// It runs within [`Simd::enter`].
    unsafe fn run<S: Simd>(self);
}

/// What the weights are stored as.
pub(in crate::backend::kernels) trait Number:
    Copy + Send + Sync
{
    const ZERO: Self;
    unsafe fn words<S: Simd>(from: *const Self) -> S::Vector;
    unsafe fn pairs<S: Simd>(first: *const Self, second: *const Self) -> S::Vector;
}

macro_rules! number {
    ($type:ty, $zero:expr, $words:ident, $pairs:ident) => {
        impl Number for $type {
            const ZERO: Self = $zero;

            #[inline(always)]
            unsafe fn words<S: Simd>(from: *const Self) -> S::Vector {
                // SAFETY: the caller's.
                unsafe { S::$words(from) }
            }

            #[inline(always)]
            unsafe fn pairs<S: Simd>(first: *const Self, second: *const Self) -> S::Vector {
                // SAFETY: the caller's.
                unsafe { S::$pairs(first, second) }
            }
        }
    };
}

number!(f32, 0.0, words_f32, pairs_f32);
number!(f16, f16::ZERO, words_f16, pairs_f16);
number!(bf16, bf16::ZERO, words_bf16, pairs_bf16);
