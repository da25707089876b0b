//! Causal attention with grouped key and value heads, over blocks of queries.
//!
//! Queries are taken in blocks, and each block sees only the keys that the causal mask and the
//! sliding window leave it. So the scores of a long sequence never exist at once, the masked half of
//! them is mostly not computed, and a single query needs no mask. The backward computes the
//! probabilities again (as in FlashAttention, Dao et al., 2022, <https://arxiv.org/abs/2205.14135>).

use super::batched::{times, times_transposed, transposed_times};
use crate::backend::kernels;
pub(crate) use crate::backend::kernels::oldest_seen;
use candle_core::{D, DType, Device, Result, Tensor};
use once_cell::sync::OnceCell;

/// Queries in one block.
const BLOCK: usize = 256;

/// The same on an NVIDIA GPU, where larger products are the faster ones.
const CUDA_BLOCK: usize = 512;

/// The score of a masked key. Finite, because fast-math on GPUs may do anything with infinities.
const MASKED: f32 = -1e30;

/// Which keys each query sees: made once per forward, shared by all layers with the same window.
#[derive(Debug)]
pub struct AttentionPlan {
    blocks: Vec<Block>,
    /// Whether a query sees all keys up to its own, whatever the window.
    sees_all: bool,
    window: Option<usize>,
}

#[derive(Debug)]
struct Block {
    /// First query, its position, and number of queries.
    start: usize,
    first: usize,
    len: usize,
    /// First visible key and number of visible keys.
    key_start: usize,
    key_len: usize,
    window: Option<usize>,
    device: Device,
    mask: OnceCell<Tensor>,
    #[cfg(feature = "cuda")]
    seen: kernels::cuda::Seen,
}

impl AttentionPlan {
    /// Queries at positions `offset .. offset + queries` over the keys from position 0 on.
    ///
    /// Query `i` sees keys `j <= i`, and with a window of `w` only those with `j > i - w`.
    ///
    /// # Errors
    ///
    /// When the device is out of memory.
    pub fn causal(
        offset: usize,
        queries: usize,
        window: Option<usize>,
        device: &Device,
    ) -> Result<Self> {
        let size = if device.is_cuda() { CUDA_BLOCK } else { BLOCK };
        let mut blocks = Vec::with_capacity(queries.div_ceil(size));
        for start in (0..queries).step_by(size) {
            let len = size.min(queries - start);
            let first = offset + start;
            let key_start = oldest_seen(first, window);
            blocks.push(Block {
                start,
                first,
                len,
                key_start,
                key_len: first + len - key_start,
                window,
                device: device.clone(),
                mask: OnceCell::new(),
                #[cfg(feature = "cuda")]
                seen: kernels::cuda::Seen {
                    queries: len,
                    newest: first - key_start,
                    window,
                },
            });
        }
        let sees_all = window.is_none_or(|window| window >= offset + queries);
        Ok(Self {
            blocks,
            sees_all,
            window,
        })
    }
}

/// `softmax(q kᵀ / sqrt(head_dim) + mask) v`.
///
/// `q` has shape (batch, heads, queries, `head_dim`), `k` and `v` (batch, `kv_heads`, keys,
/// `head_dim`); head `h` uses key head `h / (heads / kv_heads)`. The result has the shape of `q`.
/// Probabilities are computed in `f32`.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, plan: &AttentionPlan) -> Result<Tensor> {
    let groups = Groups::of(q, k)?;
    // One query reads keys and values once, so that packing them would take longer than it saves.
    if q.dim(2)? > 1 && [q, k, v].into_iter().all(kernels::takes_heads) {
        return kernels::attention(q, k, v, groups.scores(plan));
    }
    if let Some(output) = groups.at_once(q, k, v, plan)? {
        return Ok(output);
    }
    let mut outputs = Vec::with_capacity(plan.blocks.len());
    for block in &plan.blocks {
        let probabilities = groups.probabilities(q, k, block)?;
        let output = times(&probabilities.to_dtype(v.dtype())?, &block.keys(v)?)?;
        outputs.push(groups.split(&output, block.len)?);
    }
    match <[Tensor; 1]>::try_from(outputs) {
        Ok([single]) => Ok(single),
        Err(several) => Tensor::cat(&several, 2),
    }
}

