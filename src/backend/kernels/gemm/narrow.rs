//! Products with few columns, such as those of low ranks.
//!
//! There most of a vector would be empty, so the transposed product is computed.

use super::blocked::{FEW_ROWS, Product};
use super::pack::View;
use super::{Instructions, as_room};
use std::mem::MaybeUninit;

impl Product<'_, f32> {
    /// Computes it with instructions that this processor has, whichever way round is faster.
    pub(super) fn either_way(&self, instructions: Instructions, result: &mut [MaybeUninit<f32>]) {
        if self.columns > FEW_ROWS || self.rows <= self.columns || self.add {
            return self.on(instructions, result);
        }
        let lines;
        let mut left = self.right;
        if !left.along && self.left.along {
            // The rows of the larger matrix then are read as they lie.
            lines = transposed(left.numbers, self.depth, self.columns);
            left = View {
                numbers: &lines,
                stride: self.depth,
                along: true,
            };
        }
        let other_way = Product {
            left,
            right: self.left,
            rows: self.columns,
            columns: self.rows,
            ..*self
        };
        let mut columns = vec![0f32; result.len()];
        other_way.on(instructions, as_room(&mut columns));
        transpose(&columns, self.rows, result);
    }
}

/// The columns of a matrix, (rows, columns), one after the other.
fn transposed(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut result = vec![0f32; rows * columns];
    transpose(matrix, columns, as_room(&mut result));
    result
}

fn transpose(matrix: &[f32], width: usize, result: &mut [MaybeUninit<f32>]) {
    if width == 0 {
        return;
    }
    let height = matrix.len() / width;
    for (column, line) in result.chunks_exact_mut(height.max(1)).enumerate() {
        for (row, number) in line.iter_mut().enumerate() {
            number.write(matrix[row * width + column]);
        }
    }
}
