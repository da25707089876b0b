//! The number formats of a GGUF file, and which one each tensor gets.

use crate::error::{Error, Result};
use candle_core::quantized::GgmlDType;

/// The number format of the weights in a GGUF file.
///
/// Matrices are stored in it; norms, biases and all other vectors are 32-bit floats. Formats of
/// blocks differ from tensor to tensor where llama.cpp's quantiser does so too:
///
/// - The output head, which is the embedding where the two are tied, is stored as `Q6_K` with every
///   format of blocks but `Q8_0`.
/// - `Q4_K` is the mix of that name, also called `Q4_K_M`: the value and the feed-forward output
///   projections of half of the layers are stored as `Q6_K`.
/// - Rows whose length is no multiple of a block of 256 fall back to blocks of 32: `Q4_K` to `Q5_0`,
///   and `Q6_K` to `Q8_0`. Rows whose length is no multiple of 32 fall back to `F16`.
///
/// # Example
///
/// ```
/// use metal_candle::checkpoint::GgufType;
///
/// assert_eq!(GgufType::from_name("Q4_K")?, GgufType::Q4K);
/// assert_eq!(GgufType::Q8_0.name(), "Q8_0");
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GgufType {
    /// 16-bit floats of IEEE 754, `F16`.
    F16,
    /// 16-bit brain floats, `BF16`.
    Bf16,
    /// 8.5 bits a weight, `Q8_0`: hardly to be told from 16 bits.
    Q8_0,
    /// 4.5 bits a weight, `Q4_0`: the fastest on many CPUs, and the least accurate.
    Q4_0,
    /// About 4.8 bits a weight, `Q4_K`: the usual choice where memory is scarce.
    Q4K,
    /// 6.6 bits a weight, `Q6_K`.
    Q6K,
}

/// What a tensor is, as far as its format depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The matrix that gives the logits.
    Head,
    /// A value or feed-forward output projection of a layer, which `Q4_K` stores better in some layers.
    Sensitive {
        /// Its layer.
        layer: usize,
        /// The number of layers.
        layers: usize,
    },
    /// Any other.
    Plain,
}

impl GgufType {
    /// All formats, the most accurate ones first.
    pub const ALL: &'static [Self] = &[
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q6K,
        Self::Q4K,
        Self::Q4_0,
    ];

    /// The name, as llama.cpp has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4K => "Q4_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// The format by its [name](Self::name).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that lists the names.
    pub fn from_name(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|kind| kind.name() == name);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
            let expected = format!("one of {}", names.join(", "));
            Error::option("gguf_type", format!("`{name}`"), expected)
        })
    }

    /// The number of the mix of formats in a file's metadata.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4K => 15,
            Self::Q6K => 18,
            Self::Bf16 => 32,
        }
    }

    /// The format of a tensor.
    pub(super) fn of_tensor(self, role: Role, dims: &[usize]) -> GgmlDType {
        let [_, row] = dims else {
            return GgmlDType::F32;
        };
        let wanted = match (self, role) {
            (Self::F16, _) => GgmlDType::F16,
            (Self::Bf16, _) => GgmlDType::BF16,
            (Self::Q8_0, _) => GgmlDType::Q8_0,
            (Self::Q6K, _) | (Self::Q4_0 | Self::Q4K, Role::Head) => GgmlDType::Q6K,
            (Self::Q4K, Role::Sensitive { layer, layers }) if gets_more_bits(layer, layers) => {
                GgmlDType::Q6K
            }
            (Self::Q4_0, _) => GgmlDType::Q4_0,
            (Self::Q4K, _) => GgmlDType::Q4K,
        };
        let fits = |format: &GgmlDType| row.is_multiple_of(format.block_size());
        let smaller_blocks = match wanted {
            GgmlDType::Q4K => GgmlDType::Q5_0,
            _ => GgmlDType::Q8_0,
        };
        [wanted, smaller_blocks]
            .into_iter()
            .find(fits)
            .unwrap_or(GgmlDType::F16)
    }
}

/// The layers that matter most: the first eighth, the last one, and every third between them.
fn gets_more_bits(layer: usize, layers: usize) -> bool {
    let first = layers / 8;
    layer < first || layer >= 7 * layers / 8 || (layer - first) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_cpp() {
        for kind in GgufType::ALL {
            assert_eq!(GgufType::from_name(kind.name()).unwrap(), *kind);
        }
        let error = GgufType::from_name("q4_k").unwrap_err().to_string();
        assert!(
            error.contains("`q4_k`") && error.contains("Q4_K"),
            "{error}"
        );
    }

    #[test]
    fn vectors_are_floats_and_heads_have_six_bits() {
        for &kind in GgufType::ALL {
            assert_eq!(kind.of_tensor(Role::Plain, &[512]), GgmlDType::F32);
        }
        let head = |kind: GgufType| kind.of_tensor(Role::Head, &[100, 512]);
        assert_eq!(head(GgufType::F16), GgmlDType::F16);
        assert_eq!(head(GgufType::Q8_0), GgmlDType::Q8_0);
        assert_eq!(head(GgufType::Q4_0), GgmlDType::Q6K);
        assert_eq!(head(GgufType::Q4K), GgmlDType::Q6K);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_fall_back() {
        let format = |kind: GgufType, row| kind.of_tensor(Role::Plain, &[8, row]);
        assert_eq!(format(GgufType::Q4K, 512), GgmlDType::Q4K);
        assert_eq!(format(GgufType::Q4K, 896), GgmlDType::Q5_0);
        assert_eq!(format(GgufType::Q6K, 896), GgmlDType::Q8_0);
        assert_eq!(format(GgufType::Q4_0, 896), GgmlDType::Q4_0);
        for kind in [GgufType::Q4K, GgufType::Q6K, GgufType::Q4_0, GgufType::Q8_0] {
            assert_eq!(format(kind, 880), GgmlDType::F16);
        }
        assert_eq!(format(GgufType::Bf16, 7), GgmlDType::BF16);
        assert_eq!(
            GgufType::Q4_0.of_tensor(Role::Head, &[8, 896]),
            GgmlDType::Q8_0
        );
    }

    #[test]
    fn half_of_the_layers_get_more_bits() {
        let better: Vec<_> = (0..24).filter(|&layer| gets_more_bits(layer, 24)).collect();
        // Those of llama.cpp for Qwen2.5-0.5B.
        assert_eq!(better, [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]);
        let role = |layer| Role::Sensitive { layer, layers: 24 };
        let format = |kind: GgufType, layer| kind.of_tensor(role(layer), &[8, 256]);
        assert_eq!(format(GgufType::Q4K, 2), GgmlDType::Q6K);
        assert_eq!(format(GgufType::Q4K, 3), GgmlDType::Q4K);
        assert_eq!(format(GgufType::Q4_0, 2), GgmlDType::Q4_0);
        // A model of few layers has no first eighth, and its last layer is the last one.
        assert!(!gets_more_bits(0, 2) && gets_more_bits(1, 2));
    }
}
