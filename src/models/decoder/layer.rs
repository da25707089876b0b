//! One decoder layer: attention and feed-forward, each behind a norm and beside a residual.

use super::backward::Dropout;
use super::{KvCache, Pass};
use crate::backend::ops::attention::attention;
use crate::backend::ops::linear::{add_into, linear};
use crate::backend::ops::rms_norm::rms_norm;
use crate::backend::ops::rope::rope;
use crate::backend::ops::swiglu::swiglu;
use crate::models::Projection;
use crate::models::adapter::LayerAdapter;
use candle_core::{Result, Tensor};

#[derive(Debug, Clone)]
pub(super) struct Linear {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

#[derive(Debug, Clone)]
pub(super) struct DecoderLayer {
    pub input_norm: Tensor,
    pub post_norm: Tensor,
    /// By [`Projection`].
    pub linears: Vec<Linear>,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub eps: f64,
    pub window: Option<usize>,
    pub index: usize,
}

/// What a layer computed: its output, and what its backward needs.
///
/// Inference drops all but the output at once; tensors are reference-counted, so keeping them costs
/// nothing until then.
pub(super) struct Activations {
    /// The layer's result, (tokens, hidden).
    pub output: Tensor,
    /// The layer's input.
    pub input: Tensor,
    /// The input of the query, key and value projections.
    pub normed: Tensor,
    /// Rotated queries, (batch, heads, n, `head_dim`).
    pub q: Tensor,
    /// Rotated keys, (batch, `kv_heads`, n, `head_dim`).
    pub k: Tensor,
    /// Values, shaped as the keys.
    pub v: Tensor,
    /// The result of the attention, shaped as the queries.
    pub attended: Tensor,
    /// The input of the output projection, (tokens, heads · `head_dim`).
    pub context: Tensor,
    /// The input of the feed-forward block.
    pub residual: Tensor,
    /// The input of the gate and up projections.
    pub post_normed: Tensor,
    /// The result of the gate projection.
    pub gate: Tensor,
    /// The result of the up projection.
    pub up: Tensor,
    /// The input of the down projection.
    pub activated: Tensor,
}

impl DecoderLayer {
    /// `x` has shape (tokens, hidden).
    pub(super) fn forward(
        &self,
        x: &Tensor,
        pass: &Pass,
        cache: Option<&mut KvCache>,
        adapter: Option<&LayerAdapter>,
        dropout: Option<&Dropout>,
    ) -> Result<Activations> {
        let project = |projection, x: &Tensor| self.project(projection, x, adapter, dropout);

        let normed = rms_norm(x, &self.input_norm, self.eps)?;
        let q = self.split(&project(Projection::Query, &normed)?, self.heads, pass)?;
        let k = self.split(&project(Projection::Key, &normed)?, self.kv_heads, pass)?;
        let v = self.split(&project(Projection::Value, &normed)?, self.kv_heads, pass)?;
        let q = rope(&q, &pass.rotation)?;
        let k = rope(&k, &pass.rotation)?;
        let (all_k, all_v) = match cache {
            Some(cache) => cache.append(self.index, &k, &v)?,
            None => (k.clone(), v.clone()),
        };
        let attended = attention(&q, &all_k, &all_v, pass.plan(self.window)?)?;
        let context = merge(&attended)?;
        let residual = add_into(project(Projection::Output, &context)?, x)?;

        let post_normed = rms_norm(&residual, &self.post_norm, self.eps)?;
        let gate = project(Projection::Gate, &post_normed)?;
        let up = project(Projection::Up, &post_normed)?;
        let activated = swiglu(&gate, &up)?;
        let output = add_into(project(Projection::Down, &activated)?, &residual)?;
        Ok(Activations {
            output,
            input: x.clone(),
            normed,
            q,
            k,
            v,
            attended,
            context,
            residual,
            post_normed,
            gate,
            up,
            activated,
        })
    }

    /// The linear map, and the adapter's branch beside it.
    fn project(
        &self,
        projection: Projection,
        x: &Tensor,
        adapter: Option<&LayerAdapter>,
        dropout: Option<&Dropout>,
    ) -> Result<Tensor> {
        let Linear { weight, bias } = &self.linears[projection as usize];
        let y = linear(x, weight, bias.as_ref())?;
        match adapter.and_then(|adapter| adapter[projection as usize].as_ref()) {
            None => Ok(y),
            Some(pair) => {
                let branch = match dropout {
                    None => pair.forward(x)?,
                    Some(dropout) => pair.forward(&dropout.apply(self.index, projection, x)?)?,
                };
                add_into(y, &branch)
            }
        }
    }

    /// (tokens, heads · d) to (batch, heads, n, d).
    pub(super) fn split(&self, x: &Tensor, heads: usize, pass: &Pass) -> Result<Tensor> {
        let shape = (pass.batch, heads, pass.len, self.head_dim);
        x.reshape((pass.batch, pass.len, heads, self.head_dim))?
            .transpose(1, 2)?
            .contiguous()?
            // One head is contiguous as it is, but with strides of the wrong dimension for Metal's
            // matrix product, which takes the last but two for that of the batch.
            .reshape(shape)
    }
}

/// (batch, heads, n, d) to (tokens, heads · d).
pub(super) fn merge(x: &Tensor) -> Result<Tensor> {
    let (batch, heads, len, head_dim) = x.dims4()?;
    x.transpose(1, 2)?
        .contiguous()?
        .reshape((batch * len, heads * head_dim))
}
