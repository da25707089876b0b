//! One token through a decoder layer on an NVIDIA GPU, in five launches.
//!
//! `decode.cu` has the kernels, `decode.ptx` is what `compile.sh` makes of it for every GPU from compute
//! capability 8.0 on. The driver compiles that once for its own.

#![allow(unsafe_code, reason = "kernels are launched with pointers")]

use crate::backend::ops::decode::{Heads, Layer};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DevicePtr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId, WrapErr};
use candle_core::{CudaDevice, DType, Device, Error, Result, Storage, Tensor};
use parking_lot::Mutex;
use std::sync::Arc;

const PTX: &str = include_str!("decode.ptx");
const THREADS: usize = 256;
/// Warps of a block, each of which computes a number of the result at a time.
const WARPS: usize = THREADS / 32;
/// Numbers that a lane reads at once.
const WIDTH: usize = 8;
/// Keys that a block attends to, as in `decode.cu`.
const SPLIT: usize = 256;
/// Bytes of shared memory that a block has without asking for more.
const SHARED: usize = 48 << 10;

/// What blocks of one head leave for the last of them.
pub(in crate::backend) struct Scratch {
    parts: Tensor,
    /// How many have finished, by heads. A kernel leaves zeros.
    finished: Tensor,
}

impl Scratch {
    pub fn new(heads: &Heads, positions: usize, device: &Device) -> Result<Self> {
        let splits = positions.div_ceil(SPLIT);
        let len = heads.query * splits * (heads.dim + 2);
        Ok(Self {
            parts: Tensor::zeros(len, DType::F32, device)?,
            finished: Tensor::zeros(heads.query, DType::U32, device)?,
        })
    }
}

/// Whether the kernels take heads of this size.
pub(in crate::backend) fn takes_heads(heads: &Heads) -> bool {
    matches!(heads.dim, 64 | 128 | 256) && heads.query.is_multiple_of(heads.kv.max(1))
}

/// Whether the kernels read this: a contiguous tensor of 16-bit floats on such a GPU, in rows of whole
/// reads.
pub(in crate::backend) fn takes(x: &Tensor) -> bool {
    let (_, layout) = x.storage_and_layout();
    x.device().is_cuda()
        && matches!(x.dtype(), DType::BF16 | DType::F16)
        && layout.is_contiguous()
        && layout.start_offset().is_multiple_of(WIDTH)
        && x.dims()
            .last()
            .is_some_and(|width| width.is_multiple_of(WIDTH))
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
    let kernels = Kernels::of(x)?;

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
    let qkv = kernels.rows(Kernel::NormLinear, rows, hidden * 2, &arguments)?;
    let context = attend(&kernels, &qkv, layer, scratch)?;
    let add = |x: &Tensor, weight: &Tensor, residual: &Tensor, width: usize| {
        let arguments = [
            pointer(x)?,
            pointer(weight)?,
            pointer(residual)?,
            int(width)?,
            int(hidden)?,
        ];
        kernels.rows(Kernel::LinearAdd, hidden, 0, &arguments)
    };
    let residual = add(&context, layer.output, x, attended)?;
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
    let activated = kernels.rows(Kernel::NormSwiglu, intermediate, hidden * 2, &arguments)?;
    add(&activated, layer.down, &residual, intermediate)
}

fn attend(
    kernels: &Kernels<'_>,
    qkv: &Tensor,
    layer: &Layer<'_>,
    scratch: &Scratch,
) -> Result<Tensor> {
    let heads = &layer.heads;
    let splits = (layer.position + 1 - layer.oldest).div_ceil(SPLIT);
    // Query, key, scores, and the sums of the lanes that share a dimension.
    let shared = (2 * heads.dim + SPLIT + THREADS * WIDTH) * 4;
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
        pointer(&scratch.parts)?,
        pointer(&scratch.finished)?,
    ];
    let len = heads.query * heads.dim;
    kernels.launch(
        Kernel::Attend,
        (len, kernels.dtype),
        (heads.query, splits),
        shared,
        &arguments,
    )
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
    let grid = (out.div_ceil(WARPS), 1);
    Kernels::of(x)?.launch(
        Kernel::NormHead,
        (out, DType::F32),
        grid,
        hidden * 2,
        &arguments,
    )
}

/// The kernels of `decode.cu`, in the order of [`NAMES`].
#[derive(Clone, Copy)]
enum Kernel {
    NormLinear,
    Attend,
    LinearAdd,
    NormSwiglu,
    NormHead,
}

const NAMES: [&str; 5] = [
    "norm_linear",
    "attend",
    "linear_add",
    "norm_swiglu",
    "norm_head",
];

/// The kernels for one type of numbers.
struct Kernels<'a> {
    device: &'a Device,
    dtype: DType,
    stream: Arc<CudaStream>,
    functions: Arc<[CudaFunction]>,
}

