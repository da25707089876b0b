//! A linear map with frozen weights of a few bits, in groups that share a scale and a bias.

use crate::backend::kernels;
use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

/// A weight matrix of 4 or 8 bits a number, as MLX's affine quantisation makes it (`mx.quantize`,
/// <https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html>).
///
/// Along each row, `group_size` numbers have one scale and one bias: a number is
/// code · scale + bias, with codes of 0 to 2^bits - 1. Of the weights of a language model in groups of
/// 64 with 16-bit scales there remain 4.5 or 8.5 bits a number.
///
/// Weights are frozen: [`backward`](Self::backward) gives the gradient of the input only, which is what
/// training an adapter beside them needs (QLoRA, Dettmers et al., 2023,
/// <https://arxiv.org/abs/2305.14314>).
///
/// # Example
///
/// ```
/// use metal_candle::backend::ops::affine::AffineWeight;
/// use metal_candle::backend::{DType, Device, Tensor};
///
/// let dense = Tensor::arange(0f32, 128f32, &Device::Cpu)?.reshape((2, 64))?;
/// let weight = AffineWeight::quantize(&dense, 4, 32, DType::F32)?;
/// assert_eq!((weight.dims(), weight.size_in_bytes()), ((2, 64), 64 + 2 * 16));
///
/// let x = Tensor::ones((1, 64), DType::F32, &Device::Cpu)?;
/// assert_eq!(weight.forward(&x)?.dims(), &[1, 2]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct AffineWeight {
    /// (out, in · bits / 8), `u8`; of 4 bits, the number of the lower column is in the lower half.
    codes: Tensor,
    /// (out, in / `group_size`).
    scales: Tensor,
    /// As the scales.
    biases: Tensor,
    bits: usize,
    group_size: usize,
}

impl AffineWeight {
    /// Quantises `weight`, of shape (out, in) and dtype `f32`, `bf16` or `f16`, to codes of `bits` (4 or
    /// 8) in groups of `group_size` (32, 64 or 128) along in. Scales and biases are kept in `scales`,
    /// one of the same three dtypes; MLX takes that of the weights.
    ///
    /// Codes, scales and biases are those of MLX on the CPU. The end of a group that is farther from zero
    /// is met, and a code is kept for zero. So a number is off by at most half a scale, or by one at the
    /// other end, which the codes may just miss; and by what rounding the scale and the bias adds, since
    /// codes are chosen before it.
    ///
    /// It computes on the CPU, on several threads, and leaves the result on the device of `weight`.
    ///
    /// # Errors
    ///
    /// When `bits`, `group_size` or `scales` is none of these; when `group_size` does not divide in; when
    /// a number is not finite, or too large for the dtype of the scales.
    pub fn quantize(
        weight: &Tensor,
        bits: usize,
        group_size: usize,
        scales: DType,
    ) -> Result<Self> {
        let (output, input) = weight.dims2()?;
        check_sizes(bits, group_size)?;
        if input == 0 || !input.is_multiple_of(group_size) {
            bail!("weights of {input} inputs; expected a multiple of the group_size, {group_size}");
        }
        // Beyond these a scale or the difference of two numbers may be infinite.
        let largest = match scales {
            DType::F16 => 32_768.0,
            DType::F32 | DType::BF16 => f32::MAX / 4.0,
            other => bail!("scales of {other:?}; expected F32, BF16 or F16"),
        };
        let device = weight.device();
        let numbers = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let numbers = numbers.flatten_all()?.to_vec1::<f32>()?;
        let (bytes, groups) = (input * bits / 8, input / group_size);
        let mut codes = vec![0u8; output * bytes];
        let mut parts = vec![(0f32, 0f32); output * groups];
        (codes.par_chunks_mut(bytes))
            .zip(parts.par_chunks_mut(groups))
            .zip(numbers.par_chunks(input))
            .try_for_each(|((codes, parts), row)| {
                let codes = codes.chunks_exact_mut(bytes / groups);
                for ((codes, part), group) in codes.zip(parts).zip(row.chunks_exact(group_size)) {
                    if !group.iter().fold(true, |all, x| all & (x.abs() <= largest)) {
                        bail!("a weight is not finite, or not within {largest} of zero");
                    }
                    *part = quantize_group(group, bits, codes);
                }
                Ok(())
            })?;
        let (of_scales, of_biases): (Vec<f32>, Vec<f32>) = parts.into_iter().unzip();
        let part = |numbers| Tensor::from_vec(numbers, (output, groups), &Device::Cpu);
        let part = |numbers| part(numbers)?.to_dtype(scales)?.to_device(device);
        Ok(Self {
            codes: Tensor::from_vec(codes, (output, bytes), device)?,
            scales: part(of_scales)?,
            biases: part(of_biases)?,
            bits,
            group_size,
        })
    }

