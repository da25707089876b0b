//! One token through a decoder layer at once, where a device has kernels for it.
//!
//! A token of one sequence is where operations one by one are slow: each reads and writes a few kilobytes,
//! and what counts is how many there are.

use super::matrix::Matrix;
#[cfg(feature = "cuda")]
use crate::backend::kernels::cuda;
#[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
use crate::backend::kernels::metal;
use candle_core::{Device, Result, Tensor};

/// The heads of an attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub query: usize,
    pub kv: usize,
    pub dim: usize,
}

/// What a layer computes with for one token.
pub(crate) struct Layer<'a> {
    pub heads: Heads,
    pub eps: f32,
    pub input_norm: &'a Tensor,
    /// The norms of queries and keys, head by head.
    pub head_norms: Option<(&'a Tensor, &'a Tensor)>,
    pub query_key_value: [(&'a Tensor, Option<&'a Tensor>); 3],
    pub output: &'a Tensor,
    pub post_norm: &'a Tensor,
    pub gate: &'a Tensor,
    pub up: &'a Tensor,
    pub down: &'a Tensor,
    pub cos: &'a Tensor,
    pub sin: &'a Tensor,
    /// The cache's buffers, (1, `kv_heads`, capacity, `head_dim`), with room for the token.
    pub keys: &'a Tensor,
    pub values: &'a Tensor,
    /// The token's, and the first one that it sees.
    pub position: usize,
    pub oldest: usize,
}

/// A dense matrix without a bias.
pub(crate) fn plain<'a>(weight: &'a Matrix, bias: Option<&Tensor>) -> Option<&'a Tensor> {
    match (weight, bias) {
        (Matrix::Dense(weight), None) => Some(weight),
        _ => None,
    }
}

/// What the layers of one token share, on a device that has kernels for them.
pub(crate) struct Scratch(Kind);

enum Kind {
    #[cfg(feature = "cuda")]
    Cuda(cuda::Scratch),
    #[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
    Metal(metal::Scratch),
}

impl Scratch {
    /// None where the device has no kernels for such a token.
    pub fn new(x: &Tensor, heads: &Heads, positions: usize) -> Result<Option<Self>> {
        match x.device() {
            #[cfg(feature = "cuda")]
            Device::Cuda(_) if takes(x) && cuda::takes_heads(heads) => {
                cuda::Scratch::new(heads, positions, x.device())
                    .map(|scratch| Some(Self(Kind::Cuda(scratch))))
            }
            #[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
            Device::Metal(_) if takes(x) && metal::takes_heads(heads) => {
                metal::Scratch::new(x, heads, positions)
                    .map(|scratch| Some(Self(Kind::Metal(scratch))))
            }
            _ => Ok(None),
        }
    }
}

/// Whether the kernels of its device read this tensor.
fn takes(x: &Tensor) -> bool {
    match x.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => cuda::takes(x),
        #[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
        Device::Metal(_) => metal::takes(x),
        _ => false,
    }
}

/// Whether the kernels of its device norm rows as wide as those of `x`.
fn takes_width(x: &Tensor) -> bool {
    match x.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => x
            .dims()
            .last()
            .is_some_and(|&width| cuda::takes_width(width)),
        #[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
        Device::Metal(_) => true,
        _ => false,
    }
}

/// The layer's output for `x` of shape (1, hidden), or none where it takes the chain.
pub(crate) fn decode_layer(
    x: &Tensor,
    layer: &Layer<'_>,
    scratch: &Scratch,
) -> Result<Option<Tensor>> {
    if !fits(x, layer)? {
        return Ok(None);
    }
    match scratch.0 {
        #[cfg(feature = "cuda")]
        Kind::Cuda(ref scratch) => cuda::decode_layer(x, layer, scratch).map(Some),
        #[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
        Kind::Metal(ref scratch) => metal::decode_layer(x, layer, scratch).map(Some),
    }
}

/// Whether the kernels take all of the layer's tensors, in these shapes.
fn fits(x: &Tensor, layer: &Layer<'_>) -> Result<bool> {
    let hidden = x.dims2()?.1;
    let Heads { query, kv, dim } = layer.heads;
    let intermediate = layer.gate.dim(0)?;
    let [(q, _), (k, _), (v, _)] = layer.query_key_value;
    let matrices = [
        (q, query * dim, hidden),
        (k, kv * dim, hidden),
        (v, kv * dim, hidden),
        (layer.output, hidden, query * dim),
        (layer.gate, intermediate, hidden),
        (layer.up, intermediate, hidden),
        (layer.down, hidden, intermediate),
    ];
    let cache = [1, kv, layer.keys.dim(2)?, dim];
    let is_of = |tensor: &Tensor, shape: &[usize]| {
        takes(tensor) && tensor.dims() == shape && tensor.dtype() == x.dtype()
    };
    Ok(takes_width(x)
        && matrices
            .iter()
            .all(|&(weight, out, width)| is_of(weight, &[out, width]))
        && [layer.keys, layer.values]
            .iter()
            .all(|held| is_of(held, &cache))
        && [layer.input_norm, layer.post_norm]
            .iter()
            .all(|norm| is_of(norm, &[hidden]))
        && layer.position < cache[2])
}

/// The logits in `f32` for a hidden state of shape (1, hidden), or none where it takes the chain.
pub(crate) fn decode_head(
    x: &Tensor,
    norm: &Tensor,
    eps: f32,
    head: &Matrix,
) -> Result<Option<Tensor>> {
    let Matrix::Dense(head) = head else {
        return Ok(None);
    };
    let (rows, hidden) = x.dims2()?;
    let fits = rows == 1
        && takes(x)
        && takes(head)
        && takes(norm)
        && takes_width(x)
        && head.dim(1)? == hidden
        && head.dtype() == x.dtype();
    if !fits {
        return Ok(None);
    }
    match x.device() {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => cuda::decode_head(x, norm, eps, head).map(Some),
        #[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
        Device::Metal(_) => metal::decode_head(x, norm, eps, head).map(Some),
        _ => Ok(None),
    }
}
