//! Inner products of rows of a matrix, kept in 32 or 16 bits, with a few vectors of `f32`.
//!
//! The weights are read once and used a few times, so it is memory that decides. Each product has one vector
//! of sums, whatever stands beside it: a row's results are the same to the last bit, alone or among others.

#![allow(unsafe_code, reason = "vectors are loaded through pointers")]
#![allow(
    clippy::inline_always,
    reason = "these are compiled once for each kind of processor"
)]

mod vector;

use super::exp::{exp, sigmoid};
use candle_core::{CpuStorage, Layout, Result, bail};
use half::{bf16, f16};
use std::ops::Range;
#[cfg(any(test, not(target_arch = "aarch64")))]
use vector::Portable;
use vector::Vector;

/// Numbers of one of the dtypes that weights and caches are kept in.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend) enum Numbers<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl<'a> Numbers<'a> {
    /// The numbers of a contiguous tensor.
    pub fn of(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("the kernel takes contiguous tensors only");
        };
        match storage {
            CpuStorage::F32(x) => Ok(Self::F32(&x[start..end])),
            CpuStorage::F16(x) => Ok(Self::F16(&x[start..end])),
            CpuStorage::BF16(x) => Ok(Self::Bf16(&x[start..end])),
            _ => bail!("the kernel takes f32, f16 and bf16 only"),
        }
    }

    pub fn len(self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::F16(x) => x.len(),
            Self::Bf16(x) => x.len(),
        }
    }

    /// The numbers of a range, or none of them where it does not lie within.
    pub fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(x) => Self::F32(x.get(range).unwrap_or_default()),
            Self::F16(x) => Self::F16(x.get(range).unwrap_or_default()),
            Self::Bf16(x) => Self::Bf16(x.get(range).unwrap_or_default()),
        }
    }
}

/// A number as it is kept.
trait Stored: Copy {
    fn widen(self) -> f32;

    /// [`Vector::LANES`] numbers.
    ///
    /// # Safety
    ///
    /// They can be read, and the processor has the instructions.
    unsafe fn load<V: Vector>(from: *const Self) -> V;
}

macro_rules! stored {
    ($type:ty, $load:ident, $widen:expr) => {
        impl Stored for $type {
            #[inline(always)]
            fn widen(self) -> f32 {
                $widen(self)
            }

            #[inline(always)]
            unsafe fn load<V: Vector>(from: *const Self) -> V {
                // SAFETY: as for this function.
                unsafe { V::$load(from) }
            }
        }
    };
}

stored!(f32, load, |x| x);
stored!(f16, load_f16, f16::to_f32);
stored!(bf16, load_bf16, bf16::to_f32);

/// `y[i · stride + row] = <weights[row], x[i]>` for all vectors of `width` numbers in `weights` and `x`.
///
/// # Panics
///
/// When `y` is too short or `stride` is less than the rows; numbers of `weights` and `x` that are no whole
/// vector are not read.
pub(in crate::backend) fn dots(
    weights: Numbers<'_>,
    width: usize,
    x: &[f32],
    y: &mut [f32],
    stride: usize,
) {
    let (rows, count) = (
        weights.len().checked_div(width).unwrap_or(0),
        x.len().checked_div(width).unwrap_or(0),
    );
    if rows == 0 || count == 0 {
        return;
    }
    assert!(rows <= stride && (count - 1) * stride + rows <= y.len());
    macro_rules! run {
        ($weights:expr) => {
            on_this_processor(
                Dots {
                    weights: $weights,
                    width,
                    x,
                    stride,
                },
                y,
            )
        };
    }
    match weights {
        Numbers::F32(weights) => run!(weights),
        Numbers::F16(weights) => run!(weights),
        Numbers::Bf16(weights) => run!(weights),
    }
}

