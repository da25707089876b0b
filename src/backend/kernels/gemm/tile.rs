//! The innermost loop: a tile of the result, held in registers.

use super::simd::{MAX_LANES, Simd};

/// The block for each row, written out: sums in an array stay in registers only where no loop is left when
/// the compiler places them, and it does not unroll so long ones early enough.
macro_rules! for_each_row {
    ($row:ident < $rows:expr => $block:block) => {
        for_each_row!(@ $row, $rows, $block, 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $row:ident, $rows:expr, $block:block, $($index:literal)+) => {
        $(if $index < $rows {
            let $row = $index;
            $block
        })+
    };
}
pub(super) use for_each_row;

/// What a tile is computed of, and where it goes.
#[derive(Clone, Copy)]
pub(in crate::backend::kernels) struct Operands {
    /// Words along the depth.
    pub depth: usize,
    /// As many words for each step as the tile has rows.
    pub left: *const u32,
    /// As many words for each step as the tile has columns.
    pub right: *const u32,
    pub result: *mut f32,
    /// From one row of the result to the next.
    pub stride: usize,
    /// The part of the tile that lies in the result.
    pub rows: usize,
    pub columns: usize,
    /// Whether the tile is added to the result, or takes its place.
    pub add: bool,
}

/// A tile of `ROWS` rows and `VECTORS` vectors of columns.
///
/// # Safety
///
/// As for [`Simd`]; pointers are good for what [`Operands`] says.
#[inline(always)]
pub(in crate::backend::kernels) unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
    operands: Operands,
) {
    let Operands {
        depth,
        mut left,
        mut right,
        result,
        stride,
        rows,
        columns,
        add,
    } = operands;
    // SAFETY: the caller's.
    unsafe {
        // Zeros of all vectors. An array that is filled by a loop would stay in memory, too.
        let mut sums: [[S::Vector; VECTORS]; ROWS] = std::mem::zeroed();
        for _ in 0..depth {
            let mut b = [S::zero(); VECTORS];
            for (vector, b) in b.iter_mut().enumerate() {
                *b = S::load(right.add(vector * S::LANES));
            }
            for_each_row!(row < ROWS => {
                let a = S::repeat(left.add(row));
                for (sum, b) in sums[row].iter_mut().zip(b) {
                    *sum = S::mul_add(a, b, *sum);
                }
            });
            left = left.add(ROWS);
            right = right.add(VECTORS * S::LANES);
        }
        for_each_row!(row < ROWS => {
            if row < rows {
                let result = result.add(row * stride);
                if columns == VECTORS * S::LANES {
                    for (vector, sum) in sums[row].iter().enumerate() {
                        let place = result.add(vector * S::LANES).cast::<u32>();
                        let sum = if add { S::add(S::load(place), *sum) } else { *sum };
                        S::store(place, sum);
                    }
                } else {
                    part::<S, VECTORS>(&sums[row], result, columns, add);
                }
            }
        });
    }
}

/// The part of a row that lies in the result.
#[inline(always)]
unsafe fn part<S: Simd, const VECTORS: usize>(
    sums: &[S::Vector; VECTORS],
    result: *mut f32,
    columns: usize,
    add: bool,
) {
    let mut line = [[0f32; MAX_LANES]; VECTORS];
    // SAFETY: the caller's.
    unsafe {
        for (line, sum) in line.iter_mut().zip(sums) {
            S::store(line.as_mut_ptr().cast(), *sum);
        }
        for column in 0..columns {
            let place = result.add(column);
            let sum = line[column / S::LANES][column % S::LANES];
            *place = if add { *place + sum } else { sum };
        }
    }
}
