//! Matrices of GGUF's blocks: their numbers, and `x Wᵀ` straight from the blocks, with `x` in `f32` or in
//! eight bits.

#![allow(
    clippy::inline_always,
    reason = "what is inlined is compiled for the processor of its caller"
)]

mod bytes;
mod codes;
mod decode;
mod dot;
mod few_rows;
mod lanes;
mod product;
mod types;
mod unpack;

pub(super) use codes::Codes;
pub(in crate::backend) use decode::{decode_all, decode_rows};
pub(super) use dot::dot_rows;
pub(in crate::backend) use few_rows::block_few_rows;
pub(in crate::backend) use product::block_product;
