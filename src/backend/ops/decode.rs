//! One token through a decoder layer at once, where a device has kernels for it.
//!
//! A token of one sequence is where operations one by one are slow: each reads and writes a few kilobytes,
//! and what counts is how many there are.

use super::matrix::Matrix;
use crate::backend::kernels::cuda;
use candle_core::{Result, Tensor};

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

/// What the layers of one token share.
pub(crate) struct Scratch(cuda::Scratch);

impl Scratch {
    /// None where the device has no kernels for such a token.
    pub fn new(x: &Tensor, heads: &Heads, positions: usize) -> Result<Option<Self>> {
        if !cuda::takes(x) || !cuda::takes_heads(heads) {
            return Ok(None);
        }
        cuda::Scratch::new(heads, positions, x.device())
            .map(Self)
            .map(Some)
    }
}

/// The layer's output for `x` of shape (1, hidden), or none where it takes the chain.
pub(crate) fn decode_layer(
    x: &Tensor,
    layer: &Layer<'_>,
    scratch: &Scratch,
) -> Result<Option<Tensor>> {
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
    let fits = |&(weight, out, width): &(&Tensor, usize, usize)| {
        cuda::takes(weight) && weight.dims() == [out, width] && weight.dtype() == x.dtype()
    };
    let cache = [1, kv, layer.keys.dim(2)?, dim];
    let caches = [layer.keys, layer.values];
    if !matrices.iter().all(fits)
        || !cuda::takes_width(hidden)
        || !caches
            .iter()
            .all(|held| cuda::takes(held) && held.dims() == cache && held.dtype() == x.dtype())
        || layer.position >= cache[2]
    {
        return Ok(None);
    }
    cuda::decode_layer(x, layer, &scratch.0).map(Some)
}

/// The logits in `f32` for a hidden state of shape (1, hidden), or none where it takes the chain.
pub(crate) fn decode_head(
    x: &Tensor,
    norm: &Tensor,
    eps: f32,
    head: &Matrix,
) -> Result<Option<Tensor>> {
    let (rows, hidden) = x.dims2()?;
    match head {
        Matrix::Dense(head)
            if rows == 1
                && cuda::takes(x)
                && cuda::takes(head)
                && head.dim(1)? == hidden
                && head.dtype() == x.dtype()
                && cuda::takes_width(hidden) =>
        {
            cuda::decode_head(x, norm, eps, head).map(Some)
        }
        _ => Ok(None),
    }
}