/// The kernels that were looked up, for a device and a type.
struct Loaded {
    device: DeviceId,
    dtype: DType,
    functions: Arc<[CudaFunction]>,
}

fn functions(device: &CudaDevice, dtype: DType) -> Result<Arc<[CudaFunction]>> {
    static LOADED: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());
    let mut loaded = LOADED.lock();
    let mut of_this = loaded
        .iter()
        .filter(|of| of.device == device.id() && of.dtype == dtype);
    if let Some(found) = of_this.next() {
        return Ok(found.functions.clone());
    }
    let suffix = if dtype == DType::BF16 { "bf16" } else { "f16" };
    let load = |name: &str| {
        let function = device.get_or_load_custom_func(
            &format!("{name}_{suffix}"),
            "metal_candle_decode",
            PTX,
        )?;
        Ok(function.into_cuda_function())
    };
    let functions: Arc<[CudaFunction]> = NAMES.into_iter().map(load).collect::<Result<_>>()?;
    loaded.push(Loaded {
        device: device.id(),
        dtype,
        functions: functions.clone(),
    });
    Ok(functions)
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
enum Argument {
    Pointer(u64),
    Int(i32),
    Float(f32),
}

impl<'a> Kernels<'a> {
    fn of(x: &'a Tensor) -> Result<Self> {
        Ok(Self {
            device: x.device(),
            dtype: x.dtype(),
            stream: x.device().as_cuda_device()?.cuda_stream(),
            functions: functions(x.device().as_cuda_device()?, x.dtype())?,
        })
    }

    /// A kernel with a warp for each number of its result.
    fn rows(
        &self,
        kernel: Kernel,
        rows: usize,
        shared: usize,
        arguments: &[Argument],
    ) -> Result<Tensor> {
        let grid = (rows.div_ceil(WARPS), 1);
        self.launch(kernel, (rows, self.dtype), grid, shared, arguments)
    }

    /// Launches a kernel, whose first argument is its result, of shape (1, len).
    fn launch(
        &self,
        kernel: Kernel,
        (len, dtype): (usize, DType),
        grid: (usize, usize),
        shared: usize,
        arguments: &[Argument],
    ) -> Result<Tensor> {
        let function = &self.functions[kernel as usize];
        // SAFETY: the kernel writes all of it before anything else on the stream reads it.
        let result = unsafe { Tensor::empty((1, len), dtype, self.device)? };
        let place = pointer(&result)?;
        let mut builder = self.stream.launch_builder(function);
        for argument in std::iter::once(&place).chain(arguments) {
            match argument {
                Argument::Pointer(pointer) => builder.arg(pointer),
                Argument::Int(number) => builder.arg(number),
                Argument::Float(number) => builder.arg(number),
            };
        }
        let config = LaunchConfig {
            grid_dim: (count(grid.0)?, count(grid.1)?, 1),
            block_dim: (count(THREADS)?, 1, 1),
            shared_mem_bytes: count(shared)?,
        };
        // SAFETY: the arguments are those of the kernel, in its order. Pointers are those of tensors whose
        // shapes `backend::ops::decode` checked, and which live until this call has queued the kernel on
        // the stream on which their memory is freed as well. What it writes of them, a position of a cache,
        // is nobody else's: the cache is borrowed mutably for as long.
        unsafe { builder.launch(config) }.w()?;
        Ok(result)
    }
}

/// Where the numbers of a contiguous tensor begin.
fn pointer(x: &Tensor) -> Result<Argument> {
    fn base<N>(slice: &CudaSlice<N>) -> u64 {
        slice.device_ptr(slice.stream()).0
    }
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        return Err(unfit("a tensor that is not on an NVIDIA GPU"));
    };
    let (start, _) = layout
        .contiguous_offsets()
        .ok_or_else(|| unfit("a tensor that is not contiguous"))?;
    let base = match &storage.slice {
        CudaStorageSlice::BF16(slice) => base(slice),
        CudaStorageSlice::F16(slice) => base(slice),
        CudaStorageSlice::F32(slice) => base(slice),
        CudaStorageSlice::U32(slice) => base(slice),
        _ => return Err(unfit("a tensor of another dtype")),
    };
    Ok(Argument::Pointer(
        base + (start * x.dtype().size_in_bytes()) as u64,
    ))
}

fn optional(x: Option<&Tensor>) -> Result<Argument> {
    x.map_or(Ok(Argument::Pointer(0)), pointer)
}

fn int(number: usize) -> Result<Argument> {
    i32::try_from(number)
        .map(Argument::Int)
        .map_err(Error::wrap)
}

fn count(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(Error::wrap)
}

fn unfit(what: &str) -> Error {
    Error::Msg(format!("a kernel was given {what}"))
}