    /// The matrix of given parts, as a file has them.
    ///
    /// `codes` are bytes (`u8`) of shape (out, in · bits / 8), or MLX's words (`u32`) of shape
    /// (out, in · bits / 32), whose lowest bits are the first column. `scales` and `biases` have shape
    /// (out, in / `group_size`) and one dtype: `f32`, `bf16` or `f16`. All are on one device; words go over
    /// the host.
    ///
    /// # Errors
    ///
    /// When `bits` or `group_size` is not one of [`quantize`](Self::quantize), or when shapes, dtypes or
    /// devices do not fit.
    pub fn from_parts(
        codes: &Tensor,
        scales: &Tensor,
        biases: &Tensor,
        bits: usize,
        group_size: usize,
    ) -> Result<Self> {
        check_sizes(bits, group_size)?;
        let codes = match codes.dtype() {
            DType::U8 => codes.contiguous()?,
            DType::U32 => bytes_of_words(codes)?,
            other => bail!("codes of {other:?}; expected U8 or U32"),
        };
        let (output, bytes) = codes.dims2()?;
        let input = bytes * 8 / bits;
        if input == 0 || !input.is_multiple_of(group_size) {
            bail!("codes of {input} inputs; expected a multiple of the group_size, {group_size}");
        }
        if !matches!(scales.dtype(), DType::F32 | DType::BF16 | DType::F16) {
            bail!("scales of {:?}; expected F32, BF16 or F16", scales.dtype());
        }
        for (name, part) in [("scales", scales), ("biases", biases)] {
            let expected = [output, input / group_size];
            if part.dims() != expected {
                let found = part.dims();
                bail!(
                    "{name} of shape {found:?}; expected {expected:?} for {output} x {input} codes"
                );
            }
            if part.dtype() != scales.dtype() {
                let (found, expected) = (part.dtype(), scales.dtype());
                bail!("{name} of {found:?}; expected {expected:?}, as the scales");
            }
            if !part.device().same_device(codes.device()) {
                bail!("{name} on another device than the codes");
            }
        }
        Ok(Self {
            codes,
            scales: scales.contiguous()?,
            biases: biases.contiguous()?,
            bits,
            group_size,
        })
    }

    /// The numbers of features: (out, in).
    #[must_use]
    pub fn dims(&self) -> (usize, usize) {
        let per_row = |x: &Tensor| x.elem_count() / x.dims()[0].max(1);
        (
            self.scales.dims()[0],
            per_row(&self.scales) * self.group_size,
        )
    }

    /// The bits of a code: 4 or 8.
    #[must_use]
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// The numbers of a row that share a scale and a bias: 32, 64 or 128.
    #[must_use]
    pub fn group_size(&self) -> usize {
        self.group_size
    }

    /// The bytes of codes, scales and biases together.
    #[must_use]
    pub fn size_in_bytes(&self) -> usize {
        let parts = [&self.codes, &self.scales, &self.biases];
        parts
            .map(|part| part.elem_count() * part.dtype().size_in_bytes())
            .iter()
            .sum()
    }

    /// Codes, scales and biases, as [`from_parts`](Self::from_parts) takes them; codes in bytes.
    #[must_use]
    pub fn parts(&self) -> (&Tensor, &Tensor, &Tensor) {
        (&self.codes, &self.scales, &self.biases)
    }

