//! Every operation, forward and backward, on the device under test against the CPU: in all dtypes,
//! from contiguous inputs and from views, at sizes that fill no tile.

mod attention;
mod cross_entropy;
mod elementwise;
mod linear;
