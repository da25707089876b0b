//! Kernels for NVIDIA GPUs, for numbers of 16 bits.
//!
//! Each `.cu` has the kernels of a file of Rust, its `.ptx` is what `compile.sh` makes of it for every GPU from
//! compute capability 8.0 on. The driver compiles that once for its own.

#![allow(unsafe_code, reason = "kernels are launched with pointers")]

mod choice;
mod decode;
mod heads;
mod launch;
mod product;
mod rows;
mod softmax;

pub(in crate::backend) use choice::most_likely;
pub(in crate::backend) use decode::{Scratch, decode_head, decode_layer, takes_heads, takes_width};
pub(in crate::backend) use heads::{takes_head, to_heads, to_rows};
pub(in crate::backend) use launch::{takes, takes_all};
pub(in crate::backend) use product::{add_product, product};
pub(in crate::backend) use rows::{
    add_assign, norm_sum, place_rows, rms_norm, rms_norm_backward, swiglu, swiglu_backward,
};
pub(in crate::backend) use softmax::{Seen, attend, attend_backward, cross_entropy};

/// Numbers that a thread reads at once.
const WIDTH: usize = 8;
