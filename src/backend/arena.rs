//! Where the weights of a model lie on the CPU: one after the other, in large pages.
//!
//! Of a processor that reads all weights for each token, the address translation for pages of 4 KiB takes
//! half of the time or more, above all in virtual machines.

use super::kernels;
use candle_core::{DType, Device, Result, Tensor};
use half::vec::HalfBitsVecExt;

/// The bytes of one allocation: some of the large pages of 2 MiB, and more than an allocator keeps from
/// another use, so that none of it is written yet.
const CHUNK: usize = 64 << 20;

/// What is not larger stays where it is, and of a model that is not larger all does.
const SMALL_TENSOR: usize = 64 << 10;
const SMALL_MODEL: usize = 4 << 20;

/// The boundaries at which tensors begin: lines of a processor's cache.
const ALIGNMENT: usize = 64;

/// Memory for tensors that live as long as each other.
pub(crate) struct Arena {
    /// The bytes that are still to come.
    left: usize,
    chunks: Vec<Chunk>,
}

/// Numbers of one dtype, of which the first `used` belong to somebody.
struct Chunk {
    memory: Tensor,
    used: usize,
}

impl Arena {
    /// Memory for `bytes` in all; what comes beyond stays where it is.
    pub fn new(bytes: usize) -> Self {
        Self {
            left: if bytes <= SMALL_MODEL { 0 } else { bytes },
            chunks: Vec::new(),
        }
    }

    /// The tensor, moved here where it is worth it.
    ///
    /// # Errors
    ///
    /// None but those of tensors.
    pub fn place(&mut self, tensor: Tensor) -> Result<Tensor> {
        let (count, size) = (tensor.elem_count(), tensor.dtype().size_in_bytes());
        if !tensor.device().is_cpu() || count * size <= SMALL_TENSOR {
            return Ok(tensor);
        }
        let fits = |chunk: &Chunk| {
            chunk.memory.dtype() == tensor.dtype()
                && chunk.memory.elem_count() - chunk.used >= count
        };
        let found = self.chunks.iter().position(fits);
        if found.is_none() {
            let bytes = CHUNK.min(self.left).max(count * size);
            if bytes > self.left {
                return Ok(tensor);
            }
            let Some(memory) = unwritten(bytes / size, tensor.dtype())? else {
                return Ok(tensor);
            };
            self.left -= bytes;
            self.chunks.push(Chunk { memory, used: 0 });
        }
        let index = found.unwrap_or(self.chunks.len() - 1);
        let chunk = &mut self.chunks[index];
        (chunk.memory).slice_set(&tensor.flatten_all()?.contiguous()?, 0, chunk.used)?;
        let placed = chunk.memory.narrow(0, chunk.used, count)?;
        let end = (chunk.used + count).next_multiple_of(ALIGNMENT / size);
        chunk.used = end.min(chunk.memory.elem_count());
        placed.reshape(tensor.shape())
    }
}

/// Zeros that nobody has written, in large pages once somebody does; none of dtypes that weights do not have.
fn unwritten(count: usize, dtype: DType) -> Result<Option<Tensor>> {
    let tensor = match dtype {
        DType::U8 => Tensor::from_vec(vec![0u8; count], count, &Device::Cpu)?,
        DType::F32 => Tensor::from_vec(vec![0f32; count], count, &Device::Cpu)?,
        // As whole numbers, of which zeros come from the system and are not written.
        DType::F16 => {
            let zeros = vec![0u16; count].reinterpret_into::<half::f16>();
            Tensor::from_vec(zeros, count, &Device::Cpu)?
        }
        DType::BF16 => {
            let zeros = vec![0u16; count].reinterpret_into::<half::bf16>();
            Tensor::from_vec(zeros, count, &Device::Cpu)?
        }
        _ => return Ok(None),
    };
    kernels::use_large_pages(&tensor);
    Ok(Some(tensor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(tensor: &Tensor) -> Vec<f32> {
        let numbers = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        numbers.to_vec1().unwrap()
    }

    #[test]
    fn tensors_lie_one_after_the_other_and_are_what_they_were() {
        let mut arena = Arena::new(32 << 20);
        let mut before = Vec::new();
        let mut placed = Vec::new();
        for (index, dtype) in [DType::F16, DType::BF16, DType::F32, DType::U8]
            .into_iter()
            .cycle()
            .take(12)
            .enumerate()
        {
            #[allow(clippy::cast_precision_loss, reason = "a small number")]
            let first = index as f32;
            let tensor = Tensor::arange(first, first + 100_001.0, &Device::Cpu).unwrap();
            let tensor = (tensor / 400.0).unwrap().to_dtype(dtype).unwrap();
            let tensor = tensor.reshape((1, 100_001)).unwrap();
            before.push(bytes_of(&tensor));
            placed.push(arena.place(tensor).unwrap());
        }
        for (tensor, before) in placed.iter().zip(&before) {
            assert_eq!(tensor.dims(), [1, 100_001]);
            assert!(tensor.is_contiguous());
            assert_eq!(&bytes_of(tensor), before);
        }
        // The first chunk has taken all that was told of.
        let starts = |index: usize| placed[index].layout().start_offset();
        assert_eq!((starts(0), starts(4), starts(8)), (0, 100_032, 200_064));
        assert_eq!((starts(1), starts(2), starts(3)), (0, 0, 0));
    }

    #[test]
    fn what_is_small_or_not_told_of_stays_where_it_is() {
        let large = Tensor::zeros(1 << 20, DType::F32, &Device::Cpu).unwrap();
        let small = Tensor::zeros(1 << 10, DType::F32, &Device::Cpu).unwrap();
        let stays = |arena: &mut Arena, tensor: &Tensor| {
            let placed = arena.place(tensor.clone()).unwrap();
            placed.storage_and_layout().1.start_offset() == 0 && placed.id() == tensor.id()
        };
        assert!(stays(&mut Arena::new(1 << 20), &large));
        let mut arena = Arena::new(5 << 20);
        assert!(stays(&mut arena, &small));
        assert!(!stays(&mut arena, &large));
        assert!(stays(&mut arena, &large));
    }
}
