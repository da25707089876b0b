//! New keys or values on their way into a cache.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};
use half::slice::HalfFloatSliceExt;

/// Writes `new`, `f32` whose last two dimensions are (tokens, `kv_heads` · `head_dim`) and the others 1, to
/// `buffer`, (1, `kv_heads`, capacity, `head_dim`), from `position` on, in its dtype.
pub(in crate::backend) fn keep(buffer: &Tensor, new: &Tensor, position: usize) -> Result<()> {
    buffer.inplace_op2(new, &Keep { position })
}

struct Keep {
    position: usize,
}

impl InplaceOp2 for Keep {
    fn name(&self) -> &'static str {
        "keep"
    }

    fn cpu_fwd(
        &self,
        buffer: &mut CpuStorage,
        buffer_layout: &Layout,
        new: &CpuStorage,
        new_layout: &Layout,
    ) -> Result<()> {
        let (_, heads, capacity, size) = buffer_layout.shape().dims4()?;
        let new = super::super::numbers(new, new_layout)?;
        let tokens = new.len() / (heads * size).max(1);
        let offset = buffer_layout.start_offset();
        if !buffer_layout.is_contiguous()
            || new.len() != tokens * heads * size
            || self.position + tokens > capacity
        {
            bail!(
                "no room for {tokens} tokens at {} of {capacity}",
                self.position
            );
        }
        let places = (0..tokens * heads).map(|row| {
            let (token, head) = (row / heads, row % heads);
            offset + (head * capacity + self.position + token) * size
        });
        for (new, at) in new.chunks_exact(size).zip(places) {
            let range = at..at + size;
            match buffer {
                CpuStorage::F32(buffer) => buffer[range].copy_from_slice(new),
                CpuStorage::F16(buffer) => buffer[range].convert_from_f32_slice(new),
                CpuStorage::BF16(buffer) => buffer[range].convert_from_f32_slice(new),
                _ => bail!("a cache keeps f32, f16 or bf16"),
            }
        }
        Ok(())
    }
}
