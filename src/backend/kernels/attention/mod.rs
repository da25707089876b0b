//! Causal attention on the CPU, a few queries at a time.
//!
//! Keys and values are packed once, to panels that the innermost loop of the matrix products reads. Then a
//! task takes as many queries as that loop has rows, and computes their scores, softmax and result while they
//! are in its caches; keys that none of them sees are left out. The backward computes the scores again, for
//! enough queries that sums over them are worth while (the idea of `FlashAttention`, Dao et al., 2022,
//! <https://arxiv.org/abs/2205.14135>).
//!
//! All numbers are `f32`. The heads that share keys are stacked: of row `r` the query is `r / per_kv`.

#![allow(unsafe_code, reason = "panels are packed and read through pointers")]
#![allow(
    clippy::inline_always,
    reason = "what is inlined is compiled for the processor of its caller"
)]

mod backward;
mod forward;
mod panels;
#[cfg(test)]
mod tests;

use super::gemm::Instructions;
use super::gemm::shared::Shared;
use super::heads::{Heads, heads_of};
use super::oldest_seen;
use candle_core::{Result, Tensor, bail};
use std::ops::Range;

/// What [`attention`] is to compute besides its operands.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend) struct Scores {
    /// The factor of the products of queries and keys.
    pub scale: f32,
    /// How many keys, its own included, a query sees at most.
    pub window: Option<usize>,
}

/// `softmax(scale · q kᵀ + mask) v`, for `q` of shape (batch, heads, queries, dim), and `k` and `v` of shape
/// (batch, `kv_heads`, keys, dim): the last query sees the last key. The result, shaped as `q`, lies in memory
/// as (batch, queries, heads, dim).
pub(in crate::backend) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scores: Scores,
) -> Result<Tensor> {
    let sizes = Sizes::of(q, k, v, scores)?;
    let mut result = vec![0f32; sizes.batch * sizes.queries * sizes.heads() * sizes.dim];
    let guards = [q, k, v].map(Tensor::storage_and_layout);
    let [q, k, v] = [
        Heads::of(&guards[0].0, guards[0].1)?,
        Heads::of(&guards[1].0, guards[1].1)?,
        Heads::of(&guards[2].0, guards[2].1)?,
    ];
    forward::compute(Instructions::best(), &sizes, [q, k, v], &mut result);
    heads_of(
        result,
        [sizes.batch, sizes.queries, sizes.heads(), sizes.dim],
    )
}

/// The gradients of `q`, `k` and `v` in [`attention`] for that of its result, all of which lie in memory as
/// its result does.
pub(in crate::backend) fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    output: &Tensor,
    doutput: &Tensor,
    scores: Scores,
) -> Result<(Tensor, Tensor, Tensor)> {
    let sizes = Sizes::of(q, k, v, scores)?;
    if output.dims() != q.dims() || doutput.dims() != q.dims() {
        bail!("attention of {:?} has another result", q.dims());
    }
    let of_queries = sizes.batch * sizes.queries * sizes.heads() * sizes.dim;
    let of_keys = sizes.batch * sizes.keys * sizes.kv_heads * sizes.dim;
    let mut gradients = [of_queries, of_keys, of_keys].map(|len| vec![0f32; len]);
    let guards = [q, k, v, output, doutput].map(Tensor::storage_and_layout);
    let heads = |index: usize| Heads::of(&guards[index].0, guards[index].1);
    let operands = backward::Operands {
        queries: heads(0)?,
        keys: heads(1)?,
        values: heads(2)?,
        output: heads(3)?,
        doutput: heads(4)?,
    };
    backward::compute(Instructions::best(), &sizes, &operands, &mut gradients);
    let [dq, dk, dv] = gradients;
    let of_keys = [sizes.batch, sizes.keys, sizes.kv_heads, sizes.dim];
    Ok((
        heads_of(dq, [sizes.batch, sizes.queries, sizes.heads(), sizes.dim])?,
        heads_of(dk, of_keys)?,
        heads_of(dv, of_keys)?,
    ))
}

/// How much there is of everything.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    kv_heads: usize,
    /// Heads that share keys and values.
    per_kv: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    scores: Scores,
}

impl Sizes {
    fn of(q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores) -> Result<Self> {
        let (batch, heads, queries, dim) = q.dims4()?;
        let (_, kv_heads, keys, _) = k.dims4()?;
        let of_keys = [batch, kv_heads, keys, dim];
        let fits = k.dims() == of_keys && v.dims() == of_keys && queries <= keys;
        if !fits || kv_heads == 0 || !heads.is_multiple_of(kv_heads) || dim == 0 {
            bail!(
                "no attention of {:?} to {:?} and {:?}",
                q.dims(),
                k.dims(),
                v.dims()
            );
        }
        Ok(Self {
            batch,
            kv_heads,
            per_kv: heads / kv_heads,
            queries,
            keys,
            dim,
            scores,
        })
    }

    fn heads(&self) -> usize {
        self.kv_heads * self.per_kv
    }

    /// The stacked rows of a key head.
    fn rows(&self) -> usize {
        self.queries * self.per_kv
    }

    /// The keys that a row sees.
    fn seen(&self, row: usize) -> Range<usize> {
        let position = self.keys - self.queries + row / self.per_kv;
        oldest_seen(position, self.scores.window)..position + 1
    }

    /// The keys that some rows see.
    fn seen_by(&self, rows: &Range<usize>) -> Range<usize> {
        self.seen(rows.start).start..self.seen(rows.end - 1).end
    }

    /// The place of a row of a key head in numbers that lie as (batch, queries, heads, dim).
    fn place(&self, text: usize, kv_head: usize, row: usize) -> usize {
        let (query, head) = (row / self.per_kv, kv_head * self.per_kv + row % self.per_kv);
        ((text * self.queries + query) * self.heads() + head) * self.dim
    }
}

/// The stacked row of a key head.
fn stacked<'a>(
    heads: &Heads<'a>,
    sizes: &Sizes,
    [text, kv_head]: [usize; 2],
    row: usize,
) -> &'a [f32] {
    let head = kv_head * sizes.per_kv + row % sizes.per_kv;
    heads.row(text, head, row / sizes.per_kv)
}

/// Rows of the largest tile, at most.
const MOST_ROWS: usize = 16;

/// Numbers that tasks write their parts of.
fn shared(numbers: &mut [f32]) -> Shared {
    Shared(numbers.as_mut_ptr())
}
