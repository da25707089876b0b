//! `x Wᵀ` for a few rows and a matrix of a few bits, straight from its codes.
//!
//! The product never sees the numbers of the matrix. With a scale s and a bias b for each group of
//! codes q, the sum over a group is Σ (q s + b) x = s Σ q x + b Σ x, and Σ x is the same for all outputs.

use super::{affine::part, rows};
use crate::backend::ops::affine::AffineWeight;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// Rows that the kernel takes.
pub(in crate::backend) const AFFINE_ROWS: usize = 4;

/// `x Wᵀ` for `x` of shape (rows, in) with one to [`AFFINE_ROWS`] rows in `f32`.
pub(in crate::backend) fn affine_few_rows(x: &Tensor, weight: &AffineWeight) -> Result<Tensor> {
    match x.dim(0)? {
        1 => FewRows::<1>::apply(x, weight),
        2 => FewRows::<2>::apply(x, weight),
        3 => FewRows::<3>::apply(x, weight),
        _ => FewRows::<4>::apply(x, weight),
    }
}

/// Eight numbers of each row.
type Lanes<const ROWS: usize> = [[f32; 8]; ROWS];

/// The rows of `x`, as the codes need them.
struct FewRows<const ROWS: usize> {
    bits: usize,
    /// In the order of the codes: eight bytes of four bits are eight even numbers, then eight odd ones.
    numbers: Vec<Lanes<ROWS>>,
    /// The sum of each group, still in eight parts.
    sums: Vec<Lanes<ROWS>>,
}

impl<const ROWS: usize> FewRows<ROWS> {
    fn apply(x: &Tensor, weight: &AffineWeight) -> Result<Tensor> {
        let (_, input) = weight.dims();
        if x.dims() != [ROWS, input] {
            return Err(candle_core::Error::Msg(format!(
                "linear of {:?} with weights for {input} inputs",
                x.dims()
            )));
        }
        let rows = Self::new(&x.to_vec2()?, weight.bits(), weight.group_size());
        let (codes, scales, biases) = weight.parts();
        codes.apply_op3_no_bwd(scales, biases, &rows)
    }

    fn new(x: &[Vec<f32>], bits: usize, group: usize) -> Self {
        let input = x.first().map_or(0, Vec::len);
        let mut numbers = vec![[[0f32; 8]; ROWS]; input / 8];
        let mut sums = vec![[[0f32; 8]; ROWS]; input / group];
        let per_byte = 8 / bits;
        for (row, x) in x.iter().enumerate() {
            for (column, &x) in x.iter().enumerate() {
                let (byte, part) = (column / per_byte, column % per_byte);
                numbers[byte / 8 * per_byte + part][row][byte % 8] = x;
                sums[column / group][row][byte % 8] += x;
            }
        }
        Self {
            bits,
            numbers,
            sums,
        }
    }

