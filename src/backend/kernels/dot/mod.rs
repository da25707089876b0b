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

/// `y[row][i] = <weights[row], x[i]>` for all vectors of `width` numbers in `weights` and `x`.
///
/// # Panics
///
/// When `y` is not of that size; numbers of `weights` and `x` that are no whole vector are not read.
pub(in crate::backend) fn dots(weights: Numbers<'_>, width: usize, x: &[f32], y: &mut [f32]) {
    match weights {
        Numbers::F32(weights) => on_this_processor(Dots { weights, width, x }, y),
        Numbers::F16(weights) => on_this_processor(Dots { weights, width, x }, y),
        Numbers::Bf16(weights) => on_this_processor(Dots { weights, width, x }, y),
    }
}

/// `y[i] += Σ weights[row][i] · rows[row]`, where `weights` has a factor for each row and each of the
/// `count` vectors of `y`, and rows have `width` numbers.
///
/// # Panics
///
/// When the sizes do not fit.
pub(in crate::backend) fn add_weighted(
    rows: Numbers<'_>,
    width: usize,
    weights: &[f32],
    count: usize,
    y: &mut [f32],
) {
    assert!(weights.len() == rows.len() / width * count && y.len() == width * count);
    let sum = (width, weights, count);
    match rows {
        Numbers::F32(rows) => on_this_processor(Weighted { rows, sum }, y),
        Numbers::F16(rows) => on_this_processor(Weighted { rows, sum }, y),
        Numbers::Bf16(rows) => on_this_processor(Weighted { rows, sum }, y),
    }
}

/// Replaces each number by its exponential.
pub(super) fn exp_all(x: &mut [f32]) {
    on_this_processor(Exp, x);
}

/// Replaces each number of `gate` by `silu(gate) · up`.
pub(super) fn swiglu_all(up: &[f32], gate: &mut [f32]) {
    on_this_processor(Swiglu { up }, gate);
}

struct Exp;

impl Work for Exp {
    #[inline(always)]
    unsafe fn run<V: Vector>(self, y: &mut [f32]) {
        for y in y {
            *y = exp(*y);
        }
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
}

impl<T: Stored> Work for Dots<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self, y: &mut [f32]) {
        let Self { weights, width, x } = self;
        if width == 0 || y.is_empty() {
            return y.fill(0.0);
        }
        let (rows, count) = (weights.len() / width, x.len() / width);
        assert_eq!(y.len(), rows * count);
        // SAFETY: as for this function.
        unsafe {
            let mut done = 0;
            while done + 4 <= count {
                columns::<V, T, 4>(weights, width, &x[done * width..], count, &mut y[done..]);
                done += 4;
            }
            if let Some(y) = y.get_mut(done..) {
                let x = &x[done * width..];
                match count - done {
                    3 => columns::<V, T, 3>(weights, width, x, count, y),
                    2 => columns::<V, T, 2>(weights, width, x, count, y),
                    1 => columns::<V, T, 1>(weights, width, x, count, y),
                    _ => {}
                }
            }
        }
    }
}

/// The products of all rows with the first `COUNT` vectors of `x`; those of a row lie `stride` behind those of
/// the row before.
///
/// One row after the other: processors read ahead badly in several at once, which took 1.4 times as long.
///
/// # Safety
///
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn columns<V: Vector, T: Stored, const COUNT: usize>(
    weights: &[T],
    width: usize,
    x: &[f32],
    stride: usize,
    y: &mut [f32],
) {
    let x: [&[f32]; COUNT] = std::array::from_fn(|i| &x[i * width..][..width]);
    for (weights, y) in weights.chunks_exact(width).zip(y.chunks_mut(stride)) {
        // SAFETY: as for this function; all have `width` numbers.
        let products = unsafe { products::<V, T, COUNT>(weights, x) };
        y[..COUNT].copy_from_slice(&products);
    }
}

/// # Safety
///
/// The processor has the instructions of `V`; all `x` are as long as `weights`.
#[inline(always)]
unsafe fn products<V: Vector, T: Stored, const COUNT: usize>(
    weights: &[T],
    x: [&[f32]; COUNT],
) -> [f32; COUNT] {
    // SAFETY: indices are below the lengths that the caller vouches for.
    unsafe {
        let mut sums = [V::zero(); COUNT];
        let whole = weights.len() - weights.len() % V::LANES;
        let mut at = 0;
        while at < whole {
            let weights = T::load::<V>(weights.as_ptr().add(at));
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = weights.times_plus(V::load(x.as_ptr().add(at)), *sum);
            }
            at += V::LANES;
        }
        let mut results = [0f32; COUNT];
        for ((result, sum), x) in results.iter_mut().zip(sums).zip(x) {
            *result = sum.sum();
            for at in whole..weights.len() {
                *result += weights.get_unchecked(at).widen() * x.get_unchecked(at);
            }
        }
        results
    }
}

struct Weighted<'a, T> {
    rows: &'a [T],
    /// Width, factors, and vectors of the result.
    sum: (usize, &'a [f32], usize),
}

impl<T: Stored> Work for Weighted<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self, y: &mut [f32]) {
        let (width, weights, count) = self.sum;
        let rows = self.rows;
        if rows.is_empty() {
            return;
        }
        for (index, y) in y.chunks_exact_mut(width.max(1)).enumerate() {
            let mut at = 0;
            // SAFETY: as for this function; the caller checked that `rows` has a row of `width` numbers for
            // each `count` weights, and `y` has `width`.
            unsafe {
                while at + 4 * V::LANES <= width {
                    weighted::<V, T, 4>(rows, width, at, &weights[index..], count, y);
                    at += 4 * V::LANES;
                }
                while at + V::LANES <= width {
                    weighted::<V, T, 1>(rows, width, at, &weights[index..], count, y);
                    at += V::LANES;
                }
            }
            for (row, weights) in rows.chunks_exact(width).zip(weights.chunks_exact(count)) {
                for (y, number) in y[at..].iter_mut().zip(&row[at..]) {
                    *y += weights[index] * number.widen();
                }
            }
        }
    }
}

/// The sums of `PARTS` vectors of each row, from `at` on.
///
/// # Safety
///
/// The processor has the instructions of `V`; every row, and `y`, has so many numbers from `at` on.
#[inline(always)]
unsafe fn weighted<V: Vector, T: Stored, const PARTS: usize>(
    rows: &[T],
    width: usize,
    at: usize,
    weights: &[f32],
    count: usize,
    y: &mut [f32],
) {
    // SAFETY: as for this function.
    unsafe {
        let place = y.as_mut_ptr().add(at);
        let mut sums: [V; PARTS] = std::array::from_fn(|i| V::load(place.add(i * V::LANES)));
        for (row, weight) in rows.chunks_exact(width).zip(weights.iter().step_by(count)) {
            let weight = V::repeat(*weight);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = T::load::<V>(row.as_ptr().add(at + i * V::LANES)).times_plus(weight, *sum);
            }
        }
        for (i, sum) in sums.into_iter().enumerate() {
            sum.store(place.add(i * V::LANES));
        }
    }
}

#[cfg(test)]
mod tests;