/// The gradients of [`attention`] with respect to `q`, `k` and `v`, given its result and the
/// gradient of its result.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub fn attention_backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    plan: &AttentionPlan,
    output: &Tensor,
    doutput: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let groups = Groups::of(q, k)?;
    if [q, k, v, output, doutput]
        .into_iter()
        .all(kernels::takes_heads)
    {
        let scores = groups.scores(plan);
        return kernels::attention_backward([q, k, v], output, doutput, scores);
    }
    let dtype = q.dtype();
    let mut dqs = Vec::with_capacity(plan.blocks.len());
    let (mut dk, mut dv) = (None, None);
    for block in &plan.blocks {
        let probabilities = groups.probabilities(q, k, block)?;
        let doutput = groups.merge(&doutput.narrow(2, block.start, block.len)?)?;
        let output = groups.merge(&output.narrow(2, block.start, block.len)?)?;
        let value_part = transposed_times(&probabilities.to_dtype(dtype)?, &doutput)?;
        let dprobabilities = times_transposed(&doutput, &block.keys(v)?)?;
        // The gradient through the softmax: p · (dp - <p, dp>), where <p, dp> = <output, doutput>.
        let along = || {
            let along = (output.to_dtype(DType::F32)? * doutput.to_dtype(DType::F32)?)?;
            along.sum_keepdim(D::Minus1)
        };
        let dscores = groups.scores_gradient(probabilities, dprobabilities, along)?;
        dqs.push(groups.split(&times(&dscores, &block.keys(k)?)?, block.len)?);
        let queries = groups.merge(&q.narrow(2, block.start, block.len)?)?;
        let key_part = transposed_times(&dscores, &queries)?;
        let keys = k.dim(2)?;
        dk = Some(block.accumulate(dk, &key_part, keys)?);
        dv = Some(block.accumulate(dv, &value_part, keys)?);
    }
    let (Some(dk), Some(dv)) = (dk, dv) else {
        return Err(candle_core::Error::Msg(
            "attention without queries".to_owned(),
        ));
    };
    Ok((Tensor::cat(&dqs, 2)?, dk, dv))
}

impl Block {
    /// What is added to the scores, of shape (1, len, `key_len`), made when it is first needed; none
    /// where every query sees all.
    fn mask(&self) -> Result<Option<&Tensor>> {
        if self.len == 1 {
            return Ok(None);
        }
        let make = || {
            let end = self.first + self.len;
            let mask: Vec<f32> = (self.first..end)
                .flat_map(|query| {
                    (self.key_start..end).map(move |key| {
                        let seen = key <= query && key >= oldest_seen(query, self.window);
                        if seen { 0.0 } else { MASKED }
                    })
                })
                .collect();
            Tensor::from_vec(mask, (1, self.len, self.key_len), &self.device)
        };
        self.mask.get_or_try_init(make).map(Some)
    }

    fn keys(&self, k: &Tensor) -> Result<Tensor> {
        k.narrow(2, self.key_start, self.key_len)
    }

    /// Adds the gradient of this block's keys to that of all keys.
    fn accumulate(&self, sum: Option<Tensor>, part: &Tensor, keys: usize) -> Result<Tensor> {
        let after = keys - self.key_start - self.key_len;
        let padded = if self.key_start == 0 && after == 0 {
            part.clone()
        } else {
            part.pad_with_zeros(2, self.key_start, after)?
        };
        match sum {
            Some(sum) => sum + padded,
            None => Ok(padded),
        }
    }
}

/// How query heads share key heads: all heads of a group are stacked as further queries, so that
/// keys and values are never repeated.
struct Groups {
    batch: usize,
    kv_heads: usize,
    per_kv: usize,
    head_dim: usize,
    scale: f64,
}

impl Groups {
    #[allow(clippy::cast_precision_loss, reason = "a head dimension fits f64")]
    fn of(q: &Tensor, k: &Tensor) -> Result<Self> {
        let (batch, heads, _, head_dim) = q.dims4()?;
        let kv_heads = k.dim(1)?;
        Ok(Self {
            batch,
            kv_heads,
            per_kv: heads / kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
        })
    }

    fn scores(&self, plan: &AttentionPlan) -> kernels::Scores {
        kernels::Scores {
            scale: self.scale_f32(),
            window: plan.window,
        }
    }