    /// The product with one row of the matrix.
    fn dots(&self, codes: &[u8], scales: &[f32], biases: &[f32]) -> [f32; ROWS] {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                #[allow(unsafe_code, reason = "features that only some processors have")]
                // SAFETY: this processor has both features.
                return unsafe {
                    match self.bits {
                        4 => self.dots_avx2::<2>(codes, scales, biases),
                        _ => self.dots_avx2::<1>(codes, scales, biases),
                    }
                };
            }
        }
        match self.bits {
            4 => self.dots_portable::<2>(codes, scales, biases),
            _ => self.dots_portable::<1>(codes, scales, biases),
        }
    }

    /// The groups of a row of the matrix: codes, numbers, sums, scale and bias of each.
    fn groups<'a>(
        &'a self,
        codes: &'a [u8],
        scales: &'a [f32],
        biases: &'a [f32],
    ) -> impl Iterator<Item = Group<'a, ROWS>> {
        let (bytes, lanes) = (
            codes.len() / scales.len(),
            self.numbers.len() / scales.len(),
        );
        (codes.chunks_exact(bytes).zip(scales.iter().zip(biases)))
            .zip(self.numbers.chunks_exact(lanes).zip(&self.sums))
            .map(|((codes, (&scale, &bias)), (numbers, sums))| Group {
                codes: codes.as_chunks().0,
                numbers,
                sums,
                scale,
                bias,
            })
    }

    fn dots_portable<const PER_BYTE: usize>(
        &self,
        codes: &[u8],
        scales: &[f32],
        biases: &[f32],
    ) -> [f32; ROWS] {
        let mut totals = [[0f32; 8]; ROWS];
        for group in self.groups(codes, scales, biases) {
            let mut products = [[0f32; 8]; ROWS];
            for (codes, numbers) in group
                .codes
                .iter()
                .zip(group.numbers.as_chunks::<PER_BYTE>().0)
            {
                for (part, numbers) in numbers.iter().enumerate() {
                    let codes = codes.map(|code| match (PER_BYTE, part) {
                        (1, _) => f32::from(code),
                        (_, 0) => f32::from(code & 15),
                        _ => f32::from(code >> 4),
                    });
                    for (product, x) in products.iter_mut().zip(numbers) {
                        for lane in 0..8 {
                            product[lane] += codes[lane] * x[lane];
                        }
                    }
                }
            }
            for ((total, product), sum) in totals.iter_mut().zip(products).zip(group.sums) {
                for lane in 0..8 {
                    total[lane] += group.scale * product[lane] + group.bias * sum[lane];
                }
            }
        }
        totals.map(|total| total.iter().sum())
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    #[allow(unsafe_code, reason = "vectors are loaded through pointers")]
    fn dots_avx2<const PER_BYTE: usize>(
        &self,
        codes: &[u8],
        scales: &[f32],
        biases: &[f32],
    ) -> [f32; ROWS] {
        use std::arch::x86_64::{
            _mm_cvtsi64_si128, _mm256_and_si256, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
            _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
            _mm256_srli_epi32, _mm256_storeu_ps,
        };
        // SAFETY: there are 8 numbers to load.
        let load = |x: &[f32; 8]| unsafe { _mm256_loadu_ps(x.as_ptr()) };
        let mut totals = [_mm256_setzero_ps(); ROWS];
        for group in self.groups(codes, scales, biases) {
            let mut products = [[_mm256_setzero_ps(); ROWS]; PER_BYTE];
            for (codes, numbers) in group
                .codes
                .iter()
                .zip(group.numbers.as_chunks::<PER_BYTE>().0)
            {
                let codes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(*codes)));
                for (part, (numbers, products)) in numbers.iter().zip(&mut products).enumerate() {
                    let codes = _mm256_cvtepi32_ps(match (PER_BYTE, part) {
                        (1, _) => codes,
                        (_, 0) => _mm256_and_si256(codes, _mm256_set1_epi32(15)),
                        _ => _mm256_srli_epi32::<4>(codes),
                    });
                    for (product, x) in products.iter_mut().zip(numbers) {
                        *product = _mm256_fmadd_ps(codes, load(x), *product);
                    }
                }
            }
            let (scale, bias) = (_mm256_set1_ps(group.scale), _mm256_set1_ps(group.bias));
            for products in products {
                for (total, product) in totals.iter_mut().zip(products) {
                    *total = _mm256_fmadd_ps(scale, product, *total);
                }
            }
            for (total, sum) in totals.iter_mut().zip(group.sums) {
                *total = _mm256_fmadd_ps(bias, load(sum), *total);
            }
        }
        totals.map(|total| {
            let mut lanes = [0f32; 8];
            // SAFETY: there is room for the 8 numbers.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), total) };
            lanes.iter().sum()
        })
    }

    /// The product with all rows of the matrix, row of the matrix by row, and some zeros.
    fn columns<S: Copy + Sync>(
        &self,
        codes: &[u8],
        scales: &[S],
        biases: &[S],
        wide: impl Fn(S) -> f32 + Sync,
    ) -> Vec<f32> {
        /// Outputs that one task computes; the cost of a task is that of reading their codes.
        const OUTPUTS: usize = 32;
        let groups = self.sums.len();
        let output = scales.len() / groups;
        let bytes = self.numbers.len() * self.bits;
        let cost = self.numbers.len() * 8;
        rows(output.div_ceil(OUTPUTS), OUTPUTS * ROWS, cost, |task, y| {
            let outputs = task * OUTPUTS..output.min((task + 1) * OUTPUTS);
            let widen = |x: &[S]| -> Vec<f32> {
                let x = &x[outputs.start * groups..outputs.end * groups];
                x.iter().map(|&x| wide(x)).collect()
            };
            let (scales, biases) = (widen(scales), widen(biases));
            let scales = scales.chunks_exact(groups).zip(biases.chunks_exact(groups));
            let codes = codes[outputs.start * bytes..].chunks_exact(bytes);
            for ((y, codes), (scales, biases)) in
                y.as_chunks_mut().0.iter_mut().zip(codes).zip(scales)
            {
                *y = self.dots(codes, scales, biases);
            }
        })
    }
}

/// What a few rows have to do with one group of codes.
struct Group<'a, const ROWS: usize> {
    codes: &'a [[u8; 8]],
    numbers: &'a [Lanes<ROWS>],
    sums: &'a Lanes<ROWS>,
    scale: f32,
    bias: f32,
}

