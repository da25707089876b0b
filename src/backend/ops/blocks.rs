//! A linear map with frozen weights in the blocks of a GGUF file.

mod block_type;

pub use block_type::BlockType;

use super::held::Held;
use super::linear::{add_into, linear, linear_backward};
use crate::backend::kernels;
use candle_core::quantized::{QStorage, QTensor};
use candle_core::{DType, Device, Result, Tensor, bail};
use std::borrow::Cow;
use std::sync::Arc;

/// Rows of `x` up to which the blocks are read once for every four of them, and no number of the matrix
/// is written anywhere.
const FEW_ROWS: usize = 12;

/// Rows of `x` up to which candle's kernels on Metal take the blocks.
const FEW_ROWS_ON_METAL: usize = 4;

/// Numbers of the matrix that exist at once while many rows are multiplied: little more than a processor's
/// cache, and enough to keep a GPU busy.
const TILE_ON_CPU: usize = 1 << 20;
const TILE_ON_GPU: usize = 1 << 24;

/// Rows of the matrix that a kernel of candle's on Metal may read at once.
const ROWS_AT_ONCE: usize = 8;

/// A weight matrix as a GGUF file has it, 2.6 to 8.5 bits a number, which is computed with as it is.
///
/// Along each row a block of numbers has a few bits for each, and scales that groups of them share;
/// [`BlockType`] has the layouts. A clone shares the bytes.
///
/// Weights are frozen: [`backward`](Self::backward) gives the gradient of the input only, which is what
/// training an adapter beside them needs (QLoRA, Dettmers et al., 2023,
/// <https://arxiv.org/abs/2305.14314>).
///
/// Activations are not quantised but by [`infer`](Self::infer). On the CPU results are those of the
/// dequantised matrix, up to the rounding of `f32`. Elsewhere the blocks are on the device, and candle's kernels decode them there; of
/// many rows the product is in the dtype of the activations. On Metal up to four rows are multiplied
/// straight from the blocks, in `f32`, of all types but `Q2_K`; for more of them, and for
/// [`rows`](Self::rows) and [`dequantize`](Self::dequantize), the kernels decode some types by way of
/// `f16`: to 11 bits a number, and to fewer in `Q4_K` and `Q5_K` where a block's scale is below 0.001. This
/// was run on a Metal device made of software; on CUDA it was not run.
///
/// # Example
///
/// ```
/// use metal_candle::backend::ops::blocks::{BlockType, BlockWeight};
/// use metal_candle::backend::{DType, Device, Tensor};
///
/// let dense = Tensor::arange(0f32, 128f32, &Device::Cpu)?.reshape((2, 64))?;
/// let weight = BlockWeight::quantize(&dense, BlockType::Q8_0)?;
/// assert_eq!((weight.dims(), weight.size_in_bytes()), ((2, 64), 4 * 34));
///
/// // The bytes are those that a file has.
/// let bytes = weight.bytes()?.into_owned();
/// let weight = BlockWeight::from_bytes(bytes, BlockType::Q8_0, 2, 64, &Device::Cpu)?;
/// let x = Tensor::ones((1, 64), DType::F32, &Device::Cpu)?;
/// assert_eq!(weight.forward(&x)?.dims(), &[1, 2]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone)]
pub struct BlockWeight {
    blocks: Blocks,
    kind: BlockType,
    output: usize,
    input: usize,
}

/// Where the blocks are.
#[derive(Clone)]
enum Blocks {
    /// In bytes, (n) of dtype `u8`.
    Host(Tensor),
    Device {
        /// With rows of zeros below, so that a kernel reads none beyond the last.
        blocks: Arc<QTensor>,
        /// The number of each row: candle dequantises on the device what it looks up.
        ids: Tensor,
    },
}

