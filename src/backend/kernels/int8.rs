//! Numbers out of eight bits, in one pass over what a key-value cache holds of them.

use super::rows;
use crate::backend::ops::int8::ZERO;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

/// Whether codes or scales are ones that this kernel takes: of shape (batch, heads, n, width), and
/// whole rows of a buffer that may have more positions.
pub(in crate::backend) fn takes_codes(x: &Tensor) -> bool {
    x.device().is_cpu() && head_stride(x.layout()).is_some()
}

/// Numbers from the start of one head to that of the next.
fn head_stride(layout: &Layout) -> Option<usize> {
    let (&[batch, heads, _, width], &[of_batch, of_head, of_row, of_number]) =
        (layout.dims(), layout.stride())
    else {
        return None;
    };
    let whole_rows = of_row == width && of_number == 1;
    let even = batch == 1 || of_batch == heads * of_head;
    (whole_rows && even).then_some(of_head)
}

/// (code - 128) · scale, in `f32`.
pub(in crate::backend) fn dequantize(codes: &Tensor, scales: &Tensor) -> Result<Tensor> {
    codes.apply_op2_no_bwd(scales, &Dequantize)
}

struct Dequantize;

impl CustomOp2 for Dequantize {
    fn name(&self) -> &'static str {
        "dequantize"
    }

    fn cpu_fwd(
        &self,
        codes: &CpuStorage,
        codes_layout: &Layout,
        scales: &CpuStorage,
        scales_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (CpuStorage::U8(codes), CpuStorage::BF16(scales)) = (codes, scales) else {
            return Err(refused());
        };
        let (batch, heads, len, width) = codes_layout.shape().dims4()?;
        let (scales_batch, scales_heads, scales_len, groups) = scales_layout.shape().dims4()?;
        let same = (batch, heads, len) == (scales_batch, scales_heads, scales_len);
        let (Some(codes_stride), Some(scales_stride), true) =
            (head_stride(codes_layout), head_stride(scales_layout), same)
        else {
            return Err(refused());
        };
        if groups == 0 || !width.is_multiple_of(groups) {
            return Err(refused());
        }
        let group = width / groups;
        let codes = &codes[codes_layout.start_offset()..];
        let scales = &scales[scales_layout.start_offset()..];
        let result = rows(batch * heads * len, width, 1, |row, numbers| {
            let (head, position) = (row / len, row % len);
            let codes = &codes[head * codes_stride + position * width..];
            let scales = &scales[head * scales_stride + position * groups..];
            let groups = numbers.chunks_exact_mut(group).zip(codes.chunks(group));
            for ((numbers, codes), scale) in groups.zip(scales) {
                let scale = scale.to_f32();
                for (number, &code) in numbers.iter_mut().zip(codes) {
                    *number = (f32::from(code) - f32::from(ZERO)) * scale;
                }
            }
        });
        Ok((CpuStorage::F32(result), codes_layout.shape().clone()))
    }
}

fn refused() -> candle_core::Error {
    candle_core::Error::Msg(
        "the kernel takes u8 codes and the bf16 scales of their rows".to_owned(),
    )
}
