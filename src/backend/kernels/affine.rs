//! The numbers of a matrix of a few bits, in one pass.

use super::{numbers, rows};
use crate::backend::ops::affine::AffineWeight;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};

/// The numbers of the matrix, in `f32`.
pub(in crate::backend) fn affine_dequantize(weight: &AffineWeight) -> Result<Tensor> {
    let (codes, scales, biases) = weight.parts();
    let wide = |x: &Tensor| x.to_dtype(DType::F32);
    codes.apply_op3_no_bwd(&wide(scales)?, &wide(biases)?, &Dequantize(weight.bits()))
}

/// Holds the bits of a code.
struct Dequantize(usize);

impl CustomOp3 for Dequantize {
    fn name(&self) -> &'static str {
        "affine-dequantize"
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
        let (output, bytes) = codes_layout.shape().dims2()?;
        let groups = scales_layout.shape().dims2()?.1;
        let input = bytes * 8 / self.0;
        let codes = part(codes.as_slice::<u8>()?, codes_layout)?;
        let (scales, biases) = (
            numbers(scales, scales_layout)?,
            numbers(biases, biases_layout)?,
        );
        let result = rows(output, input, 1, |row, numbers| {
            let codes = codes[row * bytes..].chunks(bytes / groups);
            let scales = scales[row * groups..].iter().zip(&biases[row * groups..]);
            let groups = numbers.chunks_exact_mut(input / groups).zip(codes);
            for ((numbers, codes), (&scale, &bias)) in groups.zip(scales) {
                let number = |code| f32::from(code) * scale + bias;
                if self.0 == 4 {
                    for (pair, &code) in numbers.as_chunks_mut().0.iter_mut().zip(codes) {
                        *pair = [number(code & 15), number(code >> 4)];
                    }
                } else {
                    for (x, &code) in numbers.iter_mut().zip(codes) {
                        *x = number(code);
                    }
                }
            }
        });
        Ok((CpuStorage::F32(result), Shape::from((output, input))))
    }
}

/// What a contiguous tensor has of its buffer.
pub(super) fn part<'a, T>(buffer: &'a [T], layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&buffer[start..end]),
        None => Err(super::not_contiguous()),
    }
}
