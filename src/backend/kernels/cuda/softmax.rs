//! The softmax of attention scores, and the loss of logits, in place.

use super::launch::{
    Argument, Grid, Module, fresh, int, launch, long, optional, pointer, takes, unfit,
};
use candle_core::{D, DType, Result, Tensor};

const MODULE: Module = Module {
    name: "metal_candle_softmax",
    ptx: include_str!("softmax.ptx"),
};
/// Threads of a warp, and rows of a block where each has a warp.
const WARP: usize = 32;
const WARPS: usize = 8;
/// Keys up to which a row takes a warp, and above it a block.
const FEW_KEYS: usize = 1024;
const LOSS_THREADS: usize = 1024;

/// Which keys the rows of scores see: row `r` is query `r % queries`, which sees the keys up to `newest` +
/// `r % queries`, of them only the last `window`.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend) struct Seen {
    pub queries: usize,
    pub newest: usize,
    pub window: Option<usize>,
}

/// Scores, (.., keys), become probabilities. They must have no other holder.
pub(in crate::backend) fn attend(scores: &Tensor, seen: Seen) -> Result<()> {
    let (rows, keys, grid) = rows(scores)?;
    let window = seen.window.unwrap_or(usize::MAX).min(1 << 30);
    let arguments = [
        pointer(scores)?,
        long(rows)?,
        int(keys)?,
        int(seen.queries)?,
        int(seen.newest)?,
        int(window)?,
    ];
    let of = (scores.device(), scores.dtype());
    // SAFETY: so many rows of so many scores, which are the caller's alone.
    unsafe { launch((MODULE, "attend"), of, grid, &arguments) }
}

/// Gradients of probabilities, which must have no other holder, become those of scores before they were
/// multiplied by `scale`.
pub(in crate::backend) fn attend_backward(
    gradients: &Tensor,
    probabilities: &Tensor,
    scale: f32,
) -> Result<()> {
    if gradients.dims() != probabilities.dims() || gradients.dtype() != probabilities.dtype() {
        return Err(unfit("probabilities of another shape"));
    }
    let (rows, keys, grid) = rows(gradients)?;
    let arguments = [
        pointer(gradients)?,
        pointer(probabilities)?,
        long(rows)?,
        int(keys)?,
        Argument::Float(scale),
    ];
    let of = (gradients.device(), gradients.dtype());
    // SAFETY: so many rows of so many numbers each, of which those that are written are the caller's alone.
    unsafe { launch((MODULE, "attend_backward"), of, grid, &arguments) }
}

fn rows(scores: &Tensor) -> Result<(usize, usize, Grid)> {
    if !matches!(scores.dtype(), DType::BF16 | DType::F16 | DType::F32) {
        return Err(unfit("scores of another dtype"));
    }
    let keys = scores.dim(D::Minus1)?;
    let rows = scores.elem_count() / keys.max(1);
    let mut grid = Grid::of(rows, WARPS * WARP);
    if keys <= FEW_KEYS {
        grid = Grid::of(rows.div_ceil(WARPS), WARP);
        grid.threads.1 = WARPS;
    }
    Ok((rows, keys, grid))
}

/// Logits, (rows, vocabulary), which must have no other holder, become the gradients of the rows' losses. Those
/// are the result, (rows), `f32`.
pub(in crate::backend) fn cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    weights: Option<&Tensor>,
    smoothing: f32,
) -> Result<Tensor> {
    let (rows, width) = logits.dims2()?;
    let weighted = weights.is_none_or(|w| w.dims() == [rows] && w.dtype() == DType::F32);
    if !takes(logits) || targets.dims() != [rows] || targets.dtype() != DType::U32 || !weighted {
        return Err(unfit("targets that do not fit"));
    }
    let losses = fresh(rows, DType::F32, logits.device())?;
    let arguments = [
        pointer(logits)?,
        pointer(&losses)?,
        pointer(targets)?,
        optional(weights)?,
        Argument::Float(smoothing),
        int(width)?,
    ];
    let grid = Grid::of(rows, LOSS_THREADS);
    let of = (logits.device(), logits.dtype());
    // SAFETY: a row of logits, a target and a loss for each block, and the kernel holds targets against the width
    // of a row. What is written is new, or the caller's alone.
    unsafe { launch((MODULE, "cross_entropy"), of, grid, &arguments) }?;
    Ok(losses)
}
