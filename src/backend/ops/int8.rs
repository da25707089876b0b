//! Numbers kept in eight bits, in groups that share a scale.

use crate::backend::kernels;
use candle_core::{D, DType, Result, Tensor};

/// The code of zero: codes are unsigned, because no device computes with signed bytes.
pub(crate) const ZERO: u8 = 128;
/// The largest distance of a code from [`ZERO`].
const STEPS: f64 = 127.0;

/// The codes of `x`, of shape (batch, heads, n, d), in the same shape of dtype `u8`; and the scales of
/// each `group` numbers along d, of shape (batch, heads, n, d / `group`) and dtype `bf16`.
///
/// Symmetric: a number is (code - 128) · scale, where codes are 1 to 255. It is off by at most half a
/// scale, which is 1/252 of the largest number of its group.
///
/// # Errors
///
/// When `x` has not four dimensions, or `group` does not divide the last.
pub fn quantize(x: &Tensor, group: usize) -> Result<(Tensor, Tensor)> {
    let (batch, heads, len, width) = x.dims4()?;
    let x = x.to_dtype(DType::F32)?.contiguous()?;
    let x = x.reshape((batch * heads, len, width / group, group))?;
    // A scale is exact in both dtypes that it will be multiplied in, `f32` and `bf16`: its rounding would
    // move all products of a query with the group one way. It is a little longer than needed, so that
    // after its rounding 127 of them still reach the largest number; and a group of zeros has one.
    let largest = x.abs()?.max_keepdim(D::Minus1)?;
    let scales = largest.affine((1.0 + 1.0 / 256.0) / STEPS, 1e-30)?;
    let scales = scales.to_dtype(DType::BF16)?;
    let steps = x.broadcast_div(&scales.to_dtype(DType::F32)?)?;
    // A cast truncates, so that half a step more rounds to the nearest code.
    let codes = steps.affine(1.0, f64::from(ZERO) + 0.5)?;
    Ok((
        codes
            .to_dtype(DType::U8)?
            .reshape((batch, heads, len, width))?,
        scales.reshape((batch, heads, len, width / group))?,
    ))
}

/// The numbers of codes and scales that [`quantize`] gave, in `dtype`: `f32`, `f16` or `bf16`, to which
/// the product of the two is rounded once.
///
/// Both may be the first positions of longer buffers.
///
/// # Errors
///
/// When the shapes are not those of codes and their scales.
pub fn dequantize(codes: &Tensor, scales: &Tensor, dtype: DType) -> Result<Tensor> {
    let shape = codes.dims4()?;
    let (batch, heads, len, width) = shape;
    if kernels::takes_codes(codes) && kernels::takes_codes(scales) {
        return kernels::dequantize(codes, scales)?.to_dtype(dtype);
    }
    let groups = scales.dim(3)?;
    // The scale of a group of small numbers is none in `f16`, even where the numbers are. Every code is
    // exact in `bf16`, which has the range of `f32`.
    let wide = match dtype {
        DType::F16 => DType::F32,
        other => other,
    };
    let steps = codes.to_dtype(wide)?.affine(1.0, -f64::from(ZERO))?;
    let steps = steps.reshape((batch * heads, len, groups, width / groups))?;
    let scales = scales.to_dtype(wide)?.contiguous()?;
    let scales = scales.reshape((batch * heads, len, groups, 1))?;
    let numbers = steps.broadcast_mul(&scales)?.reshape(shape)?;
    numbers.to_dtype(dtype)
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::random;
    use super::*;
    use crate::backend::testing::{device, read};

    #[test]
    fn codes_are_those_of_the_definition() {
        let mut x = vec![0f32; 64];
        // The largest makes the step 1, to the 8 bits of a scale; halves round up.
        x[..6].copy_from_slice(&[126.6, -126.6, 0.5, 0.49, -1.0, -0.51]);
        // The second group is all zeros, and has a scale of its own.
        let x = Tensor::from_vec(x, (1, 1, 1, 64), device()).unwrap();
        let (codes, scales) = quantize(&x, 32).unwrap();
        assert_eq!(codes.dims(), &[1, 1, 1, 64]);
        assert_eq!(
            (scales.dims(), scales.dtype()),
            (&[1, 1, 1, 2][..], DType::BF16)
        );
        assert_eq!(
            read(&codes)[..7],
            [255.0, 1.0, 129.0, 128.0, 127.0, 127.0, 128.0]
        );
        assert_eq!(read(&scales)[0].to_bits(), 1f64.to_bits());
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let back = dequantize(&codes, &scales, dtype).unwrap();
            assert_eq!(back.dtype(), dtype);
            let back = read(&back);
            assert_eq!(back[..6], [127.0, -127.0, 1.0, 0.0, -1.0, -1.0]);
            assert!(back[6..].iter().all(|&x| x == 0.0));
        }
    }

    /// Whatever the largest number of a group is, its code fits and none is off by more than it may.
    #[test]
    fn no_number_is_off_by_more_than_half_a_step() {
        // One rounding to the dtype: half of its last bit, and in `f16` of its smallest number.
        for (dtype, rounding, smallest) in [
            (DType::F32, 0.0, 0.0),
            (DType::BF16, 2f64.powi(-9), 0.0),
            (DType::F16, 2f64.powi(-12), 2f64.powi(-25)),
        ] {
            for size in [1e-6, 1e-4, 0.125, 1.0, 16.0, 32_768.0] {
                let x = (random(&[1, 64, 5, 32], 3) * size).unwrap();
                let x = x.to_dtype(dtype).unwrap().to_device(device()).unwrap();
                let (codes, scales) = quantize(&x, 32).unwrap();
                let back = read(&dequantize(&codes, &scales, dtype).unwrap());
                for (found, expected) in back.chunks(32).zip(read(&x).chunks(32)) {
                    let largest = expected.iter().fold(0f64, |max, x| max.max(x.abs()));
                    for (a, b) in found.iter().zip(expected) {
                        let bound = largest / 252.0 + 2.0 * rounding * b.abs() + smallest;
                        let what = format!("{a} {b} of {largest}, {dtype:?}");
                        assert!((a - b).abs() <= bound, "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_kernel_agrees_with_the_chain() {
        // The first positions of longer buffers, and of more of them; large ones go to threads.
        for (batch, heads, len, width) in [(1, 1, 1, 16), (2, 3, 5, 64), (2, 2, 700, 96)] {
            for size in [1.0, 1e-5] {
                let x = (random(&[batch, heads, len + 4, width], 1) * size).unwrap();
                let (codes, scales) = quantize(&x, 16).unwrap();
                let [codes, scales] = [codes, scales].map(|x| x.narrow(2, 0, len).unwrap());
                // Columns of wider rows take the chain.
                let wide = Tensor::cat(&[&codes, &codes], 3).unwrap();
                let turned = wide.narrow(3, 0, width).unwrap();
                assert!(kernels::takes_codes(&codes) && !kernels::takes_codes(&turned));
                for dtype in [DType::F32, DType::F16, DType::BF16] {
                    let kernel = dequantize(&codes, &scales, dtype).unwrap();
                    let chain = dequantize(&turned, &scales, dtype).unwrap();
                    assert_eq!((kernel.dims(), kernel.dtype()), (chain.dims(), dtype));
                    assert!(read(&kernel) == read(&chain), "{dtype:?}");
                }
            }
        }
    }
}
