//! Every operation, forward and backward, on the device under test against the CPU: in all dtypes,
//! from contiguous inputs and from views, at sizes that fill no tile.

mod attention;
mod cross_entropy;
#[cfg(any(
    feature = "cuda",
    feature = "metal",
    target_os = "macos",
    target_os = "ios"
))]
mod decode;
mod elementwise;
mod linear;