    /// [`attention`] in one kernel of candle's, where the device has it: on Metal, with softmax and sums
    /// in `f32`. It knows of no window, so that one query's is a view of the keys, and several queries
    /// with one take the chain.
    fn at_once(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        plan: &AttentionPlan,
    ) -> Result<Option<Tensor>> {
        let is_one = q.dim(2)? == 1;
        let has_kernel = match self.head_dim {
            32 | 64 | 96 | 128 | 256 => true,
            // Its kernel for one query divides a head among 32 lanes.
            72 | 80 => !is_one,
            _ => false,
        };
        if !q.device().is_metal() || !has_kernel {
            return Ok(None);
        }
        let (k, v) = match &plan.blocks[..] {
            [block] if is_one => (block.keys(k)?, block.keys(v)?),
            _ if plan.sees_all && self.stays_within(q.dim(2)?, k.dim(2)?) => (k.clone(), v.clone()),
            _ => return Ok(None),
        };
        // It steps from key to key by their dimension, and to the next text of a batch by heads.
        let laid_out = |x: &Tensor| match *x.stride() {
            [texts, heads, keys, 1] if keys == self.head_dim && texts == heads * self.kv_heads => {
                Ok(x.clone())
            }
            _ => x.force_contiguous(),
        };
        let (q, k, v) = (q.contiguous()?, laid_out(&k)?, laid_out(&v)?);
        candle_nn::ops::sdpa(&q, &k, &v, None, !is_one, self.scale_f32(), 1.0).map(Some)
    }

    /// Whether candle's kernel for several queries ends with the last key. It goes on to the block of keys
    /// that the last of its 32 queries would see, were there so many.
    fn stays_within(&self, queries: usize, keys: usize) -> bool {
        let block = if self.head_dim < 128 { 32 } else { 16 };
        let seen = keys.saturating_sub(queries) + queries.next_multiple_of(32);
        seen.div_ceil(block) <= keys.div_ceil(block)
    }

    /// (batch, heads, len, d) to (batch, `kv_heads`, `per_kv` · len, d).
    fn merge(&self, x: &Tensor) -> Result<Tensor> {
        let len = x.dim(2)?;
        x.contiguous()?
            .reshape((self.batch, self.kv_heads, self.per_kv * len, self.head_dim))
    }

    /// The inverse of [`Self::merge`].
    fn split(&self, x: &Tensor, len: usize) -> Result<Tensor> {
        x.reshape((self.batch, self.kv_heads * self.per_kv, len, self.head_dim))
    }

    /// Probabilities in `f32`, or on an NVIDIA GPU rounded to the dtype of `q`, of shape (batch, `kv_heads`,
    /// `per_kv` · len, keys).
    fn probabilities(&self, q: &Tensor, k: &Tensor, block: &Block) -> Result<Tensor> {
        let queries = self.merge(&q.narrow(2, block.start, block.len)?)?;
        let keys = block.keys(k)?;
        if kernels::takes(&queries) {
            let scores = times_transposed(&queries, &keys)?;
            kernels::masked_softmax(&scores, block.mask()?, self.scale_f32())?;
            return Ok(scores);
        }
        #[cfg(feature = "cuda")]
        if queries.device().is_cuda() {
            let scores =
                kernels::cuda::product(&queries, &keys.t()?, self.scale_f32(), queries.dtype())?;
            kernels::cuda::attend(&scores, block.seen)?;
            return Ok(scores);
        }
        // Scaled before the product, which could overflow 16 bits.
        let scores = (queries * self.scale)?
            .matmul(&keys.t()?)?
            .to_dtype(DType::F32)?;
        let scores = match block.mask()? {
            None => scores,
            Some(mask) => {
                let rows = self.batch * self.kv_heads * self.per_kv;
                scores
                    .reshape((rows, block.len, block.key_len))?
                    .broadcast_add(mask)?
                    .reshape(scores.shape())?
            }
        };
        candle_nn::ops::softmax_last_dim(&scores)
    }