/// `y[i] += Σ weights[i · stride + row] · rows[row]`, for all vectors of `width` numbers in `y` and `rows`.
///
/// # Panics
///
/// When there are too few weights.
pub(in crate::backend) fn add_weighted(
    rows: Numbers<'_>,
    width: usize,
    weights: &[f32],
    stride: usize,
    y: &mut [f32],
) {
    let (count, held) = (
        y.len().checked_div(width).unwrap_or(0),
        rows.len().checked_div(width).unwrap_or(0),
    );
    if count == 0 || held == 0 {
        return;
    }
    assert!(held <= stride && (count - 1) * stride + held <= weights.len());
    let sum = (width, weights, stride);
    match rows {
        Numbers::F32(rows) => on_this_processor(Weighted { rows, sum }, y),
        Numbers::F16(rows) => on_this_processor(Weighted { rows, sum }, y),
        Numbers::Bf16(rows) => on_this_processor(Weighted { rows, sum }, y),
    }
}

/// The score of a key that is not seen.
pub(super) const MASKED: f32 = -1e30;

/// Replaces scores by their exponentials, less the largest of them; those of keys that are not seen by 0.
/// Gives the largest and the sum.
pub(super) fn exponentials(scores: &mut [f32]) -> (f32, f32) {
    let (mut best, mut sum) = (MASKED, 0.0);
    let work = Exponentials {
        best: &mut best,
        sum: &mut sum,
    };
    on_this_processor(work, scores);
    (best, sum)
}

/// Replaces each number of `gate` by `silu(gate) · up`.
pub(super) fn swiglu_all(up: &[f32], gate: &mut [f32]) {
    on_this_processor(Swiglu { up }, gate);
}

struct Exponentials<'a> {
    best: &'a mut f32,
    sum: &'a mut f32,
}

impl Work for Exponentials<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self, y: &mut [f32]) {
        let (chunks, rest) = y.as_chunks_mut::<16>();
        let mut best = [*self.best; 16];
        for chunk in &*chunks {
            for (best, y) in best.iter_mut().zip(chunk) {
                *best = if *y > *best { *y } else { *best };
            }
        }
        let best = rest.iter().chain(&best).fold(*self.best, |a, b| a.max(*b));
        let one = |y: &mut f32| {
            *y = if *y > MASKED { exp(*y - best) } else { 0.0 };
        };
        let mut sums = [0f32; 16];
        for chunk in chunks {
            chunk.iter_mut().for_each(one);
            for (sum, y) in sums.iter_mut().zip(chunk) {
                *sum += *y;
            }
        }
        rest.iter_mut().for_each(one);
        *self.best = best;
        *self.sum = sums.iter().chain(&*rest).sum();
    }
}

struct Swiglu<'a> {
    up: &'a [f32],
}

impl Work for Swiglu<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self, y: &mut [f32]) {
        for (gate, up) in y.iter_mut().zip(self.up) {
            *gate *= sigmoid(*gate) * up;
        }
    }
}

/// Work that is compiled for several kinds of processors.
trait Work {
    /// # Safety
    ///
    /// The processor has the instructions of `V`.
    unsafe fn run<V: Vector>(self, y: &mut [f32]);
}

