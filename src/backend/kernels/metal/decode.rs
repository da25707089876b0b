//! One token through a decoder layer on Apple's GPUs, in five kernels.
//!
//! `decode.metal` has them. The system compiles them for its GPU when a model's first token comes, for the type
//! and the heads of that model.

use super::{LANES, compile, empty, int, launch, number};
use crate::backend::ops::decode::{Heads, Layer};
use candle_core::metal_backend::DeviceId;
use candle_core::{DType, Error, MetalDevice, Result, Tensor};
use candle_metal_kernels::metal::ComputePipeline;
use parking_lot::Mutex;
use std::sync::Arc;

const SOURCE: &str = include_str!("decode.metal");
/// Numbers of a row that a lane reads at once, as in `decode.metal`; so are those that follow.
const WIDTH: usize = 8;
/// Rows of a simdgroup, and simdgroups of a threadgroup, where a matrix is read.
const ROWS: usize = 4;
const SIMDS: usize = 2;
/// Keys that a threadgroup attends to, and its simdgroups.
const SPLIT: usize = 256;
const ATTEND_SIMDS: usize = 8;

/// The kernels, and what threadgroups of one head leave for the one that puts them together.
pub(in crate::backend) struct Scratch {
    pipelines: Pipelines,
    parts: Option<Tensor>,
}

impl Scratch {
    pub fn new(x: &Tensor, heads: &Heads, positions: usize) -> Result<Self> {
        let device = x.device().as_metal_device()?;
        let len = heads.query * positions.div_ceil(SPLIT) * (heads.dim + 2);
        Ok(Self {
            pipelines: Pipelines::of(device, x.dtype(), Some(heads.dim))?,
            parts: (positions > SPLIT)
                .then(|| empty(device, (1, len), DType::F32))
                .transpose()?,
        })
    }
}

/// How many lanes share a key, where the kernels take heads of this dimension.
fn team(dim: usize) -> Option<usize> {
    match dim {
        16 => Some(2),
        32 => Some(4),
        64 | 96 => Some(8),
        128 => Some(16),
        256 => Some(32),
        _ => None,
    }
}

/// Whether the kernels take such heads.
pub(in crate::backend) fn takes_heads(heads: &Heads) -> bool {
    team(heads.dim).is_some() && heads.query.is_multiple_of(heads.kv.max(1))
}

/// Whether the kernels read this: a contiguous tensor of floats on such a GPU, in rows of whole reads.
pub(in crate::backend) fn takes(x: &Tensor) -> bool {
    let (_, layout) = x.storage_and_layout();
    matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16)
        && layout.is_contiguous()
        && layout.start_offset().is_multiple_of(WIDTH)
        && x.dims()
            .last()
            .is_some_and(|width| width.is_multiple_of(WIDTH))
}

/// The layer's output for one token of shape (1, hidden). Its key and value go into the cache.
pub(in crate::backend) fn decode_layer(
    x: &Tensor,
    layer: &Layer<'_>,
    scratch: &Scratch,
) -> Result<Tensor> {
    let hidden = x.dim(1)?;
    let pipelines = &scratch.pipelines;
    let [(q, q_bias), (k, k_bias), (v, v_bias)] = layer.query_key_value;
    let out = [q.dim(0)?, k.dim(0)?, v.dim(0)?];
    let qkv = pipelines.rows(
        Kernel::NormLinear,
        (out.iter().sum(), ROWS),
        &[
            x,
            layer.input_norm,
            // Something is bound where there is no bias, and is not read.
            q,
            q_bias.unwrap_or(q),
            k,
            k_bias.unwrap_or(k),
            v,
            v_bias.unwrap_or(v),
        ],
        &NormLinear {
            width: int(hidden)?,
            eps: layer.eps,
            out: [int(out[0])?, int(out[1])?, int(out[2])?],
            has_bias: [q_bias, k_bias, v_bias].map(|bias| bias.is_some().into()),
        },
    )?;
    let context = attend(&qkv, layer, scratch)?;
    let add = |x: &Tensor, weight: &Tensor, residual: &Tensor| {
        let numbers = LinearAdd {
            width: int(x.dim(1)?)?,
            out: int(hidden)?,
        };
        pipelines.rows(
            Kernel::LinearAdd,
            (hidden, ROWS),
            &[x, weight, residual],
            &numbers,
        )
    };
    let residual = add(&context, layer.output, x)?;
    let intermediate = layer.gate.dim(0)?;
    let activated = pipelines.rows(
        Kernel::NormSwiglu,
        // As many rows of the gate as of the other map.
        (intermediate, ROWS / 2),
        &[&residual, layer.post_norm, layer.gate, layer.up],
        &Normed {
            width: int(hidden)?,
            eps: layer.eps,
            out: int(intermediate)?,
        },
    )?;
    add(&activated, layer.down, &residual)
}

