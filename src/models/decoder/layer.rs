//! One decoder layer: attention and feed-forward, each behind a norm and beside a residual.

use super::adapted::Adapted;
use super::linear::Linear;
use super::{KvCache, Pass, Place, Segment};
use crate::backend::ops::attention::attention;
use crate::backend::ops::linear::add_into;
use crate::backend::ops::matrix::Matrix;
use crate::backend::ops::rms_norm::rms_norm;
use crate::backend::ops::rope::rope;
use crate::backend::ops::swiglu::swiglu;
use crate::models::Projection;
use candle_core::{Result, Tensor};

#[derive(Debug, Clone)]
pub(super) struct DecoderLayer {
    pub input_norm: Tensor,
    pub post_norm: Tensor,
    /// Where the heads are normed.
    pub head_norms: Option<HeadNorms>,
    /// By [`Projection`].
    pub linears: Vec<Linear>,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub eps: f64,
    pub window: Option<usize>,
    pub index: usize,
}

/// The norms of queries and keys, head by head, between projection and rotation, each of `head_dim`
/// weights (Qwen3, Yang et al., 2025, <https://arxiv.org/abs/2505.09388>).
#[derive(Debug, Clone)]
pub(super) struct HeadNorms {
    pub query: Tensor,
    pub key: Tensor,
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
    /// Of each segment.
    pub heads: Vec<Heads>,
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

/// What the attention of one segment computed.
pub(super) struct Heads {
    /// Rotated queries, (batch, heads, n, `head_dim`).
    pub q: Tensor,
    /// Rotated keys, (batch, `kv_heads`, n, `head_dim`).
    pub k: Tensor,
    /// Values, shaped as the keys.
    pub v: Tensor,
    /// The result of the attention, shaped as the queries.
    pub attended: Tensor,
    /// Queries and keys before their norms, where they have such.
    pub unnormed: Option<(Tensor, Tensor)>,
}

impl DecoderLayer {
    /// `x` has shape (tokens, hidden). There is one cache for each segment, or none at all.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        pass: &Pass,
        caches: &mut [&mut KvCache],
        adapted: &Adapted<'_>,
    ) -> Result<Activations> {
        let project = |projection: Projection, x: &Tensor| {
            let map = &self.linears[projection as usize];
            adapted.project(self.index, projection, map, x)
        };

        let normed = rms_norm(x, &self.input_norm, self.eps)?;
        let q = project(Projection::Query, &normed)?;
        let k = project(Projection::Key, &normed)?;
        let v = project(Projection::Value, &normed)?;
        let mut heads = Vec::with_capacity(pass.segments.len());
        let mut contexts = Vec::with_capacity(pass.segments.len());
        for (index, segment) in pass.segments.iter().enumerate() {
            let cache = caches.get_mut(index).map(|cache| &mut **cache);
            let part = |x| pass.part(segment, x);
            let attention = self.attend(&part(&q)?, &part(&k)?, &part(&v)?, segment, cache)?;
            contexts.push(merge(&attention.attended)?);
            heads.push(attention);
        }
        let context = Pass::join(contexts)?;
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
            heads,
            context,
            residual,
            post_normed,
            gate,
            up,
            activated,
        })
    }

    /// The attention of one segment over its own positions, and those in its cache.
    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        segment: &Segment,
        cache: Option<&mut KvCache>,
    ) -> Result<Heads> {
        let mut q = self.split(q, self.heads, segment)?;
        let mut k = self.split(k, self.kv_heads, segment)?;
        let v = self.split(v, self.kv_heads, segment)?;
        let mut unnormed = None;
        if let Some(norms) = &self.head_norms {
            let normed = (
                rms_norm(&q, &norms.query, self.eps)?,
                rms_norm(&k, &norms.key, self.eps)?,
            );
            unnormed = Some((q, k));
            (q, k) = normed;
        }
        let (q, k) = (rope(&q, &segment.rotation)?, rope(&k, &segment.rotation)?);
        let (all_k, all_v) = match cache {
            Some(cache) => cache.append(self.index, &k, &v)?,
            None => (k.clone(), v.clone()),
        };
        let attended = attention(&q, &all_k, &all_v, segment.plan(self.window)?)?;
        Ok(Heads {
            q,
            k,
            v,
            attended,
            unnormed,
        })
    }

    /// Puts a weight in its place, which is one of the layer.
    pub(super) fn set(&mut self, place: Place, weight: Tensor) {
        match (place, &mut self.head_norms) {
            (Place::InputNorm(_), _) => self.input_norm = weight,
            (Place::PostNorm(_), _) => self.post_norm = weight,
            (Place::QueryNorm(_), Some(norms)) => norms.query = weight,
            (Place::KeyNorm(_), Some(norms)) => norms.key = weight,
            (Place::Weight(_, projection), _) => {
                self.linears[projection as usize].weight = Matrix::Dense(weight);
            }
            (Place::Bias(_, projection), _) => {
                self.linears[projection as usize].bias = Some(weight);
            }
            _ => {}
        }
    }

    /// (tokens, heads · d) to (batch, heads, n, d).
    pub(super) fn split(&self, x: &Tensor, heads: usize, segment: &Segment) -> Result<Tensor> {
        let Segment { batch, len, .. } = *segment;
        let shape = (batch, heads, len, self.head_dim);
        x.reshape((batch, len, heads, self.head_dim))?
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
