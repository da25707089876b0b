//! What forward and backward share: packing, scores, and the softmax of a row.

use super::super::dot::MASKED;
use super::super::exp;
use super::super::gemm::pack::View;
use super::super::gemm::shared::Shared;
use super::super::gemm::simd::{Simd, height};
use super::super::gemm::tile::Operands;
use super::super::heads::Heads;
use std::ops::Range;

/// Sums and maxima are of so many numbers at once.
const LANES: usize = 16;

/// The words of packed lines: one for each of a panel's lines and each step of the depth.
pub(super) fn words_along<S: Simd>(lines: usize, depth: usize) -> usize {
    lines.next_multiple_of(S::COLUMNS) * depth
}

/// Packs some keys, the first of which begins a panel, so that products with them are sums over their
/// dimensions: a panel has `COLUMNS` keys.
///
/// # Safety
///
/// As for [`Simd`]; `to` has room for [`words_along`] of all keys and `dim`, and they are in the head.
#[inline(always)]
pub(super) unsafe fn pack_keys<S: Simd>(
    of: &Heads<'_>,
    [text, head]: [usize; 2],
    keys: Range<usize>,
    to: Shared,
) {
    let dim = of.dims[3];
    let view = View {
        numbers: of.head(text, head),
        stride: of.strides[2],
        along: true,
    };
    assert!(view.has(keys.end, dim) && keys.start.is_multiple_of(S::COLUMNS));
    for start in keys.clone().step_by(S::COLUMNS) {
        let end = keys.end.min(start + S::COLUMNS);
        // SAFETY: the caller's; the view was checked.
        unsafe {
            let to = to.at(start * dim).0.cast();
            view.pack::<S>(start..end, 0..dim, S::COLUMNS, to);
        }
    }
}

/// Packs some keys, so that products with them are sums over keys: a panel has `COLUMNS` dimensions of all
/// `count` keys.
///
/// # Safety
///
/// As for [`Simd`]; `to` has room for [`words_along`] of `dim` and `count`, and the keys are in the head.
#[inline(always)]
pub(super) unsafe fn pack_values<S: Simd>(
    of: &Heads<'_>,
    [text, head]: [usize; 2],
    keys: Range<usize>,
    count: usize,
    to: Shared,
) {
    let dim = of.dims[3];
    let view = View {
        numbers: of.head(text, head),
        stride: of.strides[2],
        along: false,
    };
    assert!(view.has(dim, keys.end) && keys.end <= count);
    for start in (0..dim).step_by(S::COLUMNS) {
        let end = dim.min(start + S::COLUMNS);
        // SAFETY: the caller's; the view was checked.
        unsafe {
            let to = to.at(start * count + keys.start * S::COLUMNS).0.cast();
            view.pack::<S>(start..end, keys.clone(), S::COLUMNS, to);
        }
    }
}

/// Packs rows that lie one after the other in `numbers`, so that they are the left operand of a tile.
///
/// # Safety
///
/// As for [`Simd`]; `to` has room for `ROWS` words for each number of a row, and `LANES` more.
#[inline(always)]
pub(super) unsafe fn pack_rows<S: Simd>(
    numbers: &[f32],
    stride: usize,
    rows: usize,
    depth: Range<usize>,
    to: &mut [f32],
) {
    let view = View {
        numbers,
        stride,
        along: true,
    };
    assert!(view.has(rows, depth.end) && to.len() >= S::ROWS * depth.len() + S::LANES);
    // SAFETY: the caller's; lengths were checked.
    unsafe { view.pack::<S>(0..rows, depth, height::<S>(rows), to.as_mut_ptr().cast()) };
}

/// The products of packed rows with the keys of some panels, into rows of `result`, whose first column is that
/// of the first key.
///
/// # Safety
///
/// As for [`Simd`]; the keys were packed by [`pack_keys`], and the rows by [`pack_rows`].
#[inline(always)]
pub(super) unsafe fn scores<S: Simd>(
    left: &[f32],
    rows: usize,
    dim: usize,
    keys: Shared,
    of: Range<usize>,
    result: &mut [f32],
    stride: usize,
) {
    let width = of.len().next_multiple_of(S::COLUMNS);
    assert!(width <= stride && result.len() >= (rows - 1) * stride + width);
    for start in of.clone().step_by(S::COLUMNS) {
        // SAFETY: the caller's; the result has room.
        unsafe {
            S::tile(
                height::<S>(rows),
                Operands {
                    depth: dim,
                    left: left.as_ptr().cast(),
                    right: keys.at(start * dim).0.cast(),
                    result: result.as_mut_ptr().add(start - of.start),
                    stride,
                    rows,
                    columns: S::COLUMNS,
                    add: false,
                },
            );
        }
    }
}

/// Of packed rows and values the sums over the given keys, into rows of `result`.
///
/// # Safety
///
/// As for [`Simd`]; `count` values were packed by [`pack_values`], and the rows by [`pack_rows`].
#[inline(always)]
pub(super) unsafe fn sums<S: Simd>(
    left: &[f32],
    rows: usize,
    dim: usize,
    (values, count): (Shared, usize),
    keys: &Range<usize>,
    result: &mut [f32],
) {
    let stride = dim.next_multiple_of(S::COLUMNS);
    assert!(keys.end <= count && result.len() >= rows * stride);
    for start in (0..dim).step_by(S::COLUMNS) {
        // SAFETY: the caller's; the result has room.
        unsafe {
            S::tile(
                height::<S>(rows),
                Operands {
                    depth: keys.len(),
                    left: left.as_ptr().cast(),
                    right: values.at(start * count + keys.start * S::COLUMNS).0.cast(),
                    result: result.as_mut_ptr().add(start),
                    stride,
                    rows,
                    columns: S::COLUMNS,
                    add: false,
                },
            );
        }
    }
}

/// Whole vectors of a row of scores around those that are seen, within those that were written.
#[inline(always)]
pub(super) fn vectors(seen: &Range<usize>, written: &Range<usize>) -> Range<usize> {
    let start = (seen.start / LANES * LANES).max(written.start);
    start..seen.end.next_multiple_of(LANES).min(written.end)
}

/// Makes exponentials of a row of scores, less the largest, and gives the inverse of their sum. What the row
/// does not see becomes zero. `written` are the scores that there are.
#[inline(always)]
pub(super) fn exponentials(row: &mut [f32], seen: &Range<usize>, written: &Range<usize>) -> f32 {
    let within = vectors(seen, written);
    row[..within.start].fill(0.0);
    row[within.end..].fill(0.0);
    row[within.start..seen.start].fill(MASKED);
    row[seen.end..within.end].fill(MASKED);
    let row = &mut row[within];
    1.0 / exp::exponentials::<LANES>(row, exp::largest::<LANES>(row))
}

/// The sum of the products of two rows.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| a * b);
    sums.iter().sum::<f32>() + rest.sum::<f32>()
}
