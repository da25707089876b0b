//! Kernels by name, and what it takes to launch them.

use super::WIDTH;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, DevicePtr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId, WrapErr};
use candle_core::{DType, Device, Error, Result, Shape, Storage, Tensor};
use parking_lot::Mutex;
use std::collections::HashMap;

/// The compiled kernels of a file.
#[derive(Clone, Copy)]
pub(super) struct Module {
    pub name: &'static str,
    pub ptx: &'static str,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(super) enum Argument {
    Pointer(u64),
    Int(i32),
    Long(i64),
    Float(f32),
}

/// How many blocks a kernel has, of how many threads, and the bytes that those of a block share.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub blocks: (usize, usize),
    pub threads: (usize, usize),
    pub shared: usize,
}

impl Grid {
    /// Blocks in a row, of threads in a row.
    pub(super) fn of(blocks: usize, threads: usize) -> Self {
        Self {
            blocks: (blocks, 1),
            threads: (threads, 1),
            shared: 0,
        }
    }
}

/// Launches the kernel of this name for numbers of this type.
///
/// # Safety
///
/// The arguments are those of the kernel, in its order, and what it reads and writes lies within the tensors
/// that they point to. Those live until this call has queued the kernel on the stream on which their memory is
/// freed as well. What it writes nobody else reads or writes meanwhile.
pub(super) unsafe fn launch(
    (module, name): (Module, &'static str),
    (device, dtype): (&Device, DType),
    grid: Grid,
    arguments: &[Argument],
) -> Result<()> {
    if grid.blocks.0 == 0 {
        return Ok(());
    }
    let function = function(module, name, device, dtype)?;
    let stream = device.as_cuda_device()?.cuda_stream();
    let mut builder = stream.launch_builder(&function);
    for argument in arguments {
        match argument {
            Argument::Pointer(pointer) => builder.arg(pointer),
            Argument::Int(number) => builder.arg(number),
            Argument::Long(number) => builder.arg(number),
            Argument::Float(number) => builder.arg(number),
        };
    }
    let config = LaunchConfig {
        grid_dim: (count(grid.blocks.0)?, count(grid.blocks.1)?, 1),
        block_dim: (count(grid.threads.0)?, count(grid.threads.1)?, 1),
        shared_mem_bytes: count(grid.shared)?,
    };
    // SAFETY: the caller's.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

fn function(
    module: Module,
    name: &'static str,
    device: &Device,
    dtype: DType,
) -> Result<CudaFunction> {
    type Key = (DeviceId, &'static str, &'static str, DType);
    static LOADED: Mutex<Option<HashMap<Key, CudaFunction>>> = Mutex::new(None);
    let device = device.as_cuda_device()?;
    let key = (device.id(), module.name, name, dtype);
    let mut loaded = LOADED.lock();
    let loaded = loaded.get_or_insert_default();
    if let Some(found) = loaded.get(&key) {
        return Ok(found.clone());
    }
    let suffix = match dtype {
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        _ => "f32",
    };
    let function =
        device.get_or_load_custom_func(&format!("{name}_{suffix}"), module.name, module.ptx)?;
    let function = function.into_cuda_function();
    loaded.insert(key, function.clone());
    Ok(function)
}

/// A tensor whose numbers are whatever its memory held: for a kernel that writes all of them.
pub(super) fn fresh(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    // SAFETY: numbers of any bits are numbers; who asks for it has all of them written before anything else on
    // the stream reads them.
    unsafe { Tensor::empty(shape, dtype, device) }
}

/// Whether kernels read this: a contiguous tensor of 16-bit floats on an NVIDIA GPU, in rows of whole reads.
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

/// Whether kernels read all of these, numbers of one type.
pub(in crate::backend) fn takes_all<const N: usize>(tensors: [&Tensor; N]) -> bool {
    let first = tensors.first().map(|x| x.dtype());
    tensors
        .into_iter()
        .all(|x| takes(x) && Some(x.dtype()) == first)
}

/// Where the numbers of a contiguous tensor begin.
pub(super) fn pointer(x: &Tensor) -> Result<Argument> {
    if !x.is_contiguous() {
        return Err(unfit("a tensor that is not contiguous"));
    }
    address(x).map(Argument::Pointer)
}

/// The address of the first number.
pub(super) fn address(x: &Tensor) -> Result<u64> {
    fn base<N>(slice: &CudaSlice<N>) -> u64 {
        slice.device_ptr(slice.stream()).0
    }
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        return Err(unfit("a tensor that is not on an NVIDIA GPU"));
    };
    let base = match &storage.slice {
        CudaStorageSlice::BF16(slice) => base(slice),
        CudaStorageSlice::F16(slice) => base(slice),
        CudaStorageSlice::F32(slice) => base(slice),
        CudaStorageSlice::U32(slice) => base(slice),
        _ => return Err(unfit("a tensor of another dtype")),
    };
    Ok(base + (layout.start_offset() * x.dtype().size_in_bytes()) as u64)
}

pub(super) fn optional(x: Option<&Tensor>) -> Result<Argument> {
    x.map_or(Ok(Argument::Pointer(0)), pointer)
}

pub(super) fn int(number: usize) -> Result<Argument> {
    i32::try_from(number)
        .map(Argument::Int)
        .map_err(Error::wrap)
}

pub(super) fn long(number: usize) -> Result<Argument> {
    i64::try_from(number)
        .map(Argument::Long)
        .map_err(Error::wrap)
}

fn count(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(Error::wrap)
}

pub(super) fn unfit(what: &str) -> Error {
    Error::Msg(format!("a kernel was given {what}"))
}
