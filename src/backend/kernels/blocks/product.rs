//! `x Wᵀ` with `x` in eight bits, on all threads.

use super::codes::Codes;
#[cfg(target_arch = "x86_64")]
use super::codes::UNIT;
use super::dot::dot_rows;
#[cfg(target_arch = "x86_64")]
use super::wide;
use crate::backend::kernels::{PARALLEL_ELEMENTS, numbers};
use crate::backend::ops::blocks::BlockType;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
#[cfg(target_arch = "x86_64")]
use std::cell::Cell;

/// Rows from which on it pays to put the codes of the matrix into another order.
const MANY_ROWS: usize = 8;

/// Tasks for each thread, so that one which is interrupted does not keep the others waiting for long.
const TASKS: usize = 4;

/// Units of four rows that are in eight bits at once: 14 MB.
#[cfg(target_arch = "x86_64")]
const AT_ONCE: usize = 1 << 16;

/// Whether [`block_product`] is faster for so many rows than a product with numbers of the matrix.
pub(in crate::backend) fn takes_block_product(rows: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    let (takes_few, takes_many) = (is_x86_feature_detected!("avx2"), wide::is_there());
    #[cfg(not(target_arch = "x86_64"))]
    let (takes_few, takes_many) = (false, false);
    if rows < MANY_ROWS {
        takes_few
    } else {
        takes_many
    }
}

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
        let (count, input) = layout.shape().dims2()?;
        let x = numbers(x, layout)?;
        let output = self.blocks.len().checked_div(self.kind.row_bytes(input));
        let output = output.unwrap_or(0);
        let mut y = vec![0f32; count * output];
        #[cfg(target_arch = "x86_64")]
        if count >= MANY_ROWS && output > 0 && wide::is_there() {
            self.many_rows(x, input, output, AT_ONCE, &mut y);
            return Ok((CpuStorage::F32(y), Shape::from((count, output))));
        }
        self.few_rows(x, input, output, &mut y);
        Ok((CpuStorage::F32(y), Shape::from((count, output))))
    }
}

