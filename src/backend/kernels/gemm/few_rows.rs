//! Products of a few rows: inner products with the weights as they lie, each of which is read once.

use super::pack::partial;
use super::simd::{Number, Simd};
use super::tile::for_each_row;
use std::ops::Range;

/// Some rows, the weights, and where the products go.
pub(in crate::backend::kernels) struct Dots<'a, T> {
    /// The words of the rows, one vector of each after the other.
    pub left: *const u32,
    pub weights: &'a [T],
    /// Numbers along the depth, those of a row of the weights.
    pub depth: usize,
    pub result: *mut f32,
    /// From one row of the result to the next.
    pub stride: usize,
    pub rows: usize,
    pub add: bool,
}

/// How many rows [`pack`] makes room for.
pub(super) fn padded<S: Simd>(rows: usize) -> usize {
    rows.next_power_of_two().clamp(2, S::FEW)
}

/// Packs rows for [`Dots`].
///
/// # Safety
///
/// As for [`Simd`]; `to` has room for as many vectors as there are in the padded rows.
#[inline(always)]
pub(super) unsafe fn pack<S: Simd>(x: &[f32], depth: usize, to: *mut u32) {
    let rows = x.len() / depth;
    let step = S::LANES * S::PER_WORD;
    let padded = padded::<S>(rows);
    for (vector, start) in (0..depth).step_by(step).enumerate() {
        let count = step.min(depth - start);
        for row in 0..padded {
            // SAFETY: the caller's.
            unsafe {
                let words = if row >= rows {
                    S::zero()
                } else {
                    let from = x.as_ptr().add(row * depth + start);
                    if count == step {
                        S::words_f32(from)
                    } else {
                        partial::<S, f32>(from, count)
                    }
                };
                S::store(to.add((vector * padded + row) * S::LANES), words);
            }
        }
    }
}

/// The products of the rows, padded to `ROWS`, with some columns, `COLUMNS` at a time.
///
/// # Safety
///
/// As for [`Simd`]; pointers are good for what [`Dots`] says, and the columns are in the weights.
#[inline(always)]
pub(super) unsafe fn dots<S: Simd, T: Number, const ROWS: usize, const COLUMNS: usize>(
    dots: &Dots<'_, T>,
    columns: Range<usize>,
) {
    let depth = dots.depth;
    let step = S::LANES * S::PER_WORD;
    for first in columns.clone().step_by(COLUMNS) {
        let count = COLUMNS.min(columns.end - first);
        // SAFETY: the caller's. Where there are fewer columns the last is read again.
        unsafe {
            let mut weights = [dots.weights.as_ptr(); COLUMNS];
            for (column, weights) in weights.iter_mut().enumerate() {
                *weights = weights.add((first + column.min(count - 1)) * depth);
            }
            // Copying is a call; before it there are no sums yet that would have to leave the registers.
            let whole = depth - depth % step;
            let mut rest: [S::Vector; COLUMNS] = std::mem::zeroed();
            if whole < depth {
                for (rest, from) in rest.iter_mut().zip(weights) {
                    *rest = partial::<S, T>(from.add(whole), depth - whole);
                }
            }
            let mut left = dots.left;
            let mut sums: [[S::Vector; COLUMNS]; ROWS] = std::mem::zeroed();
            for at in (0..whole).step_by(step) {
                let mut w: [S::Vector; COLUMNS] = std::mem::zeroed();
                for (w, from) in w.iter_mut().zip(weights) {
                    *w = T::words::<S>(from.add(at));
                }
                accumulate::<S, ROWS, COLUMNS>(&mut sums, left, w);
                left = left.add(ROWS * S::LANES);
            }
            if whole < depth {
                accumulate::<S, ROWS, COLUMNS>(&mut sums, left, rest);
            }
            for_each_row!(row < ROWS => {
                if row < dots.rows {
                    let mut products = [0f32; COLUMNS];
                    for (product, sum) in products.iter_mut().zip(&sums[row]) {
                        *product = S::sum(*sum);
                    }
                    let result = dots.result.add(row * dots.stride + first);
                    for (column, product) in products.iter().enumerate().take(count) {
                        let place = result.add(column);
                        *place = if dots.add { *place + product } else { *product };
                    }
                }
            });
        }
    }
}

/// Adds the products of one vector of each row and column.
#[inline(always)]
unsafe fn accumulate<S: Simd, const ROWS: usize, const COLUMNS: usize>(
    sums: &mut [[S::Vector; COLUMNS]; ROWS],
    left: *const u32,
    w: [S::Vector; COLUMNS],
) {
    // SAFETY: the caller's.
    unsafe {
        for_each_row!(row < ROWS => {
            let x = S::load(left.add(row * S::LANES));
            for (sum, w) in sums[row].iter_mut().zip(w) {
                *sum = S::mul_add(x, w, *sum);
            }
        });
    }
}
