//! The device's own checks, each with the mistake that it is for.

use super::{exclusive, metal, to_vec};
use candle_core::metal_backend::MetalStorage;
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, MetalDevice, Result, Storage, Tensor};
use candle_metal_kernels::metal::{Buffer, ComputeCommandEncoder};
use candle_metal_kernels::utils::get_block_dims;
use objc2::software::{Order, counters, settings};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const THREADS: usize = 64;

const KERNELS: &str = "
#include <metal_stdlib>
using namespace metal;

kernel void increment(device float *x [[buffer(0)]], device float *y [[buffer(1)]],
                      uint i [[thread_position_in_grid]]) {
    y[i] = x[i] + 1;
}

kernel void overrun(device float *x [[buffer(0)]], device float *y [[buffer(1)]],
                    uint i [[thread_position_in_grid]]) {
    y[i + 1] = x[i];
}

kernel void early(device float *x [[buffer(0)]], device float *y [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {
    y[i] = x[i + 1];
}

kernel void hoard(device float *x [[buffer(0)]], device float *y [[buffer(1)]],
                  uint i [[thread_position_in_threadgroup]]) {
    threadgroup float memory[9000];
    memory[i] = x[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    y[i] = memory[63 - i];
}

kernel void part_ways(device float *x [[buffer(0)]], device float *y [[buffer(1)]],
                      uint i [[thread_position_in_grid]]) {
    y[i] = x[i] < 32 ? simd_sum(x[i]) : simd_max(x[i]);
}

kernel void halves(device float *x [[buffer(0)]], device float *y [[buffer(1)]],
                   uint i [[thread_position_in_grid]]) {
    y[i] = i % 2 == 0 ? simd_sum(x[i]) : simd_max(x[i]);
}
";

/// The buffer of a tensor that the device made.
fn storage(tensor: &Tensor) -> Arc<Buffer> {
    let (storage, _) = tensor.storage_and_layout();
    let Storage::Metal(storage) = &*storage else {
        panic!("the tensor is not on the device");
    };
    Arc::new(storage.buffer().clone())
}

/// Runs a kernel of 64 threads; `bind` sets its arguments.
fn dispatch(
    device: &MetalDevice,
    kernel: &str,
    bind: impl FnOnce(&ComputeCommandEncoder),
) -> Result<()> {
    let library = device.metal_device().new_library_with_source(KERNELS, None);
    let function = library.unwrap().get_function(kernel, None).unwrap();
    let pipeline = device
        .metal_device()
        .new_compute_pipeline_state_with_function(&function)
        .unwrap();
    let encoder = device.command_encoder()?;
    encoder.set_compute_pipeline_state(&pipeline);
    bind(encoder.as_ref());
    let size = get_block_dims(THREADS, 1, 1);
    encoder.as_ref().dispatch_threads(size, size);
    Ok(())
}

/// `x` from 0 to 63 and `y` of 64 zeros.
fn operands(device: &Device) -> (Tensor, Tensor) {
    let x = Tensor::arange(0f32, 64f32, device).unwrap();
    (x.clone(), x.zeros_like().unwrap())
}

/// Runs a kernel from `x` to `y` as it should be done.
fn run(kernel: &str) -> Result<Vec<f32>> {
    let device = metal();
    let (x, y) = operands(&device);
    dispatch(device.as_metal_device()?, kernel, |encoder| {
        encoder.set_input_buffer(0, Some(&storage(&x)), 0);
        encoder.set_output_buffer(1, Some(&storage(&y)), 0);
    })?;
    device.synchronize()?;
    Ok(to_vec(&y))
}

fn message(result: Result<Vec<f32>>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_kernel_runs() {
    let _device = exclusive();
    let expected: Vec<f32> = (1..=64_u8).map(f32::from).collect();
    assert_eq!(run("increment").unwrap(), expected);
}

#[test]
fn a_write_beside_a_buffer_is_an_error_that_names_the_kernel() {
    let _device = exclusive();
    let message = message(run("overrun"));
    for word in ["overrun", "outside", "256 bytes", "index 1"] {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
}

#[test]
fn a_read_beside_a_buffer_is_no_number() {
    let _device = exclusive();
    let numbers = run("early").unwrap();
    assert!(numbers[63].is_nan() && numbers[..63].iter().all(|x| x.is_finite()));
}

#[test]
fn too_much_threadgroup_memory_is_an_error() {
    let _device = exclusive();
    let message = message(run("hoard"));
    assert!(
        message.contains("hoard") && message.contains("threadgroup memory"),
        "{message}"
    );
}

#[test]
fn threads_of_a_simdgroup_that_part_ways_are_counted() {
    let _device = exclusive();
    let before = counters();
    run("part_ways").unwrap();
    assert_eq!((counters() - before).divergent_operations, 0);
    run("halves").unwrap();
    assert!((counters() - before).divergent_operations > 0);
}

/// Binds something that Metal does not take, and gives the error.
fn misuse(bind: impl FnOnce(&ComputeCommandEncoder, &Buffer)) -> String {
    let device = metal();
    let (x, y) = operands(&device);
    dispatch(device.as_metal_device().unwrap(), "increment", |encoder| {
        encoder.set_input_buffer(0, Some(&storage(&x)), 0);
        encoder.set_output_buffer(1, Some(&storage(&y)), 0);
        bind(encoder, &storage(&x));
    })
    .unwrap();
    device.synchronize().unwrap_err().to_string()
}

#[test]
fn arguments_have_limits() {
    let _device = exclusive();
    let bytes = [0_u8; 5000];
    let long = misuse(|encoder, _| encoder.set_bytes_directly(2, 5000, bytes.as_ptr().cast()));
    assert!(long.contains("setBytes of 5000 bytes"), "{long}");
    let beyond = misuse(|encoder, x| encoder.set_input_buffer(2, Some(x), 257));
    assert!(beyond.contains("offset 257"), "{beyond}");
    let index = misuse(|encoder, x| encoder.set_input_buffer(31, Some(x), 0));
    assert!(index.contains("index 31"), "{index}");
    let missing = misuse(|encoder, _| encoder.set_output_buffer(1, None, 0));
    assert!(missing.contains("not bound"), "{missing}");
}

/// The second kernel reads what the first one writes, which was bound as if it were read too. Candle then
/// sets no barrier between them.
#[test]
fn a_missing_barrier_shows() {
    let _device = exclusive();
    let second = || {
        let device = metal();
        let (x, y) = operands(&device);
        let z = y.zeros_like().unwrap();
        device.synchronize().unwrap();
        let metal = device.as_metal_device().unwrap();
        for (from, to) in [(&x, &y), (&y, &z)] {
            dispatch(metal, "increment", |encoder| {
                encoder.set_input_buffer(0, Some(&storage(from)), 0);
                encoder.set_input_buffer(1, Some(&storage(to)), 0);
            })
            .unwrap();
        }
        device.synchronize().unwrap();
        to_vec(&z)[5]
    };
    assert_eq!(second(), 1.0, "the reading kernel comes first");
    settings().order = Order::Encoded;
    assert_eq!(second(), 7.0);
}

#[test]
fn new_buffers_hold_no_numbers() {
    let _device = exclusive();
    let fresh = || {
        let device = metal();
        let metal = device.as_metal_device().unwrap();
        let buffer = metal.new_buffer_builder().with_size(64).build().unwrap();
        let storage = MetalStorage::new(buffer, metal.clone(), 16, DType::F32);
        let storage = Storage::Metal(storage);
        to_vec(&Tensor::from_storage(
            storage,
            16,
            BackpropOp::none(),
            false,
        ))
    };
    assert!(fresh().iter().all(|x| x.is_nan()));
    settings().poison = false;
    assert_eq!(fresh(), vec![0.0; 16]);
}

#[test]
fn private_buffers_are_not_for_the_host() {
    let _device = exclusive();
    let device = metal();
    let metal = device.as_metal_device().unwrap();
    let buffer = metal.new_private_buffer(16, DType::F32, "").unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| buffer.contents())).is_err());
}
