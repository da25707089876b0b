//! `x Wᵀ` for a few rows, straight from the blocks.
//!
//! The product never sees the numbers of the matrix: with codes q, a scale s and a bias b, the sum over a
//! group is Σ (q s + b) x = s Σ q x + b Σ x, and Σ x is the same for all outputs.

use super::decode::{Decode, with_decoder};
#[cfg(target_arch = "x86_64")]
use super::lanes::Avx2;
use super::lanes::Lanes;
use crate::backend::kernels::{numbers, rows};
use crate::backend::ops::blocks::BlockType;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// `x Wᵀ` for `x` of shape (rows, in) in `f32`, contiguous, with at least one row; and blocks of a matrix
/// with rows of in.
///
/// Rows go four at a time, so its cost is that of a multiple of four of them, or of one.
pub(in crate::backend) fn block_few_rows(
    x: &Tensor,
    kind: BlockType,
    blocks: &[u8],
) -> Result<Tensor> {
    x.apply_op1_no_bwd(&FewRows { kind, blocks })
}

struct FewRows<'a> {
    kind: BlockType,
    blocks: &'a [u8],
}

impl CustomOp1 for FewRows<'_> {
    fn name(&self) -> &'static str {
        "block-few-rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (count, input) = layout.shape().dims2()?;
        let x = numbers(x, layout)?;
        let output = self.blocks.len() / self.kind.row_bytes(input);
        let mut y = Vec::with_capacity(count * output);
        if count == 1 {
            y.extend(Rows::<1>::new(x, input).product(self));
        } else {
            for x in x.chunks(4 * input) {
                let columns = Rows::<4>::new(x, input).product(self);
                for row in 0..x.len() / input {
                    y.extend(columns.iter().skip(row).step_by(4));
                }
            }
        }
        Ok((CpuStorage::F32(y), Shape::from((count, output))))
    }
}

/// Some rows, or fewer and zeros, with the sums that biases need.
struct Rows<const ROWS: usize> {
    numbers: Vec<[[f32; 8]; ROWS]>,
    /// The sums of 16 numbers, still in eight parts.
    sums: Vec<[[f32; 8]; ROWS]>,
}

impl<const ROWS: usize> Rows<ROWS> {
    fn new(x: &[f32], input: usize) -> Self {
        let mut numbers = vec![[[0f32; 8]; ROWS]; input / 8];
        for (row, x) in x.chunks_exact(input).enumerate() {
            for (numbers, x) in numbers.iter_mut().zip(x.as_chunks().0) {
                numbers[row] = *x;
            }
        }
        let sum = |[a, b]: &[[[f32; 8]; ROWS]; 2]| {
            std::array::from_fn(|row| std::array::from_fn(|lane| a[row][lane] + b[row][lane]))
        };
        let sums = numbers.as_chunks().0.iter().map(sum).collect();
        Self { numbers, sums }
    }

    /// The outputs of all rows, output by output.
    fn product(&self, weight: &FewRows) -> Vec<f32> {
        /// Outputs that one task computes; the cost of a task is that of reading their blocks.
        const OUTPUTS: usize = 32;
        let input = self.numbers.len() * 8;
        let bytes = weight.kind.row_bytes(input);
        let output = weight.blocks.len() / bytes;
        let tasks = output.div_ceil(OUTPUTS);
        let mut columns = rows(tasks, OUTPUTS * ROWS, input, |task, y| {
            let blocks = weight.blocks[task * OUTPUTS * bytes..].chunks_exact(bytes);
            for (y, blocks) in y.as_chunks_mut().0.iter_mut().zip(blocks) {
                *y = self.dots(weight.kind, blocks);
            }
        });
        columns.truncate(output * ROWS);
        columns
    }