fn on_this_processor(work: impl Work, y: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn avx512(work: impl Work, y: &mut [f32]) {
            // SAFETY: this function is for processors that have them.
            unsafe { work.run::<vector::Avx512>(y) }
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2(work: impl Work, y: &mut [f32]) {
            // SAFETY: this function is for processors that have them.
            unsafe { work.run::<vector::Avx2>(y) }
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: this processor has the feature.
            return unsafe { avx512(work, y) };
        }
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            // SAFETY: this processor has the features.
            return unsafe { avx2(work, y) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: all processors of this kind have NEON.
    return unsafe { work.run::<vector::Neon>(y) };
    #[cfg(not(target_arch = "aarch64"))]
    // SAFETY: it takes no special instructions.
    unsafe {
        work.run::<Portable>(y);
    }
}

struct Dots<'a, T> {
    weights: &'a [T],
    width: usize,
    x: &'a [f32],
    stride: usize,
}

impl<T: Stored> Work for Dots<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self, y: &mut [f32]) {
        /// Numbers of `x` that stay in a processor's nearest cache beside the rows.
        const NEAR: usize = 6 << 10;
        let Self {
            weights,
            width,
            x,
            stride,
        } = self;
        if width == 0 {
            return;
        }
        let has_many = V::REGISTERS >= 32;
        let (mut x, mut y) = (x, y);
        while x.len() >= width && !y.is_empty() {
            let columns = match x.len() / width {
                8.. if has_many && 8 * width <= NEAR => 8,
                left => left.min(4),
            };
            // SAFETY: as for this function.
            unsafe {
                match (columns, has_many) {
                    (8, _) => self::columns::<V, T, 2, 8>(weights, width, x, y, stride),
                    (4, true) => self::columns::<V, T, 4, 4>(weights, width, x, y, stride),
                    (3, true) => self::columns::<V, T, 4, 3>(weights, width, x, y, stride),
                    (4, false) => self::columns::<V, T, 2, 4>(weights, width, x, y, stride),
                    (3, false) => self::columns::<V, T, 2, 3>(weights, width, x, y, stride),
                    (2, _) => self::columns::<V, T, 4, 2>(weights, width, x, y, stride),
                    _ => self::columns::<V, T, 1, 1>(weights, width, x, y, stride),
                }
            }
            x = &x[columns * width..];
            y = y.get_mut(columns * stride..).unwrap_or_default();
        }
    }
}

/// The products of all rows with the first `COUNT` vectors of `x`.
///
/// With one vector it is one row after the other: memory decides then, and processors read ahead badly in
/// several rows at once. With more it is several, so that what is loaded is used several times, and the rows
/// that come next are asked for, as they lie.
///
/// # Safety
///
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn columns<V: Vector, T: Stored, const ROWS: usize, const COUNT: usize>(
    weights: &[T],
    width: usize,
    x: &[f32],
    y: &mut [f32],
    stride: usize,
) {
    let x: [&[f32]; COUNT] = std::array::from_fn(|i| &x[i * width..][..width]);
    let (mut rows, mut place) = (weights.chunks_exact(ROWS * width), 0);
    for rows in &mut rows {
        let rows: [&[T]; ROWS] = std::array::from_fn(|row| &rows[row * width..][..width]);
        // SAFETY: as for this function; all have `width` numbers.
        let products = unsafe { products::<V, T, ROWS, COUNT>(rows, x) };
        for (row, products) in products.iter().enumerate() {
            for (i, product) in products.iter().enumerate() {
                y[i * stride + place + row] = *product;
            }
        }
        place += ROWS;
    }
    for row in rows.remainder().chunks_exact(width) {
        // SAFETY: as above.
        let [products] = unsafe { products::<V, T, 1, COUNT>([row], x) };
        for (i, product) in products.iter().enumerate() {
            y[i * stride + place] = *product;
        }
        place += 1;
    }
}

/// # Safety
///
/// The processor has the instructions of `V`; all rows and all `x` have one length.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "iterators of arrays within arrays stay in memory"
)]
unsafe fn products<V: Vector, T: Stored, const ROWS: usize, const COUNT: usize>(
    rows: [&[T]; ROWS],
    x: [&[f32]; COUNT],
) -> [[f32; COUNT]; ROWS] {
    /// Groups of rows from one that is used to one that is asked for: so long it takes.
    const AHEAD: usize = 2;
    /// Bytes that come at once.
    const LINE: usize = 64;
    let width = x.first().map_or(0, |x| x.len());
    let first = rows.first().map_or(std::ptr::null(), |row| row.as_ptr());
    let first = first.wrapping_add(AHEAD * ROWS * width);
    let whole = width - width % V::LANES;
    let mut results = [[0f32; COUNT]; ROWS];
    // SAFETY: indices are below the length that the caller vouches for.
    unsafe {
        let mut sums = [[V::zero(); COUNT]; ROWS];
        let mut at = 0;
        while at < whole {
            if ROWS > 1 {
                let next = first.wrapping_add(ROWS * at).cast::<u8>();
                for line in 0..(ROWS * V::LANES * size_of::<T>()).div_ceil(LINE) {
                    V::prefetch(next.wrapping_add(line * LINE));
                }
            }
            let mut weights = [V::zero(); ROWS];
            for row in 0..ROWS {
                weights[row] = T::load::<V>(rows[row].as_ptr().add(at));
            }
            for i in 0..COUNT {
                let x = V::load(x[i].as_ptr().add(at));
                for row in 0..ROWS {
                    sums[row][i] = weights[row].times_plus(x, sums[row][i]);
                }
            }
            at += V::LANES;
        }
        let (fours, rest) = sums.as_flattened().as_chunks::<4>();
        let (of_fours, of_rest) = results.as_flattened_mut().as_chunks_mut::<4>();
        for four in 0..fours.len() {
            of_fours[four] = V::sums(fours[four]);
        }
        for i in 0..rest.len() {
            of_rest[i] = rest[i].sum();
        }
        for row in 0..ROWS {
            for i in 0..COUNT {
                for at in whole..width {
                    results[row][i] += rows[row].get_unchecked(at).widen() * x[i].get_unchecked(at);
                }
            }
        }
    }
    results
}

