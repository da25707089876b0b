//! `x Wᵀ` for a few rows: the matrix products of decoding.
//!
//! There the weights are read once and used a few times, so it is memory that decides, not
//! arithmetic; a general matrix product loses more time waking its threads than it saves.

use super::{numbers, rows};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

/// Rows up to which this is faster than a general matrix product.
pub(in crate::backend) const FEW_ROWS: usize = 4;

/// `x` has shape (rows, in), `weight` (out, in); the result (rows, out).
pub(in crate::backend) fn linear_few_rows(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.apply_op2_no_bwd(weight, &FewRows)
}

/// [`linear_few_rows`] with a low-rank branch beside it. `packed` holds A (rank, in), B (out, rank)
/// and, where there are such, the factors of the map's own outputs (out), one after the other.
pub(in crate::backend) fn adapted_few_rows(
    x: &Tensor,
    weight: &Tensor,
    packed: &Tensor,
    rank: usize,
    scaling: f64,
) -> Result<Tensor> {
    #[allow(clippy::cast_possible_truncation, reason = "rounding is meant")]
    let scaling = scaling as f32;
    x.apply_op3_no_bwd(weight, packed, &AdaptedFewRows { rank, scaling })
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
        let sizes = Sizes::new(x_layout, weight_layout)?;
        let (x, weight) = (numbers(x, x_layout)?, numbers(weight, weight_layout)?);
        let result = outputs(&sizes, |output, y| {
            sizes.products(x, weight, output, y);
        });
        Ok((CpuStorage::F32(result), sizes.shape()))
    }
}

struct AdaptedFewRows {
    rank: usize,
    scaling: f32,
}

impl CustomOp3 for AdaptedFewRows {
    fn name(&self) -> &'static str {
        "adapted-linear-few-rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        packed: &CpuStorage,
        packed_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::new(x_layout, weight_layout)?;
        let Sizes {
            count,
            input,
            output,
        } = sizes;
        let rank = self.rank;
        let (x, weight) = (numbers(x, x_layout)?, numbers(weight, weight_layout)?);
        let packed = numbers(packed, packed_layout)?;
        let (a_len, b_len) = (rank * input, output * rank);
        let extra = packed.len().checked_sub(a_len + b_len);
        if rank == 0 || !extra.is_some_and(|extra| extra == 0 || extra == output) {
            return Err(candle_core::Error::Msg(format!(
                "a branch of rank {rank} with {} numbers beside {output} x {input} weights",
                packed.len()
            )));
        }
        let (a, rest) = packed.split_at(a_len);
        let (b, row_scale) = rest.split_at(b_len);
        // (rows, rank)
        let down = rows(count, rank, input, |row, down| {
            let x = &x[row * input..][..input];
            for (a, y) in a.chunks_exact(input).zip(down) {
                *y = self.scaling * dot(x, a);
            }
        });
        let result = outputs(&sizes, |output, y| {
            sizes.products(x, weight, output, y);
            if let Some(scale) = row_scale.get(output) {
                for y in &mut *y {
                    *y *= scale;
                }
            }
            let b = &b[output * rank..][..rank];
            for (down, y) in down.chunks_exact(rank).zip(y) {
                *y += dot_short(down, b);
            }
        });
        Ok((CpuStorage::F32(result), sizes.shape()))
    }
}

struct Sizes {
    count: usize,
    input: usize,
    output: usize,
}

impl Sizes {
    fn new(x: &Layout, weight: &Layout) -> Result<Self> {
        let (count, input) = x.shape().dims2()?;
        let (output, weight_input) = weight.shape().dims2()?;
        if input != weight_input || input == 0 {
            return Err(candle_core::Error::Msg(format!(
                "linear of {input} inputs with weights for {weight_input}"
            )));
        }
        Ok(Self {
            count,
            input,
            output,
        })
    }

    fn shape(&self) -> Shape {
        Shape::from((self.count, self.output))
    }

    /// One output of all rows.
    fn products(&self, x: &[f32], weight: &[f32], output: usize, y: &mut [f32]) {
        let weight = &weight[output * self.input..][..self.input];
        for (x, y) in x.chunks_exact(self.input).zip(y) {
            *y = dot(x, weight);
        }
    }
}

