//! One token through a decoder layer on an NVIDIA GPU, in five launches.

use super::WIDTH;
use super::launch::{Argument, Grid, Module, fresh, int, launch, optional, pointer};
use crate::backend::ops::decode::{Heads, Layer};
use candle_core::{DType, Device, Result, Tensor};
use once_cell::sync::OnceCell;

const MODULE: Module = Module {
    name: "metal_candle_decode",
    ptx: include_str!("decode.ptx"),
};
const THREADS: usize = 256;
/// Warps of a block, each of which computes a number of the result at a time.
const WARPS: usize = THREADS / 32;
/// Keys that a block attends to where they are few, and blocks of a head where they are many: the last of them
/// puts together what all have found.
const KEYS: usize = 64;
const SPLITS: usize = 32;
/// Keys whose scores a block has room for.
const MOST_KEYS: usize = 4096;
/// Blocks that compute all logits, each a part of the head.
const HEAD_BLOCKS: usize = 1056;
/// Bytes of shared memory that a block has without asking for more.
const SHARED: usize = 48 << 10;

/// What a kernel of a token leaves for the next one.
#[derive(Clone, Copy)]
enum Between {
    QueryKeyValue,
    Context,
    Residual,
    Activated,
}

/// What blocks of one head leave for the last of them, and kernels for the next one. All layers of a token write to
/// the same places: the kernels of a stream run one after the other.
pub(in crate::backend) struct Scratch {
    between: [OnceCell<Tensor>; 4],
    parts: Tensor,
    /// How many have finished, by heads. A kernel leaves zeros.
    finished: Tensor,
}

impl Scratch {
    pub fn new(heads: &Heads, positions: usize, device: &Device) -> Result<Self> {
        let few = positions.div_ceil(KEYS).min(SPLITS);
        let splits = few.max(positions.div_ceil(MOST_KEYS));
        let len = heads.query * splits * (heads.dim + 2);
        Ok(Self {
            between: Default::default(),
            parts: Tensor::zeros(len, DType::F32, device)?,
            finished: Tensor::zeros(heads.query, DType::U32, device)?,
        })
    }

    /// A place of shape (1, len), which holds what the layer before left there.
    fn place(&self, between: Between, len: usize, like: &Tensor) -> Result<Tensor> {
        let make = || fresh((1, len), like.dtype(), like.device());
        let held = self.between[between as usize].get_or_try_init(make)?;
        if held.elem_count() == len {
            Ok(held.clone())
        } else {
            make()
        }
    }
}

/// Whether the kernels take heads of this size.
pub(in crate::backend) fn takes_heads(heads: &Heads) -> bool {
    matches!(heads.dim, 64 | 128 | 256) && heads.query.is_multiple_of(heads.kv.max(1))
}

/// Whether a normed input of this width fits into the memory that a block shares.
pub(in crate::backend) fn takes_width(width: usize) -> bool {
    width * 2 <= SHARED - 1024
}

/// The layer's output for one token of shape (1, hidden). Its key and value go into the cache.
pub(in crate::backend) fn decode_layer(
    x: &Tensor,
    layer: &Layer<'_>,
    scratch: &Scratch,
) -> Result<Tensor> {
    let hidden = x.dim(1)?;
    let heads = &layer.heads;
    let attended = heads.query * heads.dim;
    let kernels = Kernels::of(x);

    let mut arguments = vec![
        pointer(x)?,
        pointer(layer.input_norm)?,
        Argument::Float(layer.eps),
        int(hidden)?,
    ];
    let mut rows = 0;
    for (weight, bias) in layer.query_key_value {
        let out = weight.dim(0)?;
        arguments.extend([pointer(weight)?, optional(bias)?, int(out)?]);
        rows += out;
    }
    let place = |between, len| scratch.place(between, len, x);
    let qkv = place(Between::QueryKeyValue, rows)?;
    kernels.rows("norm_linear", &qkv, hidden * 2, &arguments)?;
    let context = attend(&kernels, &qkv, layer, scratch)?;
    let add = |y: Tensor, x: &Tensor, weight: &Tensor, residual: &Tensor, width: usize| {
        // A warp reads a kilobyte or two of a row: where all rows are few, warps would be too few otherwise.
        let share = (width / 1024).clamp(1, WARPS).next_power_of_two();
        let arguments = [
            pointer(x)?,
            pointer(weight)?,
            pointer(residual)?,
            int(width)?,
            int(hidden)?,
            int(share)?,
        ];
        let blocks = ((hidden * share).div_ceil(WARPS), 1);
        kernels.launch("linear_add", &y, blocks, 0, &arguments)?;
        Ok::<_, candle_core::Error>(y)
    };
    let residual = place(Between::Residual, hidden)?;
    let residual = add(residual, &context, layer.output, x, attended)?;
    let intermediate = layer.gate.dim(0)?;
    let arguments = [
        pointer(&residual)?,
        pointer(layer.post_norm)?,
        Argument::Float(layer.eps),
        pointer(layer.gate)?,
        pointer(layer.up)?,
        int(hidden)?,
        int(intermediate)?,
    ];
    let activated = place(Between::Activated, intermediate)?;
    kernels.rows("norm_swiglu", &activated, hidden * 2, &arguments)?;
    let y = fresh((1, hidden), x.dtype(), x.device())?;
    add(y, &activated, layer.down, &residual, intermediate)
}

