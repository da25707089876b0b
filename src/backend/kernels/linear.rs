//! `x Wᵀ` for a few rows: the matrix products of decoding.
//!
//! There the weights are read once and used a few times, so it is memory that decides, not
//! arithmetic; a general matrix product loses more time waking its threads than it saves.

use super::dot::{Numbers, dots};
use super::{numbers, rows};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// Rows up to which this is faster than a general matrix product.
pub(in crate::backend) const FEW_ROWS: usize = 16;

/// `x` has shape (rows, in) in `f32`, `weight` (out, in) in `f32`, `f16` or `bf16`; the result (rows, out).
pub(in crate::backend) fn linear_few_rows(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.apply_op2_no_bwd(weight, &FewRows)
}

struct FewRows;

impl CustomOp2 for FewRows {
    fn name(&self) -> &'static str {
        "linear-few-rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        /// Outputs that one task computes; the cost of a task is that of reading their weights.
        const OUTPUTS: usize = 32;
        let (count, input) = x_layout.shape().dims2()?;
        let (output, weight_input) = weight_layout.shape().dims2()?;
        if input != weight_input || input == 0 {
            bail!("linear of {input} inputs with weights for {weight_input}");
        }
        let x = numbers(x, x_layout)?;
        let weight = Numbers::of(weight, weight_layout)?;
        // Outputs first, so that a task reads its weights once for all rows.
        let tasks = output.div_ceil(OUTPUTS);
        let columns = rows(tasks, OUTPUTS * count, input, |task, part| {
            let outputs = task * OUTPUTS..output.min((task + 1) * OUTPUTS);
            let part = &mut part[..outputs.len() * count];
            dots(
                weight.part(outputs.start * input..outputs.end * input),
                input,
                x,
                part,
                outputs.len(),
            );
        });
        let mut result = columns;
        if count > 1 {
            let columns = result;
            result = Vec::with_capacity(count * output);
            for row in 0..count {
                for (task, part) in columns.chunks_exact(OUTPUTS * count).enumerate() {
                    let outputs = OUTPUTS.min(output - task * OUTPUTS);
                    result.extend_from_slice(&part[row * outputs..(row + 1) * outputs]);
                }
            }
        }
        result.truncate(count * output);
        Ok((CpuStorage::F32(result), Shape::from((count, output))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::kernels::assert_close;
    use crate::backend::ops::gradcheck::random;
    use candle_core::DType;

    #[test]
    fn agrees_with_the_matrix_product() {
        for (count, input, output) in [(1, 70, 33), (3, 64, 32), (16, 1000, 257), (1, 1, 1)] {
            let (x, weight) = (random(&[count, input], 1), random(&[output, input], 2));
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let narrow = weight.to_dtype(dtype).unwrap();
                let weight = narrow.to_dtype(DType::F32).unwrap();
                let expected = x.matmul(&weight.t().unwrap()).unwrap();
                assert_close(&linear_few_rows(&x, &narrow).unwrap(), &expected, 1e-4);
            }
        }
    }
}