impl<const ROWS: usize> CustomOp3 for FewRows<ROWS> {
    fn name(&self) -> &'static str {
        "affine-few-rows"
    }

    fn cpu_fwd(
        &self,
        codes: &CpuStorage,
        codes_layout: &Layout,
        scales: &CpuStorage,
        scales_layout: &Layout,
        biases: &CpuStorage,
        biases_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (output, _) = scales_layout.shape().dims2()?;
        let codes = part(codes.as_slice::<u8>()?, codes_layout)?;
        let (s, b) = (scales_layout, biases_layout);
        let columns = match (scales, biases) {
            (CpuStorage::F32(scales), CpuStorage::F32(biases)) => {
                self.columns(codes, part(scales, s)?, part(biases, b)?, |x| x)
            }
            (CpuStorage::BF16(scales), CpuStorage::BF16(biases)) => {
                self.columns(codes, part(scales, s)?, part(biases, b)?, Into::into)
            }
            (CpuStorage::F16(scales), CpuStorage::F16(biases)) => {
                self.columns(codes, part(scales, s)?, part(biases, b)?, |x| {
                    f16_to_f32(x.to_bits())
                })
            }
            _ => {
                let what = "the kernel takes scales and biases of f32, f16 or bf16";
                return Err(candle_core::Error::Msg(what.to_owned()));
            }
        };
        let rows = (0..ROWS).flat_map(|row| columns.iter().skip(row).step_by(ROWS).take(output));
        let rows = rows.copied().collect();
        Ok((CpuStorage::F32(rows), Shape::from((ROWS, output))))
    }
}

/// A finite `f16`, for loops that the compiler turns into vector instructions: the usual conversion
/// asks for each number what the processor can do.
fn f16_to_f32(bits: u16) -> f32 {
    let (sign, rest) = (
        u32::from(bits & 0x8000) << 16,
        u32::from(bits & 0x7fff) << 13,
    );
    // The exponents of the two differ by 112. A product also moves those of the smallest numbers.
    let magnitude = f32::from_bits(rest) * f32::from_bits((127 + 112) << 23);
    f32::from_bits(sign | magnitude.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::kernels::{affine_dequantize, assert_close};
    use crate::backend::ops::gradcheck::random;
    use candle_core::DType;

    #[test]
    fn a_few_rows_agree_with_the_matrix_product() {
        // The last two go to several threads.
        for (output, input) in [(1, 128), (33, 384), (70, 1152), (257, 896)] {
            let weight = random(&[output, input], 2);
            for (bits, group) in [4, 8]
                .into_iter()
                .flat_map(|b| [32, 64, 128].map(|g| (b, g)))
            {
                for (count, scales) in [
                    (1, DType::BF16),
                    (2, DType::F16),
                    (3, DType::F32),
                    (4, DType::BF16),
                ] {
                    let weight = AffineWeight::quantize(&weight, bits, group, scales).unwrap();
                    let dense = affine_dequantize(&weight).unwrap();
                    // Rows out of more rows.
                    let x = random(&[count + 1, input], 1).narrow(0, 1, count).unwrap();
                    let expected = x.matmul(&dense.t().unwrap()).unwrap();
                    assert_close(&affine_few_rows(&x, &weight).unwrap(), &expected, 1e-4);
                }
            }
        }
    }

    #[test]
    fn both_products_of_a_row_agree() {
        fn agree<const ROWS: usize>(bits: usize, group: usize) {
            let x = random(&[ROWS, 384], 1).to_vec2().unwrap();
            let x = FewRows::<ROWS>::new(&x, bits, group);
            let codes = random(&[384 * bits / 8], 2).to_vec1::<f32>().unwrap();
            let codes: Vec<u8> = codes.iter().map(|x| x.to_bits().to_le_bytes()[0]).collect();
            let read = |seed| random(&[384 / group], seed).to_vec1::<f32>().unwrap();
            let (scales, biases) = (read(3), read(4));
            let portable = match bits {
                4 => x.dots_portable::<2>(&codes, &scales, &biases),
                _ => x.dots_portable::<1>(&codes, &scales, &biases),
            };
            for (a, b) in x.dots(&codes, &scales, &biases).iter().zip(portable) {
                assert!((a - b).abs() < 1e-5 * b.abs().max(100.0), "{a} {b}");
            }
        }
        for (bits, group) in [4, 8]
            .into_iter()
            .flat_map(|b| [32, 64, 128].map(|g| (b, g)))
        {
            agree::<1>(bits, group);
            agree::<2>(bits, group);
            agree::<3>(bits, group);
            agree::<4>(bits, group);
        }
    }

    #[test]
    fn every_finite_f16_is_widened_as_always() {
        let bits: Vec<u16> = (0..=u16::MAX)
            .filter(|bits| bits & 0x7c00 != 0x7c00)
            .collect();
        let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let shape = [bits.len()];
        let x = Tensor::from_raw_buffer(&bytes, DType::F16, &shape, &candle_core::Device::Cpu);
        let expected = x.unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>();
        for (bits, expected) in bits.iter().zip(expected.unwrap()) {
            assert_eq!(f16_to_f32(*bits).to_bits(), expected.to_bits());
        }
    }

    #[test]
    fn rows_of_another_width_are_refused() {
        let weight = AffineWeight::quantize(&random(&[3, 64], 1), 4, 32, DType::F32).unwrap();
        let error = affine_few_rows(&random(&[1, 32], 2), &weight).unwrap_err();
        assert!(
            error.to_string().contains("[1, 32] with weights for 64"),
            "{error}"
        );
    }
}