    /// The products with one row of the matrix.
    fn dots(&self, kind: BlockType, blocks: &[u8]) -> [f32; ROWS] {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                #[allow(unsafe_code, reason = "features that only some processors have")]
                // SAFETY: this processor has both features.
                return unsafe { self.dots_avx2(kind, blocks) };
            }
        }
        self.dots_portable(kind, blocks)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn dots_avx2(&self, kind: BlockType, blocks: &[u8]) -> [f32; ROWS] {
        with_decoder!(kind, D => self.dots_with::<Avx2, D, _, _, _, _>(blocks))
    }

    fn dots_portable(&self, kind: BlockType, blocks: &[u8]) -> [f32; ROWS] {
        with_decoder!(kind, D => self.dots_with::<[f32; 8], D, _, _, _, _>(blocks))
    }

    #[inline(always)]
    fn dots_with<
        L: Lanes,
        D: Decode<BYTES, EIGHTS, GROUPS, BIASES>,
        const BYTES: usize,
        const EIGHTS: usize,
        const GROUPS: usize,
        const BIASES: usize,
    >(
        &self,
        blocks: &[u8],
    ) -> [f32; ROWS] {
        let group = EIGHTS / GROUPS;
        // Two sums, so that neither waits for the other.
        let mut scaled = [L::repeat(0.0); ROWS];
        let mut biased = [L::repeat(0.0); ROWS];
        let numbers = self.numbers.chunks_exact(EIGHTS);
        let sums = self.sums.chunks_exact(EIGHTS / 2);
        let blocks = blocks.as_chunks().0.iter();
        for ((block, numbers), sums) in blocks.zip(numbers).zip(sums) {
            let block = D::block(block);
            let codes = block.codes.chunks_exact(group).zip(&block.scales);
            for ((codes, &scale), numbers) in codes.zip(numbers.chunks_exact(group)) {
                let mut products = [L::repeat(0.0); ROWS];
                for (&codes, numbers) in codes.iter().zip(numbers) {
                    let codes = L::codes(codes);
                    for (product, x) in products.iter_mut().zip(numbers) {
                        *product = codes.times_plus(L::new(x), *product);
                    }
                }
                let scale = L::repeat(scale);
                for (total, product) in scaled.iter_mut().zip(products) {
                    *total = scale.times_plus(product, *total);
                }
            }
            for (&bias, sums) in block.biases.iter().zip(sums.chunks_exact(group / 2)) {
                let bias = L::repeat(bias);
                for (row, total) in biased.iter_mut().enumerate() {
                    let mut sum = L::repeat(0.0);
                    for part in sums {
                        sum = sum.plus(L::new(&part[row]));
                    }
                    *total = bias.times_plus(sum, *total);
                }
            }
        }
        std::array::from_fn(|row| scaled[row].plus(biased[row]).numbers().iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::kernels::assert_close;
    use crate::backend::ops::blocks::BlockWeight;
    use crate::backend::ops::gradcheck::random;
    use candle_core::DType;

    #[test]
    fn a_few_rows_agree_with_the_matrix_product() {
        // The last goes to several threads.
        for (output, input) in [(1, 256), (33, 512), (70, 1792)] {
            for kind in BlockType::ALL {
                let weight = BlockWeight::quantize(&random(&[output, input], 2), kind).unwrap();
                let dense = weight.dequantize(DType::F32).unwrap();
                let blocks = weight.bytes().unwrap();
                for count in [1, 2, 3, 4, 5, 8, 11] {
                    // Rows out of more rows.
                    let x = random(&[count + 1, input], 1).narrow(0, 1, count).unwrap();
                    let expected = x.matmul(&dense.t().unwrap()).unwrap();
                    let found = block_few_rows(&x, kind, &blocks).unwrap();
                    assert_close(&found, &expected, 1e-4);
                }
            }
        }
    }

    #[test]
    fn both_products_of_a_row_agree() {
        fn agree<const ROWS: usize>(kind: BlockType, blocks: &[u8]) {
            let x = random(&[ROWS, 768], 1).flatten_all().unwrap();
            let x = Rows::<ROWS>::new(&x.to_vec1().unwrap(), 768);
            for (a, b) in (x.dots(kind, blocks).iter()).zip(x.dots_portable(kind, blocks)) {
                assert!(
                    (a - b).abs() < 1e-5 * b.abs().max(10.0),
                    "{kind:?}: {a} {b}"
                );
            }
        }
        for kind in BlockType::ALL {
            let weight = BlockWeight::quantize(&random(&[1, 768], 2), kind).unwrap();
            let blocks = weight.bytes().unwrap();
            agree::<1>(kind, &blocks);
            agree::<4>(kind, &blocks);
        }
    }
}
