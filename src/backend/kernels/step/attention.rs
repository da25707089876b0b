//! Attention of a few tokens to a cache, which is read in place.
//!
//! Keys are taken in splits, so that there is work for all threads however few heads there are; what the
//! splits of a head found is put together by whoever needs it (as in Flash-Decoding, Dao et al., 2023,
//! <https://pytorch.org/blog/flash-decoding/>).

use super::input::{Input, rms_norm};
use super::shared::Shared;
use super::{Layer, Sequence, Sizes, Step};
use crate::backend::kernels::dot::{MASKED, Numbers, add_weighted, dots, exponentials};
use crate::backend::kernels::oldest_seen;
use std::ops::Range;

/// Keys of one split.
const SPLIT: usize = 128;

/// How the work of attention is cut.
pub(super) struct Attention<'a> {
    sizes: Sizes,
    sequences: &'a [Sequence<'a>],
    /// Of all sequences.
    tokens: usize,
    /// The most splits of a sequence.
    splits: usize,
    /// 1 / sqrt(`head_dim`)
    scale: f32,
}

/// What a thread computes with.
#[derive(Default)]
pub(super) struct Scratch {
    queries: Vec<f32>,
    keys: Vec<f32>,
    scores: Vec<f32>,
    best: Vec<f32>,
    sums: Vec<f32>,
    values: Vec<f32>,
}

fn splits(sequence: &Sequence<'_>) -> usize {
    sequence.held.div_ceil(SPLIT).max(1)
}

impl<'a> Attention<'a> {
    #[allow(clippy::cast_precision_loss, reason = "a head dimension fits f32")]
    pub fn new(step: &'a Step<'_>) -> Self {
        Self {
            sizes: step.sizes,
            sequences: &step.sequences,
            tokens: step.sequences.iter().map(|s| s.tokens.len()).sum(),
            splits: step.sequences.iter().map(splits).max().unwrap_or(1),
            scale: 1.0 / (step.sizes.head_dim as f32).sqrt(),
        }
    }

    /// The numbers that splits leave: for each token, head and split the largest score, the sum of the
    /// exponentials, and the sum of the values.
    pub fn parts(&self) -> usize {
        self.tokens * self.sizes.heads * self.splits * (self.sizes.head_dim + 2)
    }

