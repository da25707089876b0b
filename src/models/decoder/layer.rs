//! One decoder layer: attention and feed-forward, each behind a norm and beside a residual.

use super::adapted::Adapted;
use super::linear::Linear;
use super::{KvCache, Pass, Place, Segment};
use crate::backend::ops::attention::attention;
use crate::backend::ops::heads::{merge, split, split_rotated};
use crate::backend::ops::linear::add_into;
use crate::backend::ops::matrix::Matrix;
use crate::backend::ops::rms_norm::{add_rms_norm, rms_norm};
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
    #[allow(dead_code, reason = "read where a token has kernels of its own")]
    pub heads: usize,
    #[allow(dead_code, reason = "as `heads`")]
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
    /// The input of the query, key and value projections; none where it is to be computed again.
    pub normed: Option<Tensor>,
    /// Of each segment.
    pub heads: Vec<Heads>,
    /// The input of the output projection, (tokens, heads · `head_dim`).
    pub context: Tensor,
    /// The input of the feed-forward block.
    pub residual: Tensor,
    /// The input of the gate and up projections, as `normed`.
    pub post_normed: Option<Tensor>,
    /// The result of the gate projection.
    pub gate: Tensor,
    /// The result of the up projection.
    pub up: Tensor,
    /// The input of the down projection, as `normed`.
    pub activated: Option<Tensor>,
}

impl Activations {
    /// Forgets what takes little time to compute again, on the CPU, where that is one pass over memory.
    pub(super) fn slim(mut self) -> Self {
        if self.output.device().is_cpu() {
            self.normed = None;
            self.post_normed = None;
            self.activated = None;
        }
        self
    }
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
        let attended = project(Projection::Output, &context)?;
        let (residual, post_normed) = add_rms_norm(attended, x, &self.post_norm, self.eps)?;
        let gate = project(Projection::Gate, &post_normed)?;
        let up = project(Projection::Up, &post_normed)?;
        let activated = swiglu(&gate, &up)?;
        let output = add_into(project(Projection::Down, &activated)?, &residual)?;
        Ok(Activations {
            output,
            input: x.clone(),
            normed: Some(normed),
            heads,
            context,
            residual,
            post_normed: Some(post_normed),
            gate,
            up,
            activated: Some(activated),
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
        let Segment {
            batch, rotation, ..
        } = segment;
        let (unnormed, [q, k, v]) = match &self.head_norms {
            None => (None, split_rotated([q, k, v], rotation, *batch)?),
            Some(norms) => {
                let heads = |x| split(x, *batch, self.head_dim)?.contiguous();
                let (q, k, v) = (heads(q)?, heads(k)?, heads(v)?);
                let turned = [
                    rope(&rms_norm(&q, &norms.query, self.eps)?, rotation)?,
                    rope(&rms_norm(&k, &norms.key, self.eps)?, rotation)?,
                    v,
                ];
                (Some((q, k)), turned)
            }
        };
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
}