struct Weighted<'a, T> {
    rows: &'a [T],
    /// Width, factors, and how far those of a vector lie behind those of the vector before.
    sum: (usize, &'a [f32], usize),
}

impl<T: Stored> Work for Weighted<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self, y: &mut [f32]) {
        let (width, weights, stride) = self.sum;
        let rows = self.rows;
        let vectors = y.chunks_exact_mut(width).zip(weights.chunks(stride));
        for (y, weights) in vectors {
            let weights = &weights[..rows.len() / width];
            let mut at = 0;
            // SAFETY: as for this function; there is a row for each weight, and all rows and `y` have `width`
            // numbers.
            unsafe {
                while at + 4 * V::LANES <= width {
                    weighted::<V, T, 4>(rows, width, at, weights, y);
                    at += 4 * V::LANES;
                }
                while at + V::LANES <= width {
                    weighted::<V, T, 1>(rows, width, at, weights, y);
                    at += V::LANES;
                }
            }
            for (row, weight) in rows.chunks_exact(width).zip(weights) {
                for (y, number) in y[at..].iter_mut().zip(&row[at..]) {
                    *y += weight * number.widen();
                }
            }
        }
    }
}

/// The sums of `PARTS` vectors of each row, from `at` on.
///
/// # Safety
///
/// The processor has the instructions of `V`; there is a row for each weight, and every row, and `y`, has so
/// many numbers from `at` on.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "closures are not compiled for the processor of their function"
)]
unsafe fn weighted<V: Vector, T: Stored, const PARTS: usize>(
    rows: &[T],
    width: usize,
    at: usize,
    weights: &[f32],
    y: &mut [f32],
) {
    // SAFETY: as for this function.
    unsafe {
        let place = y.as_mut_ptr().add(at);
        // Two sums of each, so that one needs not wait for the other.
        let mut sums = [V::zero(); PARTS];
        let mut more = sums;
        for i in 0..PARTS {
            sums[i] = V::load(place.add(i * V::LANES));
        }
        let (pairs, last) = weights.as_chunks::<2>();
        for (pair, weights) in pairs.iter().enumerate() {
            let row = rows.as_ptr().add(2 * pair * width + at);
            let (even, odd) = (V::repeat(weights[0]), V::repeat(weights[1]));
            for i in 0..PARTS {
                let x = T::load::<V>(row.add(i * V::LANES));
                sums[i] = x.times_plus(even, sums[i]);
                let x = T::load::<V>(row.add(width + i * V::LANES));
                more[i] = x.times_plus(odd, more[i]);
            }
        }
        if let [weight] = last {
            let row = rows.as_ptr().add((weights.len() - 1) * width + at);
            for i in 0..PARTS {
                let x = T::load::<V>(row.add(i * V::LANES));
                sums[i] = x.times_plus(V::repeat(*weight), sums[i]);
            }
        }
        let one = V::repeat(1.0);
        for i in 0..PARTS {
            more[i]
                .times_plus(one, sums[i])
                .store(place.add(i * V::LANES));
        }
    }
}

#[cfg(test)]
mod tests;