fn attend(qkv: &Tensor, layer: &Layer<'_>, scratch: &Scratch) -> Result<Tensor> {
    let pipelines = &scratch.pipelines;
    let heads = &layer.heads;
    let splits = (layer.position + 1 - layer.oldest).div_ceil(SPLIT);
    let context = pipelines.empty(heads.query * heads.dim)?;
    let (query_norm, key_norm) = layer.head_norms.unwrap_or((qkv, qkv));
    let parts = match (&scratch.parts, splits) {
        (_, ..=1) => &context,
        (Some(parts), _) => parts,
        (None, _) => return Err(Error::Msg("attention has no room for its parts".to_owned())),
    };
    pipelines.launch(
        Kernel::Attend,
        &[&context, parts, layer.keys, layer.values],
        &[qkv, query_norm, key_norm, layer.cos, layer.sin],
        &Attend {
            eps: layer.eps,
            is_normed: layer.head_norms.is_some().into(),
            heads: int(heads.query)?,
            kv_heads: int(heads.kv)?,
            capacity: int(layer.keys.dim(2)?)?,
            oldest: int(layer.oldest)?,
            position: int(layer.position)?,
        },
        (heads.query, splits),
        ATTEND_SIMDS * LANES,
    )?;
    if splits > 1 {
        let grid = (heads.query, 1);
        pipelines.launch(
            Kernel::Join,
            &[&context],
            &[parts],
            &int(splits)?,
            grid,
            heads.dim,
        )?;
    }
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
    let pipelines = Pipelines::of(x.device().as_metal_device()?, x.dtype(), None)?;
    let logits = empty(&pipelines.device, (1, out), DType::F32)?;
    let numbers = Normed {
        width: int(hidden)?,
        eps,
        out: int(out)?,
    };
    let inputs = [x, norm, head];
    let grid = (out.div_ceil(SIMDS * ROWS), 1);
    pipelines.launch(
        Kernel::NormHead,
        &[&logits],
        &inputs,
        &numbers,
        grid,
        SIMDS * LANES,
    )?;
    Ok(logits)
}

/// The numbers that kernels are given, as `decode.metal` has them.
#[repr(C)]
struct NormLinear {
    width: i32,
    eps: f32,
    out: [i32; 3],
    has_bias: [i32; 3],
}

#[repr(C)]
struct Normed {
    width: i32,
    eps: f32,
    out: i32,
}

#[repr(C)]
struct LinearAdd {
    width: i32,
    out: i32,
}

#[repr(C)]
struct Attend {
    eps: f32,
    is_normed: i32,
    heads: i32,
    kv_heads: i32,
    capacity: i32,
    oldest: i32,
    position: i32,
}

/// The kernels of `decode.metal`, in the order of [`NAMES`].
#[derive(Clone, Copy)]
enum Kernel {
    NormLinear,
    Attend,
    Join,
    LinearAdd,
    NormSwiglu,
    NormHead,
}

const NAMES: [&str; 6] = [
    "norm_linear",
    "attend",
    "join",
    "linear_add",
    "norm_swiglu",
    "norm_head",
];

fn source(dtype: DType, dim: usize) -> Result<String> {
    let number = number(dtype)?;
    let team = team(dim).ok_or_else(|| Error::Msg(format!("no kernels for heads of {dim}")))?;
    Ok(format!(
        "#define T {number}\n#define HEAD {dim}\n#define TEAM {team}\n{SOURCE}"
    ))
}

/// The kernels for one type of numbers and one dimension of heads, on a device.
struct Pipelines {
    device: MetalDevice,
    dtype: DType,
    compiled: Arc<[ComputePipeline]>,
}

impl Pipelines {
    /// Those for heads of a dimension, or for any.
    fn of(device: &MetalDevice, dtype: DType, dim: Option<usize>) -> Result<Self> {
        type Kind = (DeviceId, DType, usize);
        static COMPILED: Mutex<Vec<(Kind, Arc<[ComputePipeline]>)>> = Mutex::new(Vec::new());
        let mut all = COMPILED.lock();
        let mut those = all.iter().filter(|((id, of, heads), _)| {
            (*id, *of) == (device.id(), dtype) && dim.is_none_or(|dim| dim == *heads)
        });
        let compiled = if let Some((_, found)) = those.next() {
            found.clone()
        } else {
            let dim = dim.unwrap_or(64);
            let source = source(dtype, dim)?;
            let made = compile(device, &source, &NAMES)?;
            all.push(((device.id(), dtype, dim), made.clone()));
            made
        };
        Ok(Self {
            device: device.clone(),
            dtype,
            compiled,
        })
    }

    /// A result of shape (1, len).
    fn empty(&self, len: usize) -> Result<Tensor> {
        empty(&self.device, (1, len), self.dtype)
    }

    /// A kernel whose simdgroups compute `at_once` numbers of its result each.
    fn rows<N>(
        &self,
        kernel: Kernel,
        (len, at_once): (usize, usize),
        inputs: &[&Tensor],
        numbers: &N,
    ) -> Result<Tensor> {
        let result = self.empty(len)?;
        let grid = (len.div_ceil(SIMDS * at_once), 1);
        self.launch(kernel, &[&result], inputs, numbers, grid, SIMDS * LANES)?;
        Ok(result)
    }

    fn launch<N>(
        &self,
        kernel: Kernel,
        outputs: &[&Tensor],
        inputs: &[&Tensor],
        numbers: &N,
        grid: (usize, usize),
        threads: usize,
    ) -> Result<()> {
        let pipeline = &self.compiled[kernel as usize];
        launch(
            &self.device,
            pipeline,
            outputs,
            inputs,
            numbers,
            grid,
            threads,
        )
    }
}
