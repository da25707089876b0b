//! The number format that weights and activations are held in.

use crate::error::{Error, Result};
use candle_core::{DType, Device};

/// Which number format a model computes in.
///
/// Adapter weights, their gradients and the optimizer state are `f32` whatever this says: sixteen
/// bits lose the small updates of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DTypePolicy {
    /// What the checkpoint has.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// 16-bit brain floats.
    Bf16,
}

impl DTypePolicy {
    /// The policy by its name: `auto`, `f32`, `f16` or `bf16`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for any other name.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::backend::DTypePolicy;
    ///
    /// assert_eq!(DTypePolicy::from_name("bf16")?, DTypePolicy::Bf16);
    /// assert!(DTypePolicy::from_name("int3").is_err());
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "f32" | "float32" => Ok(Self::F32),
            "f16" | "float16" => Ok(Self::F16),
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            other => Err(Error::option(
                "dtype",
                format!("`{other}`"),
                "`auto`, `f32`, `f16` or `bf16`",
            )),
        }
    }

    /// The format for weights stored as `stored`.
    #[must_use]
    pub fn resolve(self, stored: DType) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
            Self::Auto => stored,
        }
    }
}

/// The format of activations beside weights of `weights`.
///
/// On the CPU it is `f32`: there it is the reading of weights that takes time, and narrow activations would
/// be widened for each operation.
pub(crate) fn activations(weights: DType, device: &Device) -> DType {
    match weights {
        DType::F16 | DType::BF16 if device.is_cpu() => DType::F32,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_what_the_checkpoint_has() {
        assert_eq!(DTypePolicy::Auto.resolve(DType::BF16), DType::BF16);
        assert_eq!(DTypePolicy::Bf16.resolve(DType::F32), DType::BF16);
        assert_eq!(DTypePolicy::F16.resolve(DType::F32), DType::F16);
        assert_eq!(DTypePolicy::F32.resolve(DType::F16), DType::F32);
    }

    #[test]
    fn activations_are_wide_on_the_cpu() {
        let on_cpu = |dtype| activations(dtype, &Device::Cpu);
        assert_eq!(
            [DType::F16, DType::BF16, DType::F32].map(on_cpu),
            [DType::F32; 3]
        );
    }

    #[test]
    fn both_spellings_are_names() {
        assert_eq!(DTypePolicy::from_name("float16").unwrap(), DTypePolicy::F16);
        assert_eq!(DTypePolicy::from_name("auto").unwrap(), DTypePolicy::Auto);
        assert!(DTypePolicy::from_name("F32").is_err());
    }
}