impl BlockWeight {
    /// The matrix of shape (`output`, `input`) whose blocks are `bytes`, row after row, on `device`.
    ///
    /// Every pattern of bytes is some matrix; one of a damaged file may have numbers that are not finite.
    ///
    /// # Errors
    ///
    /// When the matrix is empty, when `input` is no multiple of the numbers in a block, when there are
    /// more or fewer bytes than the matrix has, and when the device fails.
    pub fn from_bytes(
        bytes: impl Into<Arc<[u8]>>,
        kind: BlockType,
        output: usize,
        input: usize,
        device: &Device,
    ) -> Result<Self> {
        let bytes = bytes.into();
        check_width(kind, input)?;
        if output == 0 {
            bail!("weights of no outputs; expected at least one");
        }
        let expected = kind.row_bytes(input).checked_mul(output);
        if expected != Some(bytes.len()) {
            let (found, name) = (bytes.len(), kind.name());
            let expected =
                expected.map_or_else(|| "more than there can be".into(), |x| x.to_string());
            bail!("{found} bytes of {name} for {output} x {input} weights; expected {expected}");
        }
        let blocks = match device {
            Device::Cpu => Blocks::Host(Tensor::from_slice(&bytes, bytes.len(), device)?),
            device => on_device(&bytes, kind, output, input, device)?,
        };
        Ok(Self {
            blocks,
            kind,
            output,
            input,
        })
    }

    /// Quantises `weight`, of shape (out, in) and dtype `f32`, `bf16` or `f16`, to blocks of `kind`.
    ///
    /// The blocks are those that llama.cpp makes without an importance matrix. It computes on the CPU, and
    /// leaves the result on the device of `weight`.
    ///
    /// # Errors
    ///
    /// When the matrix is empty, when in is no multiple of the numbers in a block, and when a number is
    /// not finite or so large that a scale may not be.
    pub fn quantize(weight: &Tensor, kind: BlockType) -> Result<Self> {
        /// A scale is an `f16`, and may be as large as the largest number.
        const LARGEST: f32 = 32_768.0;
        let (output, input) = weight.dims2()?;
        check_width(kind, input)?;
        let numbers = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let numbers = numbers.contiguous()?;
        for row in numbers.to_vec2::<f32>()? {
            if !row.iter().fold(true, |all, x| all & (x.abs() <= LARGEST)) {
                bail!("a weight is not finite, or not within {LARGEST:e} of zero");
            }
        }
        let blocks = QTensor::quantize(&numbers, kind.in_candle())?;
        let bytes = blocks.data()?;
        Self::from_bytes(&*bytes, kind, output, input, weight.device())
    }

    /// The matrix, with its bytes moved by `place` where they are on the host.
    pub(super) fn moved(self, place: &mut dyn FnMut(Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self {
            blocks: match self.blocks {
                Blocks::Host(blocks) => Blocks::Host(place(blocks)?),
                device @ Blocks::Device { .. } => device,
            },
            ..self
        })
    }

    /// The blocks where they are on the host, (n) of dtype `u8`.
    pub(super) fn on_host(&self) -> Option<&Tensor> {
        match &self.blocks {
            Blocks::Host(blocks) => Some(blocks),
            Blocks::Device { .. } => None,
        }
    }

    /// The numbers of features: (out, in).
    #[must_use]
    pub fn dims(&self) -> (usize, usize) {
        (self.output, self.input)
    }

    /// How the numbers are stored.
    #[must_use]
    pub fn kind(&self) -> BlockType {
        self.kind
    }

    /// The bytes of all blocks.
    #[must_use]
    pub fn size_in_bytes(&self) -> usize {
        self.kind.row_bytes(self.input) * self.output
    }

    /// Where the blocks are.
    #[must_use]
    pub fn device(&self) -> Device {
        match &self.blocks {
            Blocks::Host(_) => Device::Cpu,
            Blocks::Device { ids, .. } => ids.device().clone(),
        }
    }

