//! Fused kernels for `f32` on the CPU.
//!
//! Candle computes element-wise chains an operation at a time, each with a pass over memory, a new
//! tensor, and for large ones a pool of spinning threads beside the one of the matrix products. These
//! kernels make one pass, and share the threads of the matrix products. Other devices and dtypes
//! take the chain; `backend::ops` chooses.

mod adam;
mod add;
mod affine;
mod affine_few_rows;
mod attention;
mod blocks;
mod cross_entropy;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
pub(super) mod dot;
mod exp;
mod gemm;
mod heads;
mod int8;
mod large_pages;
mod linear;
#[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
pub(super) mod metal;
mod rms_norm;
mod rotate;
mod softmax;
pub(super) mod step;
mod swiglu;

pub(super) use adam::adam;
pub(super) use add::add_assign;
pub(super) use affine::affine_dequantize;
pub(super) use affine_few_rows::{AFFINE_ROWS, affine_few_rows};
pub(super) use attention::{Scores, attention, attention_backward};
pub(super) use blocks::{
    block_few_rows, block_product, decode_all, decode_rows, takes_block_product,
};
pub(super) use cross_entropy::softmax_cross_entropy;
pub(super) use gemm::{
    dense_backward, dense_backward_onto, dense_outer, dense_product, dense_product_onto,
    takes_product, takes_products,
};
pub(super) use heads::takes_heads;
pub(super) use int8::{dequantize, takes_codes};
pub(super) use large_pages::use_large_pages;
pub(super) use linear::{FEW_ROWS, linear_few_rows};
pub(super) use rms_norm::{rms_norm, rms_norm_backward};
pub(super) use rotate::rotate;
pub(super) use softmax::{masked_softmax, softmax_backward};
pub(super) use swiglu::{swiglu, swiglu_backward};

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Whether a tensor is one that these kernels take.
pub(super) fn takes(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && x.is_contiguous()
}

/// Whether a tensor is one that products with `f32` take as weights.
pub(super) fn takes_weights(weight: &Tensor) -> bool {
    weight.device().is_cpu()
        && matches!(weight.dtype(), DType::F32 | DType::F16 | DType::BF16)
        && weight.is_contiguous()
}

/// The oldest position that one sees, of which a window leaves so many.
pub(crate) fn oldest_seen(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// Numbers read or written below which one thread is faster than several.
const PARALLEL_ELEMENTS: usize = 1 << 16;

/// The numbers of a contiguous tensor.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => Err(not_contiguous()),
    }
}

/// The numbers of a contiguous tensor on the CPU.
fn numbers_of<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => numbers(storage, layout),
        _ => Err(not_contiguous()),
    }
}

/// The numbers of a contiguous tensor, to be changed in place.
fn numbers_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (layout.contiguous_offsets(), storage) {
        (Some((start, end)), CpuStorage::F32(numbers)) => Ok(&mut numbers[start..end]),
        _ => Err(not_contiguous()),
    }
}

fn not_contiguous() -> candle_core::Error {
    candle_core::Error::Msg("the kernel takes contiguous f32 tensors only".to_owned())
}

/// Makes a vector of rows: `write` gets the index and the place of each. `cost` is how many numbers
/// are read for each number written.
fn rows(
    count: usize,
    width: usize,
    cost: usize,
    write: impl Fn(usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let mut result = vec![0f32; count * width];
    visit_rows(&mut result, width, cost, write);
    result
}

/// Visits the rows of a matrix, on several threads where it is large.
fn for_rows(matrix: &mut [f32], width: usize, visit: impl Fn(usize, &mut [f32]) + Sync) {
    visit_rows(matrix, width, 1, visit);
}

fn visit_rows(
    matrix: &mut [f32],
    width: usize,
    cost: usize,
    visit: impl Fn(usize, &mut [f32]) + Sync,
) {
    if matrix.len() * cost < PARALLEL_ELEMENTS {
        for (index, row) in matrix.chunks_exact_mut(width).enumerate() {
            visit(index, row);
        }
    } else {
        let at_once = (PARALLEL_ELEMENTS / 4).div_ceil(width * cost);
        matrix
            .par_chunks_mut(at_once * width)
            .enumerate()
            .for_each(|(chunk, matrix)| {
                for (index, row) in matrix.chunks_exact_mut(width).enumerate() {
                    visit(chunk * at_once + index, row);
                }
            });
    }
}

/// What is made of each row of a matrix, by loops that the compiler makes vectors of.
trait EachRow: Sync {
    /// Always to be inlined, so that it is compiled for the processor.
    fn row(&self, index: usize, row: &mut [f32]);
}

/// Visits the rows of a matrix as [`for_rows`] does, with the best instructions that the processor has.
fn each_row(matrix: &mut [f32], width: usize, work: &impl EachRow) {
    let visit = |start: usize, rows: &mut [f32]| {
        let chunk = Chunk {
            start,
            rows,
            width,
            work,
        };
        gemm::Instructions::best().enter(chunk);
    };
    if matrix.len() < PARALLEL_ELEMENTS {
        visit(0, matrix);
    } else {
        let at_once = (PARALLEL_ELEMENTS / 4).div_ceil(width);
        let chunks = matrix.par_chunks_mut(at_once * width).enumerate();
        chunks.for_each(|(chunk, rows)| visit(chunk * at_once, rows));
    }
}

/// A vector of rows that are made of zeros as [`each_row`] does it.
#[allow(
    unsafe_code,
    reason = "threads should not wait for one of them that writes zeros"
)]
fn made_of_rows(count: usize, width: usize, work: &impl EachRow) -> Vec<f32> {
    let len = count * width;
    let mut result = Vec::with_capacity(len);
    let make = |start: usize, room: &mut [MaybeUninit<f32>]| {
        room.fill(MaybeUninit::new(0.0));
        // SAFETY: all of it was written.
        let rows = unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), room.len()) };
        gemm::Instructions::best().enter(Chunk {
            start,
            rows,
            width,
            work,
        });
    };
    let room = &mut result.spare_capacity_mut()[..len];
    if len < PARALLEL_ELEMENTS {
        make(0, room);
    } else {
        let at_once = (PARALLEL_ELEMENTS / 4).div_ceil(width);
        let chunks = room.par_chunks_mut(at_once * width).enumerate();
        chunks.for_each(|(chunk, room)| make(chunk * at_once, room));
    }
    // SAFETY: each part was written.
    unsafe { result.set_len(len) };
    result
}

/// Rows one after the other, from the index of the first.
struct Chunk<'a, W> {
    start: usize,
    rows: &'a mut [f32],
    width: usize,
    work: &'a W,
}

#[allow(unsafe_code, reason = "the trait's function is unsafe to call")]
impl<W: EachRow> gemm::simd::Work for Chunk<'_, W> {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as the trait says")]
    unsafe fn run<S: gemm::simd::Simd>(self) {
        for (index, row) in self.rows.chunks_exact_mut(self.width).enumerate() {
            self.work.row(self.start + index, row);
        }
    }
}

#[cfg(test)]
fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims());
    let read = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (a, b) in read(found).iter().zip(read(expected)) {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{a} {b}");
    }
}
