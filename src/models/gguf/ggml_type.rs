//! The types of numbers that tensors of a GGUF file have.

use std::fmt;

/// How the numbers of a tensor in a GGUF file are stored: one by one, or in blocks that share scales.
///
/// Any number can be one; files may have types that this library does not know. [`Display`](fmt::Display)
/// gives the name, such as `Q4_K`, or the number where there is none.
///
/// # Example
///
/// ```
/// use metal_candle::models::GgmlType;
///
/// let q4_k = GgmlType::from_id(12);
/// assert_eq!(q4_k.to_string(), "Q4_K");
/// assert_eq!((q4_k.block_len(), q4_k.block_bytes()), (Some(256), Some(144)));
/// assert_eq!(GgmlType::from_id(1000).to_string(), "number 1000");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GgmlType(u32);

/// Number, name, numbers in a block, and bytes of a block of each type that files are known to have.
const TYPES: &[(u32, &str, usize, usize)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
];

/// The types that weights may have, for error messages.
pub(super) const LOADABLE: &str =
    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K or Q6_K";

impl GgmlType {
    /// Single precision.
    pub const F32: Self = Self(0);
    /// Half precision.
    pub const F16: Self = Self(1);
    /// Half precision with the range of single precision.
    pub const BF16: Self = Self(30);

    /// The type that files give by this number.
    #[must_use]
    pub fn from_id(id: u32) -> Self {
        Self(id)
    }

    /// The number that files give it by.
    #[must_use]
    pub fn id(self) -> u32 {
        self.0
    }

    /// The numbers in a block, 1 where each stands for itself; `None` for an unknown type.
    #[must_use]
    pub fn block_len(self) -> Option<usize> {
        self.known().map(|(_, _, len, _)| *len)
    }

    /// The bytes of a block; `None` for an unknown type.
    #[must_use]
    pub fn block_bytes(self) -> Option<usize> {
        self.known().map(|(_, _, _, bytes)| *bytes)
    }

    /// Whether weights of this type can be computed with.
    pub(super) fn is_loadable(self) -> bool {
        matches!(self.0, 0..=3 | 6..=8 | 10..=14 | 30)
    }

    fn known(self) -> Option<&'static (u32, &'static str, usize, usize)> {
        TYPES.iter().find(|(id, ..)| *id == self.0)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some((_, name, ..)) => formatter.write_str(name),
            None => write!(formatter, "number {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_can_be_loaded_are_those_of_the_message() {
        let loadable = (0..100).map(GgmlType::from_id).filter(|t| t.is_loadable());
        let mut found: Vec<_> = loadable.map(|t| t.to_string()).collect();
        let mut named: Vec<_> = LOADABLE.split([',', ' ']).collect();
        named.retain(|name| !["", "or"].contains(name));
        found.sort();
        named.sort_unstable();
        assert_eq!(found, named);
    }
}