    /// The matrix, of shape (out, in), in `dtype`: code · scale + bias in `f32`, rounded once.
    ///
    /// It stays on the device.
    ///
    /// # Errors
    ///
    /// When the device fails, for example for lack of memory.
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        if self.codes.device().is_cpu() {
            kernels::affine_dequantize(self)?.to_dtype(dtype)
        } else {
            self.dequantize_by_chain()?.to_dtype(dtype)
        }
    }

    /// The matrix in `f32`, by operations that every device has.
    fn dequantize_by_chain(&self) -> Result<Tensor> {
        let (output, input) = self.dims();
        let codes = match self.bits {
            4 => {
                // No device shifts bits, but all divide bytes.
                let sixteen = Tensor::full(16u8, (1, 1), self.codes.device())?;
                let high = self.codes.broadcast_div(&sixteen)?;
                let low = (&self.codes - high.broadcast_mul(&sixteen)?)?;
                Tensor::stack(&[low, high], 2)?
            }
            _ => self.codes.clone(),
        };
        let groups = (output, input / self.group_size, self.group_size);
        let wide = |x: &Tensor| x.to_dtype(DType::F32)?.unsqueeze(2);
        codes
            .reshape(groups)?
            .to_dtype(DType::F32)?
            .broadcast_mul(&wide(&self.scales)?)?
            .broadcast_add(&wide(&self.biases)?)?
            .reshape((output, input))
    }

    /// `x Wᵀ`, of shape (n, out), for `x` of shape (n, in), in the dtype of `x`.
    ///
    /// A few rows in `f32` on the CPU read the codes and nothing else. Otherwise the matrix exists in the
    /// dtype of `x` for the time of the product.
    ///
    /// # Errors
    ///
    /// When shapes or devices do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let few_rows = (1..=kernels::FEW_ROWS).contains(&x.dim(0)?);
        if few_rows && kernels::takes(x) && self.codes.device().is_cpu() {
            kernels::affine_few_rows(x, self)
        } else {
            x.matmul(&self.dequantize(x.dtype())?.t()?)
        }
    }

    /// The gradient of [`forward`](Self::forward) with respect to `x`: `dy W`, of shape (n, in), for `dy` of
    /// shape (n, out), in its dtype.
    ///
    /// # Errors
    ///
    /// When shapes or devices do not fit.
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        dy.matmul(&self.dequantize(dy.dtype())?)
    }
}

fn check_sizes(bits: usize, group_size: usize) -> Result<()> {
    if !matches!(bits, 4 | 8) {
        bail!("bits is {bits}; expected 4 or 8");
    }
    if !matches!(group_size, 32 | 64 | 128) {
        bail!("group_size is {group_size}; expected 32, 64 or 128");
    }
    Ok(())
}

/// The bytes of words, the lowest first.
fn bytes_of_words(words: &Tensor) -> Result<Tensor> {
    let (output, width) = words.dims2()?;
    let host = words.flatten_all()?.to_vec1::<u32>()?;
    let bytes: Vec<u8> = host.iter().flat_map(|word| word.to_le_bytes()).collect();
    Tensor::from_vec(bytes, (output, width * 4), words.device())
}

/// Writes the codes of a group, and gives its scale and bias.
fn quantize_group(group: &[f32], bits: usize, codes: &mut [u8]) -> (f32, f32) {
    /// Added to a number of up to 22 bits it leaves no place for a fraction, which goes to the nearest
    /// number, and of two to the even one; then the lowest byte of the sum is the number.
    const WHOLE: f32 = 12_582_912.0;
    let steps: f32 = if bits == 4 { 15.0 } else { 255.0 };
    let (least, most) = range(group);
    let scale = ((most - least) / steps).max(1e-7);
    // The bias is the end that is farther from zero.
    let (edge, scale) = if least.abs() > most.abs() {
        (least, scale)
    } else {
        (most, -scale)
    };
    // Zero becomes a code: a whole number of scales lies between it and the bias.
    let zero = (edge / scale).round_ties_even();
    let (scale, bias) = if zero == 0.0 {
        (scale, 0.0)
    } else {
        (edge / zero, edge)
    };
    let code = |x: f32| {
        let code = ((x - bias) / scale).clamp(0.0, steps) + WHOLE;
        code.to_bits().to_le_bytes()[0]
    };
    if bits == 4 {
        for (byte, pair) in codes.iter_mut().zip(group.as_chunks::<2>().0) {
            *byte = code(pair[0]) | code(pair[1]) << 4;
        }
    } else {
        for (byte, &x) in codes.iter_mut().zip(group) {
            *byte = code(x);
        }
    }
    (scale, bias)
}