    /// The blocks, as [`from_bytes`](Self::from_bytes) takes them and a file has them.
    ///
    /// # Errors
    ///
    /// When they cannot be read back from the device.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        match &self.blocks {
            Blocks::Host(blocks) => Ok(Cow::Owned(blocks.to_vec1()?)),
            Blocks::Device { blocks, .. } => {
                let mut bytes = blocks.data()?.into_owned();
                bytes.truncate(self.size_in_bytes());
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// `x Wᵀ`, of shape (n, out), for `x` of shape (n, in) in `f32`, `bf16` or `f16`, in the dtype of `x`.
    ///
    /// A few rows read the blocks and nothing else. Of many, a part of the matrix after the other exists
    /// as numbers.
    ///
    /// # Errors
    ///
    /// When shapes or devices do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (count, input) = x.dims2()?;
        if input != self.input {
            bail!("linear of {input} inputs with weights for {}", self.input);
        }
        match &self.blocks {
            Blocks::Host(blocks) if (1..=FEW_ROWS).contains(&count) && x.device().is_cpu() => {
                let wide = x.to_dtype(DType::F32)?.contiguous()?;
                let blocks = Held::of(blocks);
                kernels::block_few_rows(&wide, self.kind, blocks.bytes()?)?.to_dtype(x.dtype())
            }
            // The kernel of candle's for a row takes `f32` from the start of a buffer. The one of `Q2_K` gets
            // twice the groups that it needs, and writes as many numbers beyond the row.
            Blocks::Device { blocks, .. }
                if (1..=FEW_ROWS_ON_METAL).contains(&count)
                    && x.device().is_metal()
                    && self.kind != BlockType::Q2K =>
            {
                let rows = x.to_dtype(DType::F32)?.unsqueeze(1)?.force_contiguous()?;
                let y = rows.apply_op1_no_bwd(&**blocks)?.squeeze(1)?;
                y.narrow(1, 0, self.output)?
                    .contiguous()?
                    .to_dtype(x.dtype())
            }
            Blocks::Host(_) => {
                let wide = x.to_dtype(DType::F32)?;
                let product = |(first, len)| linear(&wide, &self.part(first, len)?, None);
                let parts = self.parts().map(product).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&parts, 1)?.to_dtype(x.dtype())
            }
            Blocks::Device { .. } => {
                let product = |(first, len)| {
                    let part = self.part(first, len)?.to_dtype(x.dtype())?;
                    x.matmul(&part.t()?)
                };
                let parts = self.parts().map(product).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&parts, 1)
            }
        }
    }

    /// [`forward`](Self::forward) as inference has it, faster where the processor multiplies small whole numbers.
    ///
    /// On such a CPU activations are rounded to eight bits, with a scale for each 32 of a row, as llama.cpp does
    /// it: each is off by at most 1/254 of the largest of its 32. That is one with AVX-512 and VNNI, and for
    /// fewer than eight rows one with AVX2. Elsewhere it is `forward`. Steps have no gradient, so training does
    /// without them.
    ///
    /// # Errors
    ///
    /// When shapes or devices do not fit.
    pub fn infer(&self, x: &Tensor) -> Result<Tensor> {
        match &self.blocks {
            Blocks::Host(blocks)
                if x.device().is_cpu()
                    && x.dims2()?.1 == self.input
                    && kernels::takes_block_product(x.dim(0)?) =>
            {
                let wide = x.to_dtype(DType::F32)?.contiguous()?;
                let blocks = Held::of(blocks);
                kernels::block_product(&wide, self.kind, blocks.bytes()?)?.to_dtype(x.dtype())
            }
            _ => self.forward(x),
        }
    }

    /// The gradient of [`forward`](Self::forward) with respect to `x`: `dy W`, of shape (n, in), for `dy` of
    /// shape (n, out), in its dtype.
    ///
    /// # Errors
    ///
    /// When shapes or devices do not fit.
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        let (count, output) = dy.dims2()?;
        if output != self.output {
            bail!(
                "gradients of {output} outputs with weights for {}",
                self.output
            );
        }
        // Candle's products of 16 bits on the CPU are slow, and round on the way.
        let computed = match self.blocks {
            Blocks::Host(_) => DType::F32,
            Blocks::Device { .. } => dy.dtype(),
        };
        let wide = dy.to_dtype(computed)?;
        let mut dx = None;
        for (first, len) in self.parts() {
            let part = self.part(first, len)?.to_dtype(computed)?;
            let part = linear_backward(&wide.narrow(1, first, len)?.contiguous()?, &part)?;
            dx = Some(match dx {
                None => part,
                Some(dx) => add_into(
                    Tensor::to_dtype(&dx, DType::F32)?,
                    &part.to_dtype(DType::F32)?,
                )?,
            });
        }
        match dx {
            Some(dx) => dx.to_dtype(dy.dtype()),
            None => Tensor::zeros((count, self.input), dy.dtype(), dy.device()),
        }
    }

    /// The matrix, of shape (out, in), in `dtype`: decoded to `f32`, rounded once.
    ///
    /// It stays on the device.
    ///
    /// # Errors
    ///
    /// When the device fails, for example for lack of memory.
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        self.part(0, self.output)?.to_dtype(dtype)
    }

    /// The rows that `ids`, of shape (n) and dtype `u32`, name: (n, in) in `f32`. It is how a matrix of
    /// embeddings is read.
    ///
    /// # Errors
    ///
    /// When `ids` has another shape or dtype or is on another device. When one of them is none of the
    /// matrix, on the CPU; elsewhere it counts as the last.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        let count = ids.dims1()?;
        if ids.dtype() != DType::U32 {
            bail!("rows of ids of {:?}; expected U32", ids.dtype());
        }
        match &self.blocks {
            Blocks::Host(blocks) => {
                let ids = ids.to_vec1::<u32>()?;
                if let Some(id) = ids.iter().find(|id| **id as usize >= self.output) {
                    bail!("row {id} of a matrix of {} rows", self.output);
                }
                let blocks = Held::of(blocks);
                let numbers = kernels::decode_rows(self.kind, blocks.bytes()?, self.input, &ids);
                Tensor::from_vec(numbers, (count, self.input), &Device::Cpu)
            }
            Blocks::Device { blocks, ids: all } => {
                let last = all.narrow(0, self.output - 1, 1)?.force_contiguous()?;
                blocks.embedding(&ids.broadcast_minimum(&last)?)
            }
        }
    }

    /// The parts of the matrix that exist one at a time, by their first row and number of rows.
    fn parts(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let numbers = match self.blocks {
            Blocks::Host(_) => TILE_ON_CPU,
            Blocks::Device { .. } => TILE_ON_GPU,
        };
        let (output, len) = (self.output, (numbers / self.input).max(1));
        let firsts = (0..output).step_by(len);
        firsts.map(move |first| (first, len.min(output - first)))
    }

    /// The numbers of `len` rows from the `first`, in `f32`.
    fn part(&self, first: usize, len: usize) -> Result<Tensor> {
        match &self.blocks {
            Blocks::Host(blocks) => {
                let row = self.kind.row_bytes(self.input);
                let blocks = Held::of(blocks);
                let bytes = &blocks.bytes()?[first * row..(first + len) * row];
                let numbers = kernels::decode_all(self.kind, bytes, self.input);
                Tensor::from_vec(numbers, (len, self.input), &Device::Cpu)
            }
            Blocks::Device { blocks, ids } => blocks.embedding(&ids.narrow(0, first, len)?),
        }
    }
}