/// (rows, out) by `write`, which gets the index of an output and its place in all rows.
fn outputs(sizes: &Sizes, write: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    /// Outputs that one task computes; the cost of a task is that of reading their weights.
    const OUTPUTS: usize = 32;
    let Sizes {
        count,
        input,
        output,
    } = *sizes;
    // Outputs first, so that a task reads its weights once for all rows.
    let tasks = output.div_ceil(OUTPUTS);
    let columns = rows(tasks, OUTPUTS * count, input, |task, part| {
        let first = task * OUTPUTS;
        let columns = part.chunks_exact_mut(count);
        for (index, column) in columns.take(output - first).enumerate() {
            write(first + index, column);
        }
    });
    let mut result = columns;
    if count > 1 {
        let columns = result;
        result = (0..count * output)
            .map(|i| columns[i % output * count + i / output])
            .collect();
    }
    result.truncate(count * output);
    result
}

/// The inner product of vectors so short that setting up a longer one would take most of the time.
fn dot_short(a: &[f32], b: &[f32]) -> f32 {
    if a.len() > 32 {
        dot(a, b)
    } else {
        dot_portable(a, b)
    }
}

/// The inner product.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            #[allow(unsafe_code, reason = "features that only some processors have")]
            // SAFETY: this processor has both features.
            return unsafe { dot_avx2(a, b) };
        }
    }
    dot_portable(a, b)
}

fn dot_portable(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Four sums of eight lanes: enough for the products not to wait for each other.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code, reason = "vectors are loaded through pointers")]
fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<32>(), b.as_chunks::<32>());
    let mut sums = [_mm256_setzero_ps(); 4];
    for (a, b) in a.iter().zip(b) {
        for (part, sum) in sums.iter_mut().enumerate() {
            // SAFETY: both arrays have 32 numbers, and `part` is below 4.
            let (a, b) = unsafe {
                (
                    _mm256_loadu_ps(a.as_ptr().add(8 * part)),
                    _mm256_loadu_ps(b.as_ptr().add(8 * part)),
                )
            };
            *sum = _mm256_fmadd_ps(a, b, *sum);
        }
    }
    let [s0, s1, s2, s3] = sums;
    let sum = _mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3));
    let mut lanes = [0f32; 8];
    // SAFETY: there is room for the 8 numbers.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
    lanes.iter().sum::<f32>() + dot_portable(a_rest, b_rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::kernels::assert_close;
    use crate::backend::ops::gradcheck::random;

    #[test]
    fn agrees_with_the_matrix_product() {
        for (count, input, output) in [(1, 70, 33), (3, 64, 32), (4, 1000, 257), (1, 1, 1)] {
            let (x, weight) = (random(&[count, input], 1), random(&[output, input], 2));
            let expected = x.matmul(&weight.t().unwrap()).unwrap();
            assert_close(&linear_few_rows(&x, &weight).unwrap(), &expected, 1e-4);
        }
    }

    #[test]
    fn a_branch_is_added_and_outputs_are_scaled() {
        for (count, input, output, rank) in [(1, 70, 33, 1), (3, 64, 32, 8), (4, 100, 257, 40)] {
            let (x, weight) = (random(&[count, input], 1), random(&[output, input], 2));
            let (a, b) = (random(&[rank, input], 3), random(&[output, rank], 4));
            let scale = random(&[output], 5);
            let flat = [&a, &b, &scale].map(|part| part.flatten_all().unwrap());
            let branch = x.matmul(&a.t().unwrap()).unwrap();
            let branch = (branch.matmul(&b.t().unwrap()).unwrap() * 1.5).unwrap();
            let plain = x.matmul(&weight.t().unwrap()).unwrap();
            let packed = Tensor::cat(&flat[..2], 0).unwrap();
            let found = adapted_few_rows(&x, &weight, &packed, rank, 1.5).unwrap();
            assert_close(&found, &(&plain + &branch).unwrap(), 1e-4);
            let packed = Tensor::cat(&flat, 0).unwrap();
            let found = adapted_few_rows(&x, &weight, &packed, rank, 1.5).unwrap();
            let scaled = plain.broadcast_mul(&scale).unwrap();
            assert_close(&found, &(scaled + branch).unwrap(), 1e-4);
            // Numbers that are not those of the shapes.
            let short = packed.narrow(0, 0, rank * input).unwrap();
            assert!(adapted_few_rows(&x, &weight, &short, rank, 1.5).is_err());
        }
    }

    #[test]
    fn both_inner_products_agree() {
        for len in [0, 1, 31, 32, 33, 1000] {
            let read = |seed| random(&[len], seed).to_vec1::<f32>().unwrap();
            let (a, b) = (read(1), read(2));
            assert!((dot(&a, &b) - dot_portable(&a, &b)).abs() < 1e-4, "{len}");
        }
    }
}