/// The smallest and the largest number of a group.
fn range(group: &[f32]) -> (f32, f32) {
    // Eight at once, since one would wait for the one before it.
    let (mut least, mut most) = ([f32::INFINITY; 8], [f32::NEG_INFINITY; 8]);
    for x in group.as_chunks::<8>().0 {
        for lane in 0..8 {
            least[lane] = least[lane].min(x[lane]);
            most[lane] = most[lane].max(x[lane]);
        }
    }
    (
        least.into_iter().fold(f32::INFINITY, f32::min),
        most.into_iter().fold(f32::NEG_INFINITY, f32::max),
    )
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, random};
    use super::*;
    use crate::backend::testing::{Layout, assert_agree, device, on_both, read};
    use serde_json::Value;

    /// All (bits, `group_size`).
    fn sizes() -> impl Iterator<Item = (usize, usize)> {
        let groups = |bits| [32, 64, 128].map(|group| (bits, group));
        [4, 8].into_iter().flat_map(groups)
    }

    #[test]
    fn numbers_are_off_by_half_a_scale_or_miss_the_end() {
        for (bits, group) in sizes() {
            let steps = if bits == 4 { 15.0 } else { 255.0 };
            // With what rounding a scale or a bias adds, as a share of it.
            for (scales, rounding) in [
                (DType::F32, 2f64.powi(-22)),
                (DType::F16, 2f64.powi(-11)),
                (DType::BF16, 2f64.powi(-8)),
            ] {
                // Around zero, on either side of it, and far from it.
                for offset in [0.0, -0.3, 0.7, -4.0] {
                    let x = (random(&[7, 384], 3) + offset).unwrap();
                    let x = x.to_device(device()).unwrap();
                    let weight = AffineWeight::quantize(&x, bits, group, scales).unwrap();
                    let back = read(&weight.dequantize(DType::F32).unwrap());
                    let (_, scales, biases) = weight.parts();
                    let parts: Vec<_> = read(scales).into_iter().zip(read(biases)).collect();
                    for (i, (found, expected)) in back.iter().zip(read(&x)).enumerate() {
                        let (scale, bias) = parts[i / group];
                        let code = ((expected - bias) / scale).clamp(0.0, steps);
                        let missed = (code * scale + bias - expected).abs();
                        let added = (steps * scale.abs() + bias.abs()) * rounding;
                        assert!(missed <= 1.001 * scale.abs() + added);
                        let bound = missed.max(scale.abs() / 2.0) + added;
                        let what = format!("{found} for {expected}, {bits} bits, {group}");
                        assert!((found - expected).abs() <= bound, "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn groups_that_are_alike_or_zero_are_exact() {
        for (bits, group) in sizes() {
            for number in [0.0, 0.25, -3.0] {
                let x = Tensor::full(number, (2, group), device()).unwrap();
                let weight = AffineWeight::quantize(&x, bits, group, DType::F16).unwrap();
                let back = read(&weight.dequantize(DType::F32).unwrap());
                assert!(back.iter().all(|&x| x == f64::from(number)), "{number}");
            }
        }
    }

    /// What mlx made of the weights of a model, and what it then takes them for.
    #[test]
    fn codes_are_those_of_mlx() {
        let load = |path: &str| candle_core::safetensors::load(path, device()).unwrap();
        let source = load("tests/fixtures/models/qwen2_bf16/model.safetensors");
        // mlx converts the weights to the dtype of the scales before.
        for (name, bits, scales) in [("q4", 4, DType::BF16), ("q8", 8, DType::F16)] {
            let folder = format!("tests/fixtures/mlx/{name}");
            let mlx = load(&format!("{folder}/model.safetensors"));
            let words = mlx.iter().filter(|(_, words)| words.dtype() == DType::U32);
            let mut matrices = 0;
            for (name, words) in words {
                let stem = name.strip_suffix(".weight").unwrap();
                let part = |part| &mlx[&format!("{stem}.{part}")];
                let (of_scales, of_biases) = (part("scales"), part("biases"));
                let theirs = AffineWeight::from_parts(words, of_scales, of_biases, bits, 64);
                let theirs = theirs.unwrap();
                let dense = source[name].to_dtype(scales).unwrap();
                let ours = AffineWeight::quantize(&dense, bits, 64, scales).unwrap();
                assert_eq!((ours.dims(), ours.bits()), (theirs.dims(), bits));
                assert_eq!(ours.scales.dtype(), scales);
                for (ours, theirs) in [
                    (&ours.codes, &theirs.codes),
                    (&ours.scales, &theirs.scales),
                    (&ours.biases, &theirs.biases),
                ] {
                    assert_eq!(ours.dims(), theirs.dims());
                    assert!(read(ours) == read(theirs), "{name}");
                }
                matrices += 1;
            }
            assert_eq!(matrices, 15);

            let expected = std::fs::read(format!("{folder}/expected.json")).unwrap();
            let expected: Value = serde_json::from_slice(&expected).unwrap();
            for (name, expected) in expected["dequantized"].as_object().unwrap() {
                let stem = name.strip_suffix(".weight").unwrap();
                let part = |part| &mlx[&format!("{stem}.{part}")];
                let weight =
                    AffineWeight::from_parts(&mlx[name], part("scales"), part("biases"), bits, 64);
                let dense = weight.unwrap().dequantize(DType::F32).unwrap();
                let numbers = read(&dense);
                let width = dense.dims()[1];
                let l2 = numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
                assert!((l2 / expected["l2"].as_f64().unwrap() - 1.0).abs() < 1e-6);
                for (key, found) in [
                    ("first8", &numbers[..8]),
                    ("row1_last8", &numbers[2 * width - 8..2 * width]),
                ] {
                    let expected: Vec<f64> = serde_json::from_value(expected[key].clone()).unwrap();
                    for (a, b) in found.iter().zip(expected) {
                        assert!((a - b).abs() < 1e-7, "{name}, {key}: {a} {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_kernel_agrees_with_the_chain() {
        // A single row, and enough of them for several threads.
        for (output, input) in [(1, 128), (3, 384), (300, 640)] {
            for (bits, group) in sizes() {
                for scales in [DType::F32, DType::F16, DType::BF16] {
                    let dense = random(&[output, input], 1);
                    let weight = AffineWeight::quantize(&dense, bits, group, scales).unwrap();
                    let kernel = kernels::affine_dequantize(&weight).unwrap();
                    let chain = weight.dequantize_by_chain().unwrap();
                    assert_eq!(kernel.dims(), chain.dims());
                    assert!(read(&kernel) == read(&chain), "{bits} bits, {group}");
                }
            }
        }
    }

    #[test]
    fn products_agree_with_those_of_the_numbers_on_every_device() {
        for (rows, output, input) in [(1, 33, 128), (4, 5, 256), (9, 65, 384)] {
            for (bits, group) in sizes() {
                let name = format!("{rows} rows, {input} to {output}, {bits} bits, {group}");
                // Rows of a product must be whole; the weights are copied in any case.
                on_both(
                    &name,
                    &[Layout::Whole, Layout::Offset, Layout::Turned],
                    |make| {
                        let dense = make.tensor(&[output, input], 1);
                        let weight = AffineWeight::quantize(&dense, bits, group, DType::BF16)?;
                        let x = make.tensor(&[rows, input], 2);
                        let dy = make.tensor(&[rows, output], 3);
                        let (y, dx) = (weight.forward(&x)?, weight.backward(&dy)?);
                        assert_eq!((y.dtype(), dx.dtype()), (x.dtype(), x.dtype()));
                        assert!(weight.parts().0.device().same_device(x.device()));
                        Ok([("W", weight.dequantize(x.dtype())?), ("y", y), ("dx", dx)])
                    },
                );
            }
        }
    }

    #[test]
    fn forward_agrees_with_finite_differences() {
        for (bits, rows) in [(4, 3), (8, 6)] {
            let weight = random(&[5, 64], 1);
            let weight = AffineWeight::quantize(&weight, bits, 32, DType::F32).unwrap();
            let (x, dy) = (random(&[rows, 64], 2), random(&[rows, 5], 3));
            let dx = weight.backward(&dy).unwrap();
            check("x", &x, &dx, &dy, |x| weight.forward(x));
        }
    }

    #[test]
    fn parts_make_the_same_matrix_again() {
        let dense = random(&[6, 128], 1).to_device(device()).unwrap();
        for (bits, group) in sizes() {
            let weight = AffineWeight::quantize(&dense, bits, group, DType::F16).unwrap();
            let (codes, scales, biases) = weight.parts();
            assert_eq!(codes.dims(), &[6, 16 * bits]);
            assert_eq!(weight.size_in_bytes(), 6 * (16 * bits + 4 * 128 / group));
            // Parts of files are often columns or rows of something.
            let wide = |x: &Tensor| Tensor::cat(&[x, x], 1)?.narrow(1, 0, x.dims()[1]);
            let [codes, scales, biases] = [codes, scales, biases].map(|x| wide(x).unwrap());
            let again = AffineWeight::from_parts(&codes, &scales, &biases, bits, group).unwrap();
            assert_eq!((again.bits(), again.group_size()), (bits, group));
            let (a, b) = (
                again.dequantize(DType::F32).unwrap(),
                weight.dequantize(DType::F32).unwrap(),
            );
            assert_agree("the matrix of its parts", &a, &b, 0.0);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let dense = random(&[2, 96], 1);
        let quantize = |bits, group, scales| AffineWeight::quantize(&dense, bits, group, scales);
        let with = |number: f32| {
            let row = vec![number; 96];
            let row = Tensor::from_vec(row, (1, 96), &Device::Cpu).unwrap();
            AffineWeight::quantize(&row, 4, 32, DType::F16)
        };
        let weight = quantize(4, 32, DType::F16).unwrap();
        let (codes, scales, biases) = weight.parts();
        let parts = |codes: &Tensor, scales: &Tensor, biases: &Tensor| {
            AffineWeight::from_parts(codes, scales, biases, 4, 32)
        };
        let wide = scales.to_dtype(DType::F32).unwrap();
        for (result, expected) in [
            (quantize(3, 32, DType::F32), "bits is 3; expected 4 or 8"),
            (quantize(4, 48, DType::F32), "group_size is 48; expected 32"),
            (
                quantize(4, 64, DType::F32),
                "96 inputs; expected a multiple",
            ),
            (quantize(4, 32, DType::U8), "scales of U8; expected F32"),
            (with(f32::NAN), "not finite, or not within 32768"),
            (with(f32::INFINITY), "not finite, or not within 32768"),
            (with(-40_000.0), "not finite, or not within 32768"),
            (parts(&wide, scales, biases), "codes of F32; expected U8"),
            (
                parts(&codes.narrow(1, 0, 40).unwrap(), scales, biases),
                "80 inputs; expected a multiple",
            ),
            (
                parts(&codes.narrow(0, 0, 1).unwrap(), scales, biases),
                "scales of shape [2, 3]; expected [1, 3]",
            ),
            (
                parts(codes, scales, &biases.narrow(1, 0, 2).unwrap()),
                "biases of shape [2, 2]; expected [2, 3]",
            ),
            (parts(codes, scales, &wide), "biases of F32; expected F16"),
            (parts(codes, codes, codes), "scales of U8; expected F32"),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(weight.forward(&random(&[1, 64], 2)).is_err());
        assert!(weight.forward(&random(&[9, 64], 2)).is_err());
        assert!(weight.backward(&random(&[9, 96], 2)).is_err());
    }
}
