//! `x Wᵀ` with `x` in eight bits, on all threads.

use super::codes::Codes;
use super::dot::dot_rows;
use crate::backend::kernels::{PARALLEL_ELEMENTS, numbers};
use crate::backend::ops::blocks::BlockType;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// `x Wᵀ` for `x` of shape (rows, in) in `f32`, contiguous, and blocks of a matrix with rows of in; `x` is rounded
/// to codes of eight bits, which share a scale in each 32.
pub(in crate::backend) fn block_product(
    x: &Tensor,
    kind: BlockType,
    blocks: &[u8],
) -> Result<Tensor> {
    x.apply_op1_no_bwd(&Product { kind, blocks })
}

struct Product<'a> {
    kind: BlockType,
    blocks: &'a [u8],
}

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "block-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        /// Tasks for each thread, so that one which is interrupted does not keep the others waiting for long.
        const TASKS: usize = 4;
        let (count, input) = layout.shape().dims2()?;
        let mut codes = Codes::default();
        codes.quantize(numbers(x, layout)?, input);
        let output = self.blocks.len().checked_div(self.kind.row_bytes(input));
        let output = output.unwrap_or(0);
        let mut y = vec![0f32; count * output];
        // A row of the matrix is read for every four rows of `x`.
        let cost = count.div_ceil(4) * input * output;
        let tasks = if cost < PARALLEL_ELEMENTS {
            1
        } else {
            TASKS * rayon::current_num_threads()
        };
        let len = output.div_ceil(tasks).next_multiple_of(8);
        let parts: Vec<Vec<&mut [f32]>> = columns(&mut y, output, len);
        parts.into_par_iter().enumerate().for_each(|(task, mut y)| {
            let outputs = task * len..(task + 1) * len;
            dot_rows(self.kind, self.blocks, outputs, &codes, &mut y);
        });
        Ok((CpuStorage::F32(y), Shape::from((count, output))))
    }
}

/// A matrix with rows of `width` numbers, cut into parts of `len` columns: of each part, its piece of every row.
fn columns(matrix: &mut [f32], width: usize, len: usize) -> Vec<Vec<&mut [f32]>> {
    if width == 0 || len == 0 {
        return Vec::new();
    }
    let rows = matrix.len() / width;
    let mut parts: Vec<_> = (0..width.div_ceil(len))
        .map(|_| Vec::with_capacity(rows))
        .collect();
    for row in matrix.chunks_exact_mut(width) {
        for (part, piece) in parts.iter_mut().zip(row.chunks_mut(len)) {
            part.push(piece);
        }
    }
    parts
}
