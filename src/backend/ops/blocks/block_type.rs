//! The types of blocks.

use candle_core::quantized::GgmlDType;

/// How the numbers of a matrix are stored in a GGUF file: the block types of ggml
/// (<https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>) that files of language models use
/// and that are computed with as they are.
///
/// Those of 32 numbers have a scale a block, and `_1` a bias beside it. Those of 256 ("K") have a scale,
/// or a scale and a bias, for each 16 or 32 numbers, which are themselves of few bits.
///
/// # Example
///
/// ```
/// use metal_candle::backend::ops::blocks::BlockType;
///
/// let kind = BlockType::from_ggml_id(12).unwrap();
/// assert_eq!((kind, kind.name()), (BlockType::Q4K, "Q4_K"));
/// // 4.5 bits a number.
/// assert_eq!((kind.block_len(), kind.block_bytes()), (256, 144));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BlockType {
    /// 4 bits around zero.
    Q4_0,
    /// 4 bits and a bias.
    Q4_1,
    /// 5 bits around zero.
    Q5_0,
    /// 5 bits and a bias.
    Q5_1,
    /// 8 bits around zero.
    Q8_0,
    /// 2 bits, with a scale and a bias of 4 bits for each 16.
    Q2K,
    /// 3 bits around zero, with a scale of 6 bits for each 16.
    Q3K,
    /// 4 bits, with a scale and a bias of 6 bits for each 32.
    Q4K,
    /// 5 bits, with a scale and a bias of 6 bits for each 32.
    Q5K,
    /// 6 bits around zero, with a scale of 8 bits for each 16.
    Q6K,
}

impl BlockType {
    /// All types.
    pub const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The type that a GGUF file means by `id`, if it is one of these.
    #[must_use]
    pub fn from_ggml_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.ggml_id() == id)
    }

    /// The number that a GGUF file has for it.
    #[must_use]
    pub fn ggml_id(self) -> u32 {
        match self {
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
        }
    }

    /// Its name in llama.cpp.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// The numbers in a block, of which a row has a whole number: 32 or 256.
    #[must_use]
    pub fn block_len(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// The bytes of a block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// The bytes of a row of `width` numbers, a multiple of [`block_len`](Self::block_len).
    pub(in crate::backend) fn row_bytes(self, width: usize) -> usize {
        (width / self.block_len()).saturating_mul(self.block_bytes())
    }

    pub(super) fn in_candle(self) -> GgmlDType {
        match self {
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q4_1 => GgmlDType::Q4_1,
            Self::Q5_0 => GgmlDType::Q5_0,
            Self::Q5_1 => GgmlDType::Q5_1,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q2K => GgmlDType::Q2K,
            Self::Q3K => GgmlDType::Q3K,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q6K => GgmlDType::Q6K,
        }
    }
}