    fn part(&self, token: usize, head: usize, split: usize) -> Range<usize> {
        let size = self.sizes.head_dim + 2;
        let start = ((token * self.sizes.heads + head) * self.splits + split) * size;
        start..start + size
    }

    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.sizes.heads / self.sizes.kv_heads
    }

    /// A head of a token, of its queries, keys and values one after the other.
    fn head<'p>(&self, projected: &'p [f32], token: usize, head: usize) -> &'p [f32] {
        let size = self.sizes.head_dim;
        &projected[token * self.sizes.projected() + head * size..][..size]
    }

    /// The value of a token for a key head.
    fn value<'p>(&self, projected: &'p [f32], token: usize, kv_head: usize) -> &'p [f32] {
        let Sizes {
            heads, kv_heads, ..
        } = self.sizes;
        self.head(projected, token, heads + kv_heads + kv_head)
    }

    /// Chunks of the work: a split of the heads that share a key head.
    pub fn chunks(&self) -> usize {
        self.sequences.iter().map(splits).sum::<usize>() * self.sizes.kv_heads
    }

    /// One of them. `projected` has queries, keys and values of each token, before norms and rotation; the
    /// keys and values to keep are written to `new`.
    pub fn chunk(
        &self,
        chunk: usize,
        layer: &Layer<'_>,
        projected: &[f32],
        parts: &Shared<'_>,
        new: (&Shared<'_>, usize),
        scratch: &mut Scratch,
    ) {
        let (mut chunk, kv_heads) = (chunk, self.sizes.kv_heads);
        for (sequence, cache) in self.sequences.iter().zip(&layer.caches) {
            let chunks = splits(sequence) * kv_heads;
            if chunk < chunks {
                let (split, head) = (chunk / kv_heads, chunk % kv_heads);
                self.rotate(sequence, layer, head, projected, scratch);
                if split == 0 {
                    self.keep(sequence, head, projected, new, scratch);
                }
                let size = self.sizes.head_dim;
                let at = |position: usize| (head * cache.capacity + position) * size;
                let oldest = |token: usize| oldest_seen(sequence.held + token, layer.window);
                let first = (split * SPLIT).max(oldest(0)).min(sequence.held);
                let end = ((split + 1) * SPLIT).min(sequence.held).max(first);
                let keys = cache.keys.part(at(first)..at(end));
                let values = cache.values.part(at(first)..at(end));
                let is_last = split + 1 == splits(sequence);
                let seen = Seen {
                    first,
                    held: end - first,
                    is_last,
                    oldest: &oldest,
                };
                self.attend(sequence, head, keys, values, &seen, projected, scratch);
                self.leave(sequence, head, split, parts, scratch);
                return;
            }
            chunk -= chunks;
        }
    }

    /// The heads of a group and their key, normed and rotated; queries scaled.
    fn rotate(
        &self,
        sequence: &Sequence<'_>,
        layer: &Layer<'_>,
        kv_head: usize,
        projected: &[f32],
        scratch: &mut Scratch,
    ) {
        let (group, size) = (self.group(), self.sizes.head_dim);
        let norms = layer.head_norms;
        scratch
            .queries
            .resize(sequence.tokens.len() * group * size, 0.0);
        scratch.keys.resize(sequence.tokens.len() * size, 0.0);
        let queries = scratch.queries.chunks_exact_mut(group * size);
        let keys = scratch.keys.chunks_exact_mut(size);
        for ((index, token), (queries, key)) in
            sequence.tokens.clone().enumerate().zip(queries.zip(keys))
        {
            let angles = index * size / 2..(index + 1) * size / 2;
            let (cos, sin) = (&sequence.cos[angles.clone()], &sequence.sin[angles]);
            let rotate = |x: &[f32], norm: Option<&[f32]>, scale: f32, y: &mut [f32]| {
                match norm {
                    Some(norm) => rms_norm(x, norm, layer.eps, y),
                    None => y.copy_from_slice(x),
                }
                let (low, high) = y.split_at_mut(size / 2);
                for ((low, high), (cos, sin)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
                    let (a, b) = (*low, *high);
                    *low = (a * cos - b * sin) * scale;
                    *high = (b * cos + a * sin) * scale;
                }
            };
            for (index, y) in queries.chunks_exact_mut(size).enumerate() {
                let x = self.head(projected, token, kv_head * group + index);
                rotate(x, norms.map(|norms| norms.0), self.scale, y);
            }
            let x = self.head(projected, token, self.sizes.heads + kv_head);
            rotate(x, norms.map(|norms| norms.1), 1.0, key);
        }
    }

    /// Writes the new keys and values of a key head to where the caller finds them.
    fn keep(
        &self,
        sequence: &Sequence<'_>,
        kv_head: usize,
        projected: &[f32],
        (new, start): (&Shared<'_>, usize),
        scratch: &Scratch,
    ) {
        let (kv_heads, size) = (self.sizes.kv_heads, self.sizes.head_dim);
        for (token, key) in sequence.tokens.clone().zip(scratch.keys.chunks_exact(size)) {
            let value = self.value(projected, token, kv_head);
            for (what, numbers) in [key, value].into_iter().enumerate() {
                let at = start + ((what * self.tokens + token) * kv_heads + kv_head) * size;
                // SAFETY: only the first split of this sequence's key head writes here, and nobody reads
                // before all is over.
                unsafe { new.write(at..at + size) }.copy_from_slice(numbers);
            }
        }
    }

    /// Scores, their exponentials, and the sums of values, of one split.
    #[allow(clippy::too_many_arguments, reason = "they are what the split is")]
    fn attend(
        &self,
        sequence: &Sequence<'_>,
        kv_head: usize,
        keys: Numbers<'_>,
        values: Numbers<'_>,
        seen: &Seen<'_>,
        projected: &[f32],
        scratch: &mut Scratch,
    ) {
        let (group, size) = (self.group(), self.sizes.head_dim);
        let new = if seen.is_last {
            sequence.tokens.len()
        } else {
            0
        };
        let count = sequence.tokens.len() * group;
        let Scratch {
            queries,
            keys: new_keys,
            scores,
            best,
            sums,
            values: found,
        } = scratch;
        let keys_seen = seen.held + new;
        scores.resize(count * keys_seen, 0.0);
        dots(keys, size, queries, scores, keys_seen);
        if let Some(scores) = scores.get_mut(seen.held..) {
            let new_keys = Numbers::F32(&new_keys[..new * size]);
            dots(new_keys, size, queries, scores, keys_seen);
        }
        best.clear();
        sums.clear();
        if keys_seen > 0 {
            for (index, scores) in scores.chunks_exact_mut(keys_seen).enumerate() {
                let token = index / group;
                let oldest = (seen.oldest)(token);
                let (of_held, of_new) = scores.split_at_mut(seen.held);
                let hidden = oldest.saturating_sub(seen.first).min(seen.held);
                of_held[..hidden].fill(MASKED);
                if new > 0 {
                    let hidden = oldest.saturating_sub(sequence.held).min(new);
                    of_new[..hidden].fill(MASKED);
                    of_new[token + 1..].fill(MASKED);
                }
                let (largest, sum) = exponentials(scores);
                best.push(largest);
                sums.push(sum);
            }
        } else {
            best.resize(count, MASKED);
            sums.resize(count, 0.0);
        }
        found.clear();
        found.resize(count * size, 0.0);
        add_weighted(values, size, scores, keys_seen, found);
        let new_tokens = sequence.tokens.clone().take(new).enumerate();
        for (index, token) in new_tokens {
            let value = Numbers::F32(self.value(projected, token, kv_head));
            add_weighted(value, size, &scores[seen.held + index..], keys_seen, found);
        }
    }

    fn leave(
        &self,
        sequence: &Sequence<'_>,
        kv_head: usize,
        split: usize,
        parts: &Shared<'_>,
        scratch: &Scratch,
    ) {
        let (group, size) = (self.group(), self.sizes.head_dim);
        let found = scratch.values.chunks_exact(size);
        let of = scratch.best.iter().zip(&scratch.sums).zip(found);
        for (index, ((best, sum), values)) in of.enumerate() {
            let token = sequence.tokens.start + index / group;
            let part = self.part(token, kv_head * group + index % group, split);
            // SAFETY: each chunk writes the parts of its split and heads, and nobody reads before the
            // phase is over.
            let part = unsafe { parts.write(part) };
            if let [to_best, to_sum, to_values @ ..] = part {
                (*to_best, *to_sum) = (*best, *sum);
                to_values.copy_from_slice(values);
            }
        }
    }

    /// The result of the attention, (tokens, heads · `head_dim`).
    pub fn context(&self, parts: &[f32], context: &mut Input) {
        let Sizes {
            heads,
            head_dim: size,
            ..
        } = self.sizes;
        context.set(self.tokens, heads * size, |context| {
            for sequence in self.sequences {
                for token in sequence.tokens.clone() {
                    for head in 0..heads {
                        let y = &mut context[(token * heads + head) * size..][..size];
                        let parts = (0..splits(sequence))
                            .map(|split| &parts[self.part(token, head, split)]);
                        together(parts, y);
                    }
                }
            }
        });
    }
}

/// What a split sees.
struct Seen<'a> {
    /// The position of its first key in the cache, and how many it has there.
    first: usize,
    held: usize,
    /// Whether the new tokens are among its keys.
    is_last: bool,
    /// The first position that a token sees.
    oldest: &'a dyn Fn(usize) -> usize,
}

/// The mean of the values in all splits of a head.
fn together<'a>(parts: impl Iterator<Item = &'a [f32]> + Clone, y: &mut [f32]) {
    let best = parts.clone().map(|part| part[0]).fold(MASKED, f32::max);
    let mut total = 0.0;
    y.fill(0.0);
    for part in parts {
        if let [own, sum, values @ ..] = part {
            let factor = (own - best).exp();
            total += sum * factor;
            for (y, value) in y.iter_mut().zip(values) {
                *y += value * factor;
            }
        }
    }
    for y in y {
        *y /= total;
    }
}
