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
    /// What the checkpoint has where the device computes it well, else `f32`.
    ///
    /// GPUs keep `f16` and `bf16`; on the CPU both are computed by widening at every use, so there
    /// the weights are widened once, at load.
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

    /// The format for weights stored as `stored` on `device`.
    #[must_use]
    pub fn resolve(self, stored: DType, device: &Device) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
            Self::Auto if device.is_cpu() => DType::F32,
            Self::Auto => stored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_widens_on_the_cpu_only() {
        let cpu = Device::Cpu;
        assert_eq!(DTypePolicy::Auto.resolve(DType::BF16, &cpu), DType::F32);
        assert_eq!(DTypePolicy::Bf16.resolve(DType::F32, &cpu), DType::BF16);
        assert_eq!(DTypePolicy::F16.resolve(DType::F32, &cpu), DType::F16);
        assert_eq!(DTypePolicy::F32.resolve(DType::F16, &cpu), DType::F32);
    }

    #[test]
    fn both_spellings_are_names() {
        assert_eq!(DTypePolicy::from_name("float16").unwrap(), DTypePolicy::F16);
        assert_eq!(DTypePolicy::from_name("auto").unwrap(), DTypePolicy::Auto);
        assert!(DTypePolicy::from_name("F32").is_err());
    }
}
