//! Causal attention with grouped key and value heads, over blocks of queries.
//!
//! Queries are taken in blocks, and each block sees only the keys that the causal mask and the
//! sliding window leave it. So the scores of a long sequence never exist at once, the masked half of
//! them is mostly not computed, and a single query needs no mask. The backward computes the
//! probabilities again (as in FlashAttention, Dao et al., 2022, <https://arxiv.org/abs/2205.14135>).

use super::batched::{times, times_transposed, transposed_times};
use crate::backend::kernels;
use candle_core::{D, DType, Device, Result, Tensor};

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
}

#[derive(Debug)]
struct Block {
    /// First query and number of queries.
    start: usize,
    len: usize,
    /// First visible key and number of visible keys.
    key_start: usize,
    key_len: usize,
    /// What is added to the scores, of shape (1, len, `key_len`); none where every query sees all.
    mask: Option<Tensor>,
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
        let oldest = |position: usize| window.map_or(0, |w| (position + 1).saturating_sub(w));
        let size = if device.is_cuda() { CUDA_BLOCK } else { BLOCK };
        let mut blocks = Vec::with_capacity(queries.div_ceil(size));
        for start in (0..queries).step_by(size) {
            let len = size.min(queries - start);
            let first = offset + start;
            let key_start = oldest(first);
            let key_len = first + len - key_start;
            // There the kernel of the softmax knows what is seen.
            let mask = if len == 1 || device.is_cuda() {
                None
            } else {
                let mask: Vec<f32> = (first..first + len)
                    .flat_map(|query| {
                        (key_start..first + len).map(move |key| {
                            let seen = key <= query && key >= oldest(query);
                            if seen { 0.0 } else { MASKED }
                        })
                    })
                    .collect();
                Some(Tensor::from_vec(mask, (1, len, key_len), device)?)
            };
            blocks.push(Block {
                start,
                len,
                key_start,
                key_len,
                mask,
                #[cfg(feature = "cuda")]
                seen: kernels::cuda::Seen {
                    queries: len,
                    newest: first - key_start,
                    window,
                },
            });
        }
        Ok(Self { blocks })
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
            kernels::masked_softmax(&scores, block.mask.as_ref(), self.scale_f32())?;
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
        let scores = match &block.mask {
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
