//! Products with weights in MLX's groups on Apple's GPUs, which read the codes and nothing else.

use super::{LANES, compile, empty, int, launch, number};
use crate::backend::ops::affine::AffineWeight;
use candle_core::metal_backend::DeviceId;
use candle_core::{DType, MetalDevice, Result, Tensor};
use candle_metal_kernels::metal::ComputePipeline;
use parking_lot::Mutex;
use std::sync::Arc;

const SOURCE: &str = include_str!("affine.metal");
/// Bytes of codes that a lane reads at once, as in `affine.metal`; so are those that follow.
const BYTES: usize = 8;
/// Rows of a simdgroup, and simdgroups of a threadgroup.
const ROWS: usize = 4;
const SIMDS: usize = 2;
/// Threads of a threadgroup that makes the matrix.
const THREADS: usize = 256;

/// Whether the kernels take this weight, for a result of this dtype.
pub(in crate::backend) fn takes_affine(weight: &AffineWeight, dtype: DType) -> bool {
    let (codes, scales, biases) = weight.parts();
    let (_, layout) = codes.storage_and_layout();
    codes.device().is_metal()
        && number(dtype).is_ok()
        && number(scales.dtype()).is_ok()
        && scales.dtype() == biases.dtype()
        && [codes, scales, biases]
            .iter()
            .all(|part| part.is_contiguous())
        && layout.start_offset().is_multiple_of(BYTES)
}

/// `x Wᵀ` for a few rows of `x`, which is contiguous.
pub(in crate::backend) fn affine_rows(x: &Tensor, weight: &AffineWeight) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let (out, expected) = weight.dims();
    if width != expected {
        candle_core::bail!("linear of {width} inputs with weights for {expected}");
    }
    let device = x.device().as_metal_device()?;
    let (codes, scales, biases) = weight.parts();
    let y = empty(device, (rows, out), x.dtype())?;
    let grid = (out.div_ceil(SIMDS * ROWS), rows);
    let inputs = [x, codes, scales, biases];
    let numbers = [int(width)?, int(out)?];
    let pipeline = &pipelines(device, weight, x.dtype())?[0];
    launch(
        device,
        pipeline,
        &[&y],
        &inputs,
        &numbers,
        grid,
        SIMDS * LANES,
    )?;
    Ok(y)
}

/// The matrix in `dtype`.
pub(in crate::backend) fn affine_dequantize(weight: &AffineWeight, dtype: DType) -> Result<Tensor> {
    let (codes, scales, biases) = weight.parts();
    let device = codes.device().as_metal_device()?;
    let y = empty(device, weight.dims(), dtype)?;
    let count = codes.elem_count() / BYTES;
    let grid = (count.div_ceil(THREADS), 1);
    let pipeline = &pipelines(device, weight, dtype)?[1];
    launch(
        device,
        pipeline,
        &[&y],
        &[codes, scales, biases],
        &int(count)?,
        grid,
        THREADS,
    )?;
    Ok(y)
}

/// What the kernels are compiled for: types of numbers and scales, bits and group size.
type Kind = (DeviceId, DType, DType, usize, usize);

/// The product of rows, and the matrix.
fn pipelines(
    device: &MetalDevice,
    weight: &AffineWeight,
    dtype: DType,
) -> Result<Arc<[ComputePipeline]>> {
    static COMPILED: Mutex<Vec<(Kind, Arc<[ComputePipeline]>)>> = Mutex::new(Vec::new());
    let (bits, group) = (weight.bits(), weight.group_size());
    let scales = weight.parts().1.dtype();
    let kind = (device.id(), dtype, scales, bits, group);
    let mut compiled = COMPILED.lock();
    if let Some((_, found)) = compiled.iter().find(|(of, _)| *of == kind) {
        return Ok(found.clone());
    }
    let (t, s) = (number(dtype)?, number(scales)?);
    let source = format!(
        "#define T {t}\n#define S {s}\n#define BITS {bits}\n#define GROUP {group}\n{SOURCE}"
    );
    let made = compile(device, &source, &["affine_rows", "affine_dequantize"])?;
    compiled.push((kind, made.clone()));
    Ok(made)
}
