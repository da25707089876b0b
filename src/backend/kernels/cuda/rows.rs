//! What lies between the matrix products, a pass each.

use super::WIDTH;
use super::launch::{
    Argument, Grid, Module, fresh, int, launch, long, optional, pointer, takes, unfit,
};
use candle_core::{DType, Result, Tensor};

const MODULE: Module = Module {
    name: "metal_candle_rows",
    ptx: include_str!("rows.ptx"),
};
/// Threads of a block that takes numbers as they come.
const THREADS: usize = 256;

/// `weight · x / sqrt(mean(x²) + eps)` over the last dimension.
pub(in crate::backend) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    same(&[x], weight)?;
    let normed = like(x)?;
    norm(None, &normed, x, None, weight, eps)?;
    Ok(normed)
}

/// `x + y`, and its norm.
pub(in crate::backend) fn norm_sum(
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    same(&[x, y], weight)?;
    let (sum, normed) = (like(x)?, like(x)?);
    norm(Some(&sum), &normed, x, Some(y), weight, eps)?;
    Ok((sum, normed))
}

fn norm(
    sum: Option<&Tensor>,
    normed: &Tensor,
    x: &Tensor,
    y: Option<&Tensor>,
    weight: &Tensor,
    eps: f32,
) -> Result<()> {
    let width = weight.elem_count();
    let arguments = [
        optional(sum)?,
        pointer(normed)?,
        pointer(x)?,
        optional(y)?,
        pointer(weight)?,
        Argument::Float(eps),
        int(width)?,
    ];
    // SAFETY: tensors of rows of this width, equally many of them; the results are new.
    unsafe { launch((MODULE, "norm"), of(x), by_row(x, width), &arguments) }
}

/// The gradient of [`rms_norm`] with respect to `x`, and `more` in addition where there is such.
pub(in crate::backend) fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
    dy: &Tensor,
    more: Option<&Tensor>,
) -> Result<Tensor> {
    same(&[x, dy, more.unwrap_or(x)], weight)?;
    let width = weight.elem_count();
    let dx = like(x)?;
    let arguments = [
        pointer(&dx)?,
        pointer(x)?,
        pointer(weight)?,
        Argument::Float(eps),
        pointer(dy)?,
        optional(more)?,
        int(width)?,
    ];
    // SAFETY: tensors of rows of this width, equally many of them; the result is new.
    unsafe {
        launch(
            (MODULE, "norm_backward"),
            of(x),
            by_row(x, width),
            &arguments,
        )
    }?;
    Ok(dx)
}

/// `silu(gate) · up`.
pub(in crate::backend) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    alike(&[gate, up])?;
    let y = like(gate)?;
    let count = long(gate.elem_count())?;
    let arguments = [pointer(&y)?, pointer(gate)?, pointer(up)?, count];
    // SAFETY: tensors of so many numbers; the result is new.
    unsafe { launch((MODULE, "swiglu"), of(gate), by_number(gate), &arguments) }?;
    Ok(y)
}

/// The gradients of [`swiglu`] with respect to `gate` and `up`.
pub(in crate::backend) fn swiglu_backward(
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
) -> Result<(Tensor, Tensor)> {
    alike(&[gate, up, dy])?;
    let len = gate.elem_count();
    let both = fresh(2 * len, gate.dtype(), gate.device())?;
    let arguments = [
        pointer(&both)?,
        pointer(gate)?,
        pointer(up)?,
        pointer(dy)?,
        long(len)?,
    ];
    let grid = by_number(gate);
    // SAFETY: tensors of so many numbers; the result is new and has twice as many.
    unsafe { launch((MODULE, "swiglu_backward"), of(gate), grid, &arguments) }?;
    let part = |start| both.narrow(0, start, len)?.reshape(gate.shape());
    Ok((part(0)?, part(len)?))
}

/// Adds `x`, or where it is a single row, a bias, to `y`, which must have no other holder.
pub(in crate::backend) fn add_assign(y: &Tensor, x: &Tensor) -> Result<()> {
    let width = x.elem_count();
    let fits = y.dims() == x.dims() || (x.rank() == 1 && y.dims().last() == Some(&width));
    if !fits || !takes(x) || !takes(y) || x.dtype() != y.dtype() {
        return Err(unfit("a sum of tensors that do not fit"));
    }
    let arguments = [
        pointer(y)?,
        pointer(x)?,
        long(y.elem_count())?,
        long(width)?,
    ];
    // SAFETY: `y` has so many numbers, and `x` as many or a row of them. `y` is written, and is its caller's alone.
    unsafe { launch((MODULE, "add"), of(y), by_number(y), &arguments) }
}

/// `count` rows, of which those at the given positions, each of which occurs once, are the rows of `x`, and the
/// others are zeros.
pub(in crate::backend) fn place_rows(
    x: &Tensor,
    positions: &Tensor,
    count: usize,
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    if !takes(x) || positions.dims() != [rows] || positions.dtype() != DType::U32 {
        return Err(unfit("positions that do not fit"));
    }
    let y = Tensor::zeros((count, width), x.dtype(), x.device())?;
    let arguments = [
        pointer(&y)?,
        pointer(x)?,
        pointer(positions)?,
        int(count)?,
        int(width)?,
    ];
    // SAFETY: a row of `x` and a position for each block; the kernel holds positions against the number of rows.
    unsafe { launch((MODULE, "place"), of(x), by_row(x, width), &arguments) }?;
    Ok(y)
}

fn of(x: &Tensor) -> (&candle_core::Device, DType) {
    (x.device(), x.dtype())
}

fn like(x: &Tensor) -> Result<Tensor> {
    fresh(x.shape(), x.dtype(), x.device())
}

/// A block for each row.
fn by_row(x: &Tensor, width: usize) -> Grid {
    let threads = width.div_ceil(WIDTH).next_multiple_of(32).min(THREADS);
    Grid::of(x.elem_count() / width.max(1), threads)
}

fn by_number(x: &Tensor) -> Grid {
    Grid::of(x.elem_count().div_ceil(THREADS * WIDTH), THREADS)
}

/// Tensors of one shape.
fn alike(tensors: &[&Tensor]) -> Result<()> {
    let mut pairs = tensors.iter().zip(tensors.iter().skip(1));
    let fits = pairs.all(|(a, b)| a.dims() == b.dims() && a.dtype() == b.dtype());
    if fits && tensors.iter().all(|x| takes(x)) {
        Ok(())
    } else {
        Err(unfit("tensors of several shapes"))
    }
}

/// Tensors of one shape, with rows as wide as the weight.
fn same(tensors: &[&Tensor], weight: &Tensor) -> Result<()> {
    alike(tensors)?;
    let fits =
        |x: &&Tensor| x.dims().last() == Some(&weight.elem_count()) && x.dtype() == weight.dtype();
    if weight.rank() == 1 && takes(weight) && tensors.iter().all(fits) {
        Ok(())
    } else {
        Err(unfit("a weight of another width"))
    }
}