impl Product<'_> {
    fn few_rows(&self, x: &[f32], input: usize, output: usize, y: &mut [f32]) {
        let mut codes = Codes::default();
        codes.quantize(x, input);
        // A row of the matrix is read for every four rows of `x`.
        let cost = self.blocks.len() * x.len().div_ceil(4 * input.max(1));
        let tasks = if cost < PARALLEL_ELEMENTS {
            1
        } else {
            TASKS * rayon::current_num_threads()
        };
        let len = output.div_ceil(tasks).next_multiple_of(8);
        let parts: Vec<Vec<&mut [f32]>> = columns(y, output, len);
        parts.into_par_iter().enumerate().for_each(|(task, mut y)| {
            let outputs = task * len..(task + 1) * len;
            dot_rows(self.kind, self.blocks, outputs, &codes, &mut y);
        });
    }

    /// All outputs, at least one, on a processor with what [`wide`] needs; so many units of four rows are in eight
    /// bits at once.
    #[cfg(target_arch = "x86_64")]
    fn many_rows(&self, x: &[f32], input: usize, output: usize, at_once: usize, y: &mut [f32]) {
        thread_local! {
            /// Kept from product to product.
            static ROWS: Cell<Vec<wide::Rows>> = const { Cell::new(Vec::new()) };
        }
        let units = input / UNIT;
        let rows = wide::ROWS * (at_once / units).max(1);
        let mut kept = ROWS.take();
        for (x, y) in x.chunks(rows * input).zip(y.chunks_mut(rows * output)) {
            let len = x.len().div_ceil(wide::ROWS * input) * units;
            if kept.len() < len {
                kept.resize(len, wide::Rows::ZERO);
            }
            if let Some(rows) = kept.get_mut(..len) {
                self.rows(x, input, rows);
                self.tiles(rows, units, output, y);
            }
        }
        ROWS.set(kept);
    }

    /// Rounds the activations.
    #[cfg(target_arch = "x86_64")]
    fn rows(&self, x: &[f32], input: usize, rows: &mut [wide::Rows]) {
        let units = input / UNIT;
        let at_once = (PARALLEL_ELEMENTS / 4).div_ceil(wide::ROWS * input);
        let x = x.par_chunks(at_once * wide::ROWS * input);
        let rows = rows.par_chunks_mut(at_once * units);
        rows.zip(x).for_each(|(rows, x)| {
            #[allow(unsafe_code, reason = "features that only some processors have")]
            // SAFETY: this processor has them.
            unsafe {
                wide::quantize(self.kind, x, input, rows);
            };
        });
    }

    #[cfg(target_arch = "x86_64")]
    fn tiles(&self, x: &[wide::Rows], units: usize, output: usize, y: &mut [f32]) {
        /// Tiles above each other that a task has at least, since it turns the matrix for them.
        const TALL: usize = 8;
        let threads = rayon::current_num_threads();
        let blocks = output.div_ceil(wide::COLUMNS);
        let width = blocks.div_ceil(TASKS * threads);
        let wide_tasks = blocks.div_ceil(width);
        let tall = x.len() / units;
        // Where there are few columns, rows are shared out too.
        let tall_tasks = if wide_tasks >= 2 * threads {
            1
        } else {
            (3 * threads).div_ceil(wide_tasks).min(tall.div_ceil(TALL))
        };
        let height = tall.div_ceil(tall_tasks);
        let width = width * wide::COLUMNS;
        let bytes = self.blocks.len() / output;
        let parts = x.chunks(height * units);
        let parts = parts.zip(y.chunks_mut(height * wide::ROWS * output));
        let tasks: Vec<_> = parts
            .flat_map(|(x, y)| {
                let columns = columns(y, output, width).into_iter();
                let weights = self.blocks.chunks(width * bytes);
                columns.zip(weights).map(move |(y, weight)| (x, y, weight))
            })
            .collect();
        let tasks = tasks.into_par_iter().with_max_len(1);
        tasks.for_each(|(x, mut y, weight)| {
            #[allow(unsafe_code, reason = "features that only some processors have")]
            // SAFETY: this processor has them.
            unsafe {
                wide::columns(self.kind, weight, bytes, x, units, &mut y);
            };
        });
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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::backend::ops::blocks::BlockWeight;
    use crate::backend::ops::gradcheck::random;

    fn numbers(shape: &[usize], seed: u64) -> Vec<f32> {
        let numbers = random(shape, seed).flatten_all().unwrap();
        numbers.to_vec1().unwrap()
    }

    fn blocks(kind: BlockType, output: usize, input: usize) -> Vec<u8> {
        let weight = BlockWeight::quantize(&random(&[output, input], 2), kind).unwrap();
        weight.bytes().unwrap().into_owned()
    }

    /// The tests of `dot_rows` say how far these are from the exact sums.
    #[test]
    fn many_rows_are_as_few() {
        if !wide::is_there() {
            return;
        }
        for kind in BlockType::ALL {
            let len = kind.block_len();
            // Units beside eights and pairs, columns beside tiles, and rows beside fours.
            for (rows, output, input) in [(8, 1, len), (9, 33, 7 * len), (30, 75, 1792)] {
                let blocks = blocks(kind, output, input);
                let product = Product {
                    kind,
                    blocks: &blocks,
                };
                let x = numbers(&[rows, input], 1);
                let (mut few, mut many) =
                    (vec![f32::NAN; rows * output], vec![f32::NAN; rows * output]);
                product.few_rows(&x, input, output, &mut few);
                product.many_rows(&x, input, output, AT_ONCE, &mut many);
                for (a, b) in many.iter().zip(&few) {
                    assert!((a - b).abs() <= 3e-5, "{kind:?}: {a} {b}");
                }
                // Some rows after the other, and shared out in both directions.
                let pool = rayon::ThreadPoolBuilder::new().num_threads(8);
                let parts = pool.build().unwrap().install(|| {
                    let mut parts = vec![f32::NAN; rows * output];
                    product.many_rows(&x, input, output, 4 * input / UNIT, &mut parts);
                    parts
                });
                assert!(parts == many, "{kind:?}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_in_its_row() {
        if !wide::is_there() {
            return;
        }
        let blocks = blocks(BlockType::Q8_0, 3, 64);
        let product = Product {
            kind: BlockType::Q8_0,
            blocks: &blocks,
        };
        for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            // Zeros, and numbers that have no inverse.
            let mut x = vec![0f32; 12 * 64];
            x[..64].fill(1e-39);
            x[3 * 64 + 5] = number;
            let mut y = vec![7f32; 12 * 3];
            product.many_rows(&x, 64, 3, AT_ONCE, &mut y);
            for (index, y) in y.into_iter().enumerate() {
                assert!(
                    if index / 3 == 3 { y.is_nan() } else { y == 0.0 },
                    "{index}: {y}"
                );
            }
        }
    }
}
