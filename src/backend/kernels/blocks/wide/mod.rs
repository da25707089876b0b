//! Products of blocks by AVX-512, for processors with what [`is_there`] asks for.

#![allow(unsafe_code, reason = "features that only some processors have")]

/// `$small` or `$large` of the arguments, for blocks of a type of 32 numbers or of 256.
macro_rules! by_type {
    ($kind:expr, $small:ident, $large:ident, $($argument:expr),+) => {{
        use crate::backend::kernels::blocks::types;
        use crate::backend::ops::blocks::BlockType;
        match $kind {
            BlockType::Q4_0 => $small::<types::Q4_0, _>($($argument),+),
            BlockType::Q4_1 => $small::<types::Q4_1, _>($($argument),+),
            BlockType::Q5_0 => $small::<types::Q5_0, _>($($argument),+),
            BlockType::Q5_1 => $small::<types::Q5_1, _>($($argument),+),
            BlockType::Q8_0 => $small::<types::Q8_0, _>($($argument),+),
            BlockType::Q2K => $large::<types::Q2K, _, _>($($argument),+),
            BlockType::Q3K => $large::<types::Q3K, _, _>($($argument),+),
            BlockType::Q4K => $large::<types::Q4K, _, _>($($argument),+),
            BlockType::Q5K => $large::<types::Q5K, _, _>($($argument),+),
            BlockType::Q6K => $large::<types::Q6K, _, _>($($argument),+),
        }
    }};
}

mod columns;
mod dot;
mod rows;
mod tile;
mod unpack;

pub(super) use dot::product;
pub(super) use rows::{ROWS, Rows, quantize};
pub(super) use tile::{COLUMNS, columns};

/// Whether this processor has what all of this needs.
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}
