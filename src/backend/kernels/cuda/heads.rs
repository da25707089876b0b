//! From rows of all heads, (tokens, heads · d), to heads of rows, (batch, heads, n, d), and back.

use super::WIDTH;
use super::launch::{Grid, Module, fresh, int, launch, optional, pointer, takes, unfit};
use candle_core::{Result, Shape, Tensor};

const MODULE: Module = Module {
    name: "metal_candle_heads",
    ptx: include_str!("heads.ptx"),
};
const THREADS: usize = 256;
/// Queries, keys and values.
const PARTS: usize = 3;

/// Whether the kernels read heads of this size.
pub(in crate::backend) fn takes_head(dim: usize) -> bool {
    dim > 0 && dim.is_multiple_of(2 * WIDTH)
}

/// Cosines and sines, (n, d / 2), by which the first two parts are rotated.
type Rotation<'a> = Option<(&'a Tensor, &'a Tensor)>;

/// Splits each of `parts`, (batch · n, heads · d), into heads.
pub(in crate::backend) fn to_heads<const N: usize>(
    parts: [&Tensor; N],
    rotation: Rotation<'_>,
    (batch, len, dim): (usize, usize, usize),
) -> Result<[Tensor; N]> {
    let mut heads = [0; N];
    for (count, part) in heads.iter_mut().zip(parts) {
        let (tokens, width) = part.dims2()?;
        if tokens != batch * len || !takes_head(dim) || !width.is_multiple_of(dim) {
            return Err(unfit("heads of another size"));
        }
        *count = width / dim;
    }
    let results = place(parts, heads.map(|heads| (batch, heads, len, dim).into()))?;
    relayout(
        "to_heads",
        parts,
        &results,
        heads,
        rotation,
        (batch, len, dim),
    )?;
    Ok(results)
}

/// The inverse of [`to_heads`], which rotates back.
pub(in crate::backend) fn to_rows<const N: usize>(
    parts: [&Tensor; N],
    rotation: Rotation<'_>,
) -> Result<[Tensor; N]> {
    let mut heads = [0; N];
    let mut shape = None;
    for (count, part) in heads.iter_mut().zip(parts) {
        let (batch, heads, len, dim) = part.dims4()?;
        if !takes_head(dim) || *shape.get_or_insert((batch, len, dim)) != (batch, len, dim) {
            return Err(unfit("heads of another size"));
        }
        *count = heads;
    }
    let (batch, len, dim) = shape.unwrap_or_default();
    let results = place(parts, heads.map(|heads| (batch * len, heads * dim).into()))?;
    relayout(
        "to_rows",
        parts,
        &results,
        heads,
        rotation,
        (batch, len, dim),
    )?;
    Ok(results)
}

/// New tensors as large as `parts`, which share an allocation.
fn place<const N: usize>(parts: [&Tensor; N], shapes: [Shape; N]) -> Result<[Tensor; N]> {
    let [first, ..] = &parts[..] else {
        return Err(unfit("no heads"));
    };
    let len = parts.iter().map(|part| part.elem_count()).sum::<usize>();
    let all = fresh(len, first.dtype(), first.device())?;
    let mut start = 0;
    let mut results = Vec::with_capacity(N);
    for shape in shapes {
        let len = shape.elem_count();
        results.push(all.narrow(0, start, len)?.reshape(shape)?);
        start += len;
    }
    <[Tensor; N]>::try_from(results).map_err(|_| unfit("no heads"))
}

fn relayout<const N: usize>(
    name: &'static str,
    from: [&Tensor; N],
    to: &[Tensor; N],
    heads: [usize; N],
    rotation: Rotation<'_>,
    (batch, len, dim): (usize, usize, usize),
) -> Result<()> {
    let [first, ..] = &from[..] else {
        return Err(unfit("no heads"));
    };
    let dtype = first.dtype();
    let fits = |x: &Tensor| takes(x) && x.dtype() == dtype;
    let rotates = |(cos, sin): (&Tensor, &Tensor)| {
        let shape = [len, dim / 2];
        fits(cos) && fits(sin) && cos.dims() == shape && sin.dims() == shape
    };
    if N > PARTS || !from.into_iter().all(fits) || !rotation.is_none_or(rotates) {
        return Err(unfit("heads that do not fit"));
    }
    let mut arguments = Vec::with_capacity(3 * PARTS + 6);
    for ((to, from), heads) in to.iter().zip(from).zip(heads) {
        arguments.extend([pointer(to)?, pointer(from)?, int(heads)?]);
    }
    for _ in N..PARTS {
        arguments.extend([optional(None)?, optional(None)?, int(0)?]);
    }
    arguments.extend([
        int(if rotation.is_some() { 2 } else { 0 })?,
        optional(rotation.map(|(cos, _)| cos))?,
        optional(rotation.map(|(_, sin)| sin))?,
        int(batch)?,
        int(len)?,
        int(dim)?,
    ]);
    let count = batch * len * heads.iter().sum::<usize>() * dim / (2 * WIDTH);
    let grid = Grid::of(count.div_ceil(THREADS), THREADS);
    // SAFETY: the callers checked that each part has so many heads of this size in so many rows, and made what is
    // written anew, as large. Cosines and sines have a row for each position.
    unsafe { launch((MODULE, name), (first.device(), dtype), grid, &arguments) }
}