fn attend(
    kernels: &Kernels<'_>,
    qkv: &Tensor,
    layer: &Layer<'_>,
    scratch: &Scratch,
) -> Result<Tensor> {
    let heads = &layer.heads;
    let seen = layer.position + 1 - layer.oldest;
    let most = seen.div_ceil(SPLITS).next_multiple_of(KEYS);
    let most = most.min(MOST_KEYS);
    let splits = seen.div_ceil(most);
    // Query, key, scores, and the sums of the lanes that share a dimension.
    let shared = (2 * heads.dim + most + THREADS * WIDTH) * 4;
    let arguments = [
        pointer(qkv)?,
        optional(layer.head_norms.map(|(query, _)| query))?,
        optional(layer.head_norms.map(|(_, key)| key))?,
        Argument::Float(layer.eps),
        pointer(layer.cos)?,
        pointer(layer.sin)?,
        pointer(layer.keys)?,
        pointer(layer.values)?,
        int(heads.query)?,
        int(heads.kv)?,
        int(heads.dim)?,
        int(layer.keys.dim(2)?)?,
        int(layer.oldest)?,
        int(layer.position)?,
        int(most)?,
        pointer(&scratch.parts)?,
        pointer(&scratch.finished)?,
    ];
    let context = scratch.place(Between::Context, heads.query * heads.dim, qkv)?;
    let blocks = (heads.query, splits);
    kernels.launch("attend", &context, blocks, shared, &arguments)?;
    Ok(context)
}

/// The logits of one token in `f32`, (1, vocabulary), for its hidden state of shape (1, hidden).
pub(in crate::backend) fn decode_head(
    x: &Tensor,
    norm: &Tensor,
    eps: f32,
    head: &Tensor,
) -> Result<Tensor> {
    let (out, hidden) = head.dims2()?;
    let arguments = [
        pointer(x)?,
        pointer(norm)?,
        Argument::Float(eps),
        int(hidden)?,
        pointer(head)?,
        int(out)?,
    ];
    let grid = (out.div_ceil(WARPS).min(HEAD_BLOCKS), 1);
    let logits = fresh((1, out), DType::F32, x.device())?;
    Kernels::of(x).launch("norm_head", &logits, grid, hidden * 2, &arguments)?;
    Ok(logits)
}

/// The kernels for one type of numbers.
struct Kernels<'a> {
    device: &'a Device,
    dtype: DType,
}

impl<'a> Kernels<'a> {
    fn of(x: &'a Tensor) -> Self {
        Self {
            device: x.device(),
            dtype: x.dtype(),
        }
    }

    /// A kernel with a warp for each number of its result.
    fn rows(
        &self,
        kernel: &'static str,
        result: &Tensor,
        shared: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        let grid = (result.elem_count().div_ceil(WARPS), 1);
        self.launch(kernel, result, grid, shared, arguments)
    }

    /// Launches a kernel, whose first argument is its result.
    fn launch(
        &self,
        kernel: &'static str,
        result: &Tensor,
        blocks: (usize, usize),
        shared: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        let arguments = [&[pointer(result)?], arguments].concat();
        let grid = Grid {
            blocks,
            threads: (THREADS, 1),
            shared,
        };
        // SAFETY: the arguments are those of the kernel, in its order. Pointers are those of tensors whose
        // shapes `backend::ops::decode` checked. What it writes of them, a result and a position of a cache, is
        // nobody else's: results are new or the scratch's, and the cache is borrowed mutably for as long.
        unsafe {
            launch(
                (MODULE, kernel),
                (self.device, self.dtype),
                grid,
                &arguments,
            )
        }
    }
}
