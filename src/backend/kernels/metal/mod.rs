//! Kernels of our own for Apple's GPUs, where candle has none that do a thing in one pass.
//!
//! They are written in Metal's language, and the system compiles them for its GPU when they are first used.

mod affine;
mod decode;

pub(in crate::backend) use affine::{affine_dequantize, affine_rows, takes_affine};
pub(in crate::backend) use decode::{Scratch, decode_head, decode_layer, takes, takes_heads};

use candle_core::metal_backend::MetalStorage;
use candle_core::op::BackpropOp;
use candle_core::{DType, Error, MetalDevice, Result, Shape, Storage, Tensor};
use candle_metal_kernels::metal::ComputePipeline;
use candle_metal_kernels::utils::get_block_dims;
use std::sync::Arc;

const LANES: usize = 32;

/// What a type of numbers is called in Metal's language.
fn number(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("float"),
        DType::F16 => Ok("half"),
        DType::BF16 => Ok("bfloat"),
        _ => Err(Error::Msg(format!("no kernels for {dtype:?}"))),
    }
}

/// Compiles a source, and gives those of its kernels that have these names.
fn compile(device: &MetalDevice, source: &str, names: &[&str]) -> Result<Arc<[ComputePipeline]>> {
    let metal = device.metal_device();
    let library = metal
        .new_library_with_source(source, None)
        .map_err(Error::wrap)?;
    let pipeline = |name: &&str| {
        let function = library.get_function(name, None)?;
        metal.new_compute_pipeline_state_with_function(&function)
    };
    let compiled: std::result::Result<_, _> = names.iter().map(pipeline).collect();
    compiled.map_err(Error::wrap)
}

/// Encodes a kernel, which takes what it writes, what it reads, and numbers, in this order: a grid of so
/// many threadgroups of so many threads.
fn launch<N>(
    device: &MetalDevice,
    pipeline: &ComputePipeline,
    outputs: &[&Tensor],
    inputs: &[&Tensor],
    numbers: &N,
    (width, height): (usize, usize),
    threads: usize,
) -> Result<()> {
    let guard = device.command_encoder()?;
    let encoder = guard.as_ref();
    encoder.set_compute_pipeline_state(pipeline);
    for (index, tensor) in outputs.iter().chain(inputs).enumerate() {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Metal(storage) = &*storage else {
            return Err(Error::Msg(
                "a kernel was given a tensor of another device".to_owned(),
            ));
        };
        let offset = layout.start_offset() * tensor.dtype().size_in_bytes();
        // Which of the two it is tells candle what has to wait for what.
        if index < outputs.len() {
            encoder.set_output_buffer(index, Some(storage.buffer()), offset);
        } else {
            encoder.set_input_buffer(index, Some(storage.buffer()), offset);
        }
    }
    encoder.set_bytes(outputs.len() + inputs.len(), numbers);
    // Metal's type has no name here, as candle gives none.
    let size = |width, height| {
        let mut size = get_block_dims(1, 1, 1);
        (size.width, size.height) = (width, height);
        size
    };
    encoder.dispatch_thread_groups(size(width, height), size(threads, 1));
    Ok(())
}

/// A tensor that a kernel will fill.
fn empty(device: &MetalDevice, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
    let shape = shape.into();
    let len = shape.elem_count();
    let buffer = device.new_buffer(len, dtype, "kernels")?;
    let storage = Storage::Metal(MetalStorage::new(buffer, device.clone(), len, dtype));
    Ok(Tensor::from_storage(
        storage,
        shape,
        BackpropOp::none(),
        false,
    ))
}

fn int(number: usize) -> Result<i32> {
    i32::try_from(number).map_err(Error::wrap)
}