impl std::fmt::Debug for BlockWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockWeight")
            .field("kind", &self.kind)
            .field("dims", &self.dims())
            .field("device", &self.device().location())
            .finish_non_exhaustive()
    }
}

fn check_width(kind: BlockType, input: usize) -> Result<()> {
    if input == 0 || !input.is_multiple_of(kind.block_len()) {
        let (name, len) = (kind.name(), kind.block_len());
        bail!("weights of {input} inputs in {name}; expected a multiple of {len}");
    }
    Ok(())
}

/// Blocks on a device, with rows to fill up what a kernel reads at once.
fn on_device(
    bytes: &Arc<[u8]>,
    kind: BlockType,
    output: usize,
    input: usize,
    device: &Device,
) -> Result<Blocks> {
    let padded = output.next_multiple_of(ROWS_AT_ONCE);
    let bytes = if padded == output {
        Cow::Borrowed(&**bytes)
    } else {
        let mut bytes = bytes.to_vec();
        bytes.resize(kind.row_bytes(input) * padded, 0);
        Cow::Owned(bytes)
    };
    let storage = QStorage::from_data(bytes, device, kind.in_candle())?;
    let Ok(rows) = u32::try_from(output) else {
        bail!("weights of {output} outputs; expected fewer than 2^32");
    };
    Ok(Blocks::Device {
        blocks: Arc::new(QTensor::new(storage, (padded, input))?),
        ids: Tensor::arange(0, rows, device)?,
    })
}

#[cfg(test)]
mod tests;