    /// The gradient of the scores from that of the probabilities: `p · (dp - <p, dp>)`.
    fn scores_gradient(
        &self,
        probabilities: Tensor,
        dprobabilities: Tensor,
        along: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        if kernels::takes(&dprobabilities) && kernels::takes(&probabilities) {
            let along = along()?;
            kernels::softmax_backward(&dprobabilities, &probabilities, &along, self.scale_f32())?;
            return Ok(dprobabilities);
        }
        #[cfg(feature = "cuda")]
        if dprobabilities.device().is_cuda() {
            let scale = self.scale_f32();
            kernels::cuda::attend_backward(&dprobabilities, &probabilities, scale)?;
            return Ok(dprobabilities);
        }
        let dtype = dprobabilities.dtype();
        let pulled = dprobabilities
            .to_dtype(DType::F32)?
            .broadcast_sub(&along()?)?;
        ((probabilities * pulled)? * self.scale)?.to_dtype(dtype)
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "a factor near 0.1 fits f32"
    )]
    fn scale_f32(&self) -> f32 {
        self.scale as f32
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, random};
    use super::*;

    /// Attention by its definition, a query at a time, in f64.
    fn naive(q: &Tensor, k: &Tensor, v: &Tensor, offset: usize, window: usize) -> Vec<f64> {
        let read = |t: &Tensor| {
            t.to_dtype(DType::F64)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f64>()
                .unwrap()
        };
        let (batch, heads, queries, d) = q.dims4().unwrap();
        let (kv_heads, keys) = (k.dim(1).unwrap(), k.dim(2).unwrap());
        let (q, k, v) = (read(q), read(k), read(v));
        let mut out = vec![];
        for (b, h, i) in (0..batch)
            .flat_map(|b| (0..heads).flat_map(move |h| (0..queries).map(move |i| (b, h, i))))
        {
            let row = |x: &[f64], head: usize, n: usize, of: usize, heads: usize| -> Vec<f64> {
                let start = ((b * heads + head) * of + n) * d;
                x[start..start + d].to_vec()
            };
            let query = row(&q, h, i, queries, heads);
            let kv = h / (heads / kv_heads);
            let seen: Vec<usize> = (0..keys)
                .filter(|&j| j <= offset + i && j + window > offset + i)
                .collect();
            let weights: Vec<f64> = seen
                .iter()
                .map(|&j| {
                    let key = row(&k, kv, j, keys, kv_heads);
                    let dot: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
                    (dot / f64::from(u32::try_from(d).unwrap()).sqrt()).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            for x in 0..d {
                out.push(
                    seen.iter()
                        .zip(&weights)
                        .map(|(&j, w)| w / total * row(&v, kv, j, keys, kv_heads)[x])
                        .sum(),
                );
            }
        }
        out
    }

    #[test]
    fn agrees_with_the_definition() {
        // (offset, queries, window), with several blocks in the last ones.
        for (offset, queries, window) in [
            (0, 5, None),
            (3, 4, None),
            (9, 1, Some(4)),
            (2, 7, Some(3)),
            (0, 300, Some(40)),
            (5, 513, None),
        ] {
            let q = random(&[2, 4, queries, 8], 1);
            let k = random(&[2, 2, offset + queries, 8], 2);
            let v = random(&[2, 2, offset + queries, 8], 3);
            let plan = AttentionPlan::causal(offset, queries, window, &Device::Cpu).unwrap();
            let found = attention(&q, &k, &v, &plan).unwrap();
            let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let expected = naive(&q, &k, &v, offset, window.unwrap_or(usize::MAX / 2));
            for (a, b) in found.iter().zip(expected) {
                assert!(
                    (f64::from(*a) - b).abs() < 1e-5,
                    "{offset} {queries} {window:?}"
                );
            }
        }
    }

    #[test]
    fn agrees_with_finite_differences() {
        for (queries, window) in [(6, None), (6, Some(3)), (260, Some(7))] {
            let q = random(&[2, 4, queries, 4], 1);
            let k = random(&[2, 2, queries, 4], 2);
            let v = random(&[2, 2, queries, 4], 3);
            let dy = random(&[2, 4, queries, 4], 4);
            let plan = AttentionPlan::causal(0, queries, window, &Device::Cpu).unwrap();
            let y = attention(&q, &k, &v, &plan).unwrap();
            let (dq, dk, dv) = attention_backward(&q, &k, &v, &plan, &y, &dy).unwrap();
            check("q", &q, &dq, &dy, |q| attention(q, &k, &v, &plan));
            check("k", &k, &dk, &dy, |k| attention(&q, k, &v, &plan));
            check("v", &v, &dv, &dy, |v| attention(&q, &k, v, &plan));
        }
    }
}
