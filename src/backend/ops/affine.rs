//! A linear map with frozen weights of a few bits, in groups that share a scale and a bias.

use crate::backend::{kernels, threads};
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
    /// codes are chosen before it. With 8 bits the rounding to `bf16` makes the error half as large again,
    /// that to `f16` adds nothing to speak of.
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
        let rows = (codes.par_chunks_mut(bytes))
            .zip(parts.par_chunks_mut(groups))
            .zip(numbers.par_chunks(input));
        threads::run(|| {
            rows.try_for_each(|((codes, parts), row)| {
                let codes = codes.chunks_exact_mut(bytes / groups);
                for ((codes, part), group) in codes.zip(parts).zip(row.chunks_exact(group_size)) {
                    if !group.iter().fold(true, |all, x| all & (x.abs() <= largest)) {
                        bail!("a weight is not finite, or not within {largest:e} of zero");
                    }
                    *part = quantize_group(group, bits, codes);
                }
                Ok(())
            })
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

    /// The matrix, with its tensors moved by `place`.
    pub(super) fn moved(self, place: &mut dyn FnMut(Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self {
            codes: place(self.codes)?,
            scales: place(self.scales)?,
            biases: place(self.biases)?,
            ..self
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

    /// The matrix on another device.
    ///
    /// # Errors
    ///
    /// When the device fails, for example for lack of memory.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self {
            codes: self.codes.to_device(device)?,
            scales: self.scales.to_device(device)?,
            biases: self.biases.to_device(device)?,
            ..*self
        })
    }

    /// The numbers of features: (out, in).
    #[must_use]
    pub fn dims(&self) -> (usize, usize) {
        let groups = self.scales.dims();
        (groups[0], groups[1] * self.group_size)
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
        let bytes = parts.map(|part| part.elem_count() * part.dtype().size_in_bytes());
        bytes.iter().sum()
    }

    /// Codes, scales and biases, as [`from_parts`](Self::from_parts) takes them; codes in bytes.
    #[must_use]
    pub fn parts(&self) -> (&Tensor, &Tensor, &Tensor) {
        (&self.codes, &self.scales, &self.biases)
    }

    /// The matrix of the given rows, ids of shape (n) and dtype `u32`.
    ///
    /// # Errors
    ///
    /// When the device fails, or on the CPU when an id is no row.
    pub fn rows(&self, ids: &Tensor) -> Result<Self> {
        let part = |part: &Tensor| part.index_select(ids, 0);
        Ok(Self {
            codes: part(&self.codes)?,
            scales: part(&self.scales)?,
            biases: part(&self.biases)?,
            ..self.clone()
        })
    }

    /// The matrix, of shape (out, in), in `dtype`: code · scale + bias in `f32`, rounded once.
    ///
    /// It stays on the device.
    ///
    /// # Errors
    ///
    /// When the device fails, for example for lack of memory.
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        #[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
        if kernels::metal::takes_affine(self, dtype) {
            return kernels::metal::affine_dequantize(self, dtype);
        }
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
    /// A few rows in `f32` on the CPU, and in any dtype on Metal, read the codes and nothing else.
    /// Otherwise the matrix exists in the dtype of `x` for the time of the product.
    ///
    /// # Errors
    ///
    /// When shapes or devices do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let few_rows = (1..=kernels::AFFINE_ROWS).contains(&x.dim(0)?);
        if few_rows && kernels::takes(x) && self.codes.device().is_cpu() {
            return kernels::affine_few_rows(x, self);
        }
        #[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
        if few_rows && x.is_contiguous() && kernels::metal::takes_affine(self, x.dtype()) {
            return kernels::metal::affine_rows(x, self);
        }
        x.matmul(&self.dequantize(x.dtype())?.t()?)
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
fn quantize_group(group: &[f32], code_bits: usize, codes: &mut [u8]) -> (f32, f32) {
    /// Added to a number of up to 22 bits it leaves no place for a fraction, which goes to the nearest
    /// number, and of two to the even one; then the lowest byte of the sum is the number.
    const WHOLE: f32 = 12_582_912.0;
    let steps: f32 = if code_bits == 4 { 15.0 } else { 255.0 };
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
    if code_bits == 4 {
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
mod tests;
