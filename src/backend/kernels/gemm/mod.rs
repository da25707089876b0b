//! Products of dense matrices: activations in `f32` with weights in `f32`, `f16` or `bf16`.
//!
//! Sums are `f32`. Weights in `f16` are widened, which is exact. With weights in `bf16`, activations are
//! rounded to `bf16` where the processor multiplies pairs of these; elsewhere the weights are widened.

#![allow(
    unsafe_code,
    reason = "vector instructions, and memory that threads share"
)]
#![allow(
    clippy::inline_always,
    reason = "what is inlined is compiled for the processor of its caller"
)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocked;
mod few_rows;
mod narrow;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(super) mod pack;
mod portable;
pub(super) mod shared;
pub(super) mod simd;
mod tensors;
#[cfg(test)]
mod tests;
pub(super) mod tile;

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::transpose;
use blocked::Product;
pub(in crate::backend) use tensors::{
    dense_backward, dense_backward_onto, dense_outer, dense_product, dense_product_onto,
    takes_product, takes_products,
};

use super::dot::Numbers;
use pack::View;
use simd::{Number, Simd, Work};
use std::mem::MaybeUninit;

/// `x Wᵀ` into `y`, (m, n), or onto it, for `x` of shape (m, k) and `w` of shape (n, k).
pub(super) fn product(
    sizes: [usize; 3],
    x: &[f32],
    w: Numbers<'_>,
    y: &mut [MaybeUninit<f32>],
    add: bool,
) {
    w.multiply(x, true, sizes, y, add);
}

/// `dy W` into `dx`, (m, n), or onto it, for `dy` of shape (m, k) and `w` of shape (k, n): the gradient of `x`
/// in [`product`].
pub(super) fn backward(
    sizes: [usize; 3],
    dy: &[f32],
    w: Numbers<'_>,
    dx: &mut [MaybeUninit<f32>],
    add: bool,
) {
    w.multiply(dy, false, sizes, dx, add);
}

/// `dyᵀ x` into `dw`, (m, n), for `dy` of shape (k, m) and `x` of shape (k, n): the gradient of `w` in
/// [`product`].
pub(super) fn outer([m, n, k]: [usize; 3], dy: &[f32], x: &[f32], dw: &mut [MaybeUninit<f32>]) {
    let product = Product {
        left: View {
            numbers: dy,
            stride: m,
            along: false,
        },
        right: View {
            numbers: x,
            stride: n,
            along: false,
        },
        rows: m,
        columns: n,
        depth: k,
        add: false,
    };
    product.either_way(Instructions::best(), dw);
}

/// Numbers as room for numbers; they stay such as long as nothing else is written.
fn as_room(numbers: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    let (start, len) = (numbers.as_mut_ptr(), numbers.len());
    // SAFETY: it is the same memory, and products write numbers.
    unsafe { std::slice::from_raw_parts_mut(start.cast(), len) }
}

impl Numbers<'_> {
    /// `along` says whether the weights' rows lie along the depth.
    fn multiply(
        self,
        x: &[f32],
        along: bool,
        sizes: [usize; 3],
        y: &mut [MaybeUninit<f32>],
        add: bool,
    ) {
        match self {
            Self::F32(w) => multiply(x, w, along, sizes, add).either_way(Instructions::best(), y),
            Self::F16(w) => multiply(x, w, along, sizes, add).on(Instructions::best(), y),
            Self::Bf16(w) => multiply(x, w, along, sizes, add).on(Instructions::for_bf16(), y),
        }
    }
}

fn multiply<'a, T: Number>(
    x: &'a [f32],
    w: &'a [T],
    along: bool,
    [rows, columns, depth]: [usize; 3],
    add: bool,
) -> Product<'a, T> {
    Product {
        left: View {
            numbers: x,
            stride: depth,
            along: true,
        },
        right: View {
            numbers: w,
            stride: if along { depth } else { columns },
            along,
        },
        rows,
        columns,
        depth,
        add,
    }
}

/// Instructions that a product can be computed with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::backend::kernels) enum Instructions {
    #[cfg_attr(
        target_arch = "aarch64",
        allow(dead_code, reason = "all processors of this kind have NEON")
    )]
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Rounds activations.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

impl Instructions {
    /// All there are for processors of this kind.
    #[cfg(test)]
    pub(in crate::backend::kernels) const ALL: &[Self] = &[
        Self::Portable,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Bf16,
    ];

    /// The best that this processor has for sums of products of `f32`.
    pub(in crate::backend::kernels) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if Self::Avx512.there() {
                return Self::Avx512;
            }
            if Self::Avx2.there() {
                return Self::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        return Self::Neon;
        #[cfg(not(target_arch = "aarch64"))]
        Self::Portable
    }

    /// The best that this processor has for weights in `bf16`.
    fn for_bf16() -> Self {
        #[cfg(target_arch = "x86_64")]
        if Self::Avx512Bf16.there() {
            return Self::Avx512Bf16;
        }
        Self::best()
    }

    /// Does work with them; where they multiply pairs of `bf16`, with those for `f32` that stand beside these.
    pub(in crate::backend::kernels) fn enter(self, work: impl Work) {
        assert!(self.there());
        // SAFETY: the processor has them.
        unsafe {
            match self {
                Self::Portable => portable::Portable::enter(work),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => neon::Neon::enter(work),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => avx2::Avx2::enter(work),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 | Self::Avx512Bf16 => avx512::Avx512::enter(work),
            }
        }
    }

    /// Whether this processor has them.
    pub(in crate::backend::kernels) fn there(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
            }
        }
    }
}

impl<T: Number> Product<'_, T> {
    /// Computes it with instructions that this processor has.
    fn on(&self, instructions: Instructions, result: &mut [MaybeUninit<f32>]) {
        assert!(instructions.there());
        match instructions {
            Instructions::Portable => self.compute::<portable::Portable>(result),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => self.compute::<neon::Neon>(result),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => self.compute::<avx2::Avx2>(result),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => self.compute::<avx512::Avx512>(result),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Bf16 => self.compute::<avx512::Avx512Bf16>(result),
        }
    }
}
