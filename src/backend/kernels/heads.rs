//! Heads as they lie in memory: rows of numbers with any distances between them.
//!
//! On the CPU heads are views of rows of tokens, (batch, tokens, heads, dim), so that taking them apart and
//! putting them together moves nothing.

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, bail};

/// Whether a tensor is one of heads that these kernels take: `f32` on the CPU, whose rows are contiguous.
pub(in crate::backend) fn takes_heads(x: &Tensor) -> bool {
    !cfg!(feature = "accelerate")
        && x.device().is_cpu()
        && x.dtype() == DType::F32
        && matches!(x.stride(), [_, _, _, 1])
}

/// Numbers that lie as (batch, tokens, heads, dim), as (batch, heads, tokens, dim).
pub(super) fn heads_of(numbers: Vec<f32>, shape: [usize; 4]) -> Result<Tensor> {
    Tensor::from_vec(numbers, &shape[..], &Device::Cpu)?.transpose(1, 2)
}

/// The numbers of (batch, heads, tokens, dim).
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    pub numbers: &'a [f32],
    /// From one text, head and token to the next.
    pub strides: [usize; 3],
    pub dims: [usize; 4],
}

impl<'a> Heads<'a> {
    pub fn of(storage: &'a Storage, layout: &Layout) -> Result<Self> {
        let (Storage::Cpu(CpuStorage::F32(numbers)), [text, head, token, 1], &[b, h, n, d]) =
            (storage, layout.stride(), layout.dims())
        else {
            bail!("the kernel takes heads in f32 whose rows are contiguous");
        };
        let strides = [*text, *head, *token];
        let numbers = numbers.get(layout.start_offset()..).unwrap_or_default();
        let last = |dim: usize, stride: usize| dim.saturating_sub(1) * stride;
        let end = last(b, strides[0]) + last(h, strides[1]) + last(n, strides[2]) + d;
        if numbers.len() < end && b * h * n > 0 {
            bail!("heads that end after their memory");
        }
        Ok(Self {
            numbers,
            strides,
            dims: [b, h, n, d],
        })
    }

    /// The numbers from the first token of a head on.
    pub fn head(&self, text: usize, head: usize) -> &'a [f32] {
        let start = text * self.strides[0] + head * self.strides[1];
        self.numbers.get(start..).unwrap_or_default()
    }

    pub fn row(&self, text: usize, head: usize, token: usize) -> &'a [f32] {
        let start = token * self.strides[2];
        &self.head(text, head)[start..start + self.dims[3]]
    }
}
