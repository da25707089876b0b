//! Matrices of GGUF's blocks: their numbers, and `x Wᵀ` for a few rows straight from the blocks.

#![allow(
    clippy::inline_always,
    reason = "what is inlined is compiled for the processor of its caller"
)]

mod decode;
mod few_rows;
mod lanes;
mod types;

pub(in crate::backend) use decode::{decode_all, decode_rows};
pub(in crate::backend) use few_rows::block_few_rows;
