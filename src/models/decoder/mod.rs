//! The one decoder-only transformer that every supported family is a configuration of.

mod adapted;
mod backward;
mod dropout;
#[cfg(any(
    feature = "cuda",
    feature = "metal",
    target_os = "macos",
    target_os = "ios"
))]
mod fused;
mod gradients;
mod layer;
mod linear;
mod place;
mod step;
mod weights;

pub(crate) use backward::{Objective, StepOptions, TokenBatch};
pub(crate) use dropout::Dropout;
pub(crate) use place::Place;

use super::adapter::{LayerAdapter, LoRAAdapter};
use super::{
    AdapterMix, KvCache, KvCacheType, ModelConfig, Projection, Quantization, WeightSource, rope,
};
use crate::backend::arena::Arena;
use crate::backend::device::completed;
use crate::backend::dtype::activations;
use crate::backend::ops::attention::AttentionPlan;
use crate::backend::ops::matrix::Matrix;
use crate::backend::ops::rms_norm::rms_norm;
use crate::backend::ops::rope::{RopeTable, Rotation};
use crate::error::Result;
use adapted::Adapted;
use candle_core::{DType, Device, Tensor};
use layer::{DecoderLayer, HeadNorms};
use linear::Linear;
use std::sync::Arc;

/// Token embedding, decoder layers, final norm and output head.
///
/// The weights are never written; a decoder can serve any number of callers at once, each with a
/// [`KvCache`] and perhaps a [`LoRAAdapter`] of its own.
#[derive(Debug, Clone)]
pub struct Decoder {
    config: ModelConfig,
    embedding: Matrix,
    layers: Vec<DecoderLayer>,
    norm: Tensor,
    /// The embedding itself where the two are tied.
    head: Matrix,
    rope: Arc<RopeTable>,
    dtype: DType,
    device: Device,
}

/// What all layers of one forward share: the tokens of one or more segments, one after the other.
struct Pass {
    segments: Vec<Segment>,
}

/// Tokens that see each other: sequences of one length, at the same positions.
struct Segment {
    /// Its first token among those of the forward.
    start: usize,
    batch: usize,
    len: usize,
    rotation: Rotation,
    /// One plan for each distinct window, with the window.
    plans: Vec<(Option<usize>, AttentionPlan)>,
}

impl Pass {
    fn of(segments: impl IntoIterator<Item = Segment>) -> Self {
        let mut segments: Vec<_> = segments.into_iter().collect();
        let mut start = 0;
        for segment in &mut segments {
            segment.start = start;
            start += segment.batch * segment.len;
        }
        Self { segments }
    }

    /// The rows of `x` that are the segment's.
    fn part(&self, segment: &Segment, x: &Tensor) -> candle_core::Result<Tensor> {
        match &self.segments[..] {
            [_] => Ok(x.clone()),
            _ => x.narrow(0, segment.start, segment.batch * segment.len),
        }
    }

    /// The inverse of [`Pass::part`] for all segments.
    fn join(parts: Vec<Tensor>) -> candle_core::Result<Tensor> {
        match <[Tensor; 1]>::try_from(parts) {
            Ok([single]) => Ok(single),
            Err(several) => Tensor::cat(&several, 0),
        }
    }
}

impl Segment {
    fn plan(&self, window: Option<usize>) -> candle_core::Result<&AttentionPlan> {
        self.plans
            .iter()
            .find(|(of, _)| *of == window)
            .map(|(_, plan)| plan)
            .ok_or_else(|| candle_core::Error::Msg("no attention plan for this window".to_owned()))
    }
}

/// New tokens of one sequence, the cache that they continue, and the adapter that acts on them.
pub(crate) struct Row<'a> {
    pub tokens: &'a [u32],
    pub cache: &'a mut KvCache,
    pub adapter: Option<&'a AdapterMix>,
}

impl Decoder {
    /// Builds the decoder from its weights, of which one is read at a time; `before` is called first
    /// and may end the work.
    ///
    /// Linear maps that are not stored in fewer bits are quantised where that is asked for. On the CPU
    /// matrices lie in the arena.
    pub(crate) fn new(
        config: ModelConfig,
        dtype: DType,
        device: &Device,
        quantization: Option<Quantization>,
        weights: &dyn WeightSource,
        arena: Arena,
        before: &mut dyn FnMut(Place) -> Result<()>,
    ) -> Result<Self> {
        let mut read = Reader {
            weights,
            before,
            dtype,
            device,
            arena,
        };
        let embedding = read.matrix(Place::Embedding, None)?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            let input_norm = read.vector(Place::InputNorm(index))?;
            let post_norm = read.vector(Place::PostNorm(index))?;
            let head_norms = if config.qk_norm {
                Some(HeadNorms {
                    query: read.vector(Place::QueryNorm(index))?,
                    key: read.vector(Place::KeyNorm(index))?,
                })
            } else {
                None
            };
            let mut linears = Vec::with_capacity(Projection::ALL.len());
            for projection in Projection::ALL {
                let weight = read.matrix(Place::Weight(index, projection), quantization)?;
                let bias = projection
                    .has_bias(&config)
                    .then(|| read.vector(Place::Bias(index, projection)))
                    .transpose()?;
                linears.push(Linear { weight, bias });
            }
            layers.push(DecoderLayer {
                input_norm,
                post_norm,
                head_norms,
                linears,
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
                eps: config.rms_norm_eps,
                window: config.sliding_windows.get(index).copied().flatten(),
                index,
            });
        }
        let norm = read.vector(Place::Norm)?;
        let head = if config.tie_word_embeddings {
            embedding.clone()
        } else {
            read.matrix(Place::Head, None)?
        };
        Ok(Self {
            embedding,
            layers,
            norm,
            head,
            rope: rope_table(&config, activations(dtype, device), device),
            dtype,
            device: device.clone(),
            config,
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The dtype of weights and caches. On the CPU activations are `f32` whatever it is, elsewhere they
    /// have it too.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dtype of activations, and of the weights that are vectors.
    pub(crate) fn activations(&self) -> DType {
        activations(self.dtype, &self.device)
    }

    /// How the weights of the linear maps are quantised: as the first of them that is in groups of MLX's
    /// kind, or none.
    #[must_use]
    pub fn quantization(&self) -> Option<Quantization> {
        let mut linears = self.layers.iter().flat_map(|layer| &layer.linears);
        linears.find_map(|linear| match &linear.weight {
            Matrix::Affine(weight) => Some(Quantization {
                bits: weight.bits(),
                group_size: weight.group_size(),
            }),
            _ => None,
        })
    }

    /// Whether a weight is kept in fewer bits than those of a float.
    #[must_use]
    pub fn is_quantized(&self) -> bool {
        let mut linears = self.layers.iter().flat_map(|layer| &layer.linears);
        self.embedding.is_quantized()
            || self.head.is_quantized()
            || linears.any(|linear| linear.weight.is_quantized())
    }

    /// The device that holds the weights.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// An empty cache for this decoder.
    #[must_use]
    pub fn new_cache(&self) -> KvCache {
        KvCache::new(&self.config, self.dtype, &self.device)
    }

    /// An empty cache for this decoder, of the given type.
    #[must_use]
    pub fn new_cache_of(&self, cache_type: KvCacheType) -> KvCache {
        KvCache::with_type(&self.config, self.dtype, &self.device, cache_type)
    }

    /// Hidden states of `tokens`, shape (batch, n) of dtype `u32`, as (batch, n, hidden), before the
    /// final norm. With a cache the tokens continue it; without one they start at position 0.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`](crate::Error::Backend) when the device fails.
    pub fn forward(
        &self,
        tokens: &Tensor,
        cache: Option<&mut KvCache>,
        adapter: Option<&LoRAAdapter>,
    ) -> Result<Tensor> {
        completed(&self.device, || self.forward_here(tokens, cache, adapter))
    }

    /// [`Decoder::forward`] as a part of a step of work.
    pub(crate) fn forward_here(
        &self,
        tokens: &Tensor,
        cache: Option<&mut KvCache>,
        adapter: Option<&LoRAAdapter>,
    ) -> Result<Tensor> {
        let (batch, len) = tokens.dims2()?;
        let offset = cache.as_ref().map_or(0, |cache| cache.len());
        let pass = Pass::of([self.segment(batch, len, offset)?]);
        let mut caches: Vec<_> = cache.into_iter().collect();
        let branches = Adapted::whole(adapter.map_or(&[], LoRAAdapter::layers));
        let x = self.layers(self.embed(tokens)?, &pass, &mut caches, &branches)?;
        Ok(x.reshape((batch, len, self.config.hidden_size))?)
    }

    /// Hidden states of several sequences' new tokens, as (all tokens, hidden), before the final
    /// norm: the projections take all tokens at once, and each sequence attends to its own cache.
    pub(crate) fn forward_rows(&self, rows: &mut [Row<'_>]) -> Result<Tensor> {
        let segment = |row: &Row| self.segment(1, row.tokens.len(), row.cache.len());
        let segments: Vec<_> = rows
            .iter()
            .map(segment)
            .collect::<candle_core::Result<_>>()?;
        let tokens: Vec<u32> = rows.iter().flat_map(|row| row.tokens).copied().collect();
        let x = self.embed(&Tensor::new(tokens, &self.device)?)?;
        let branches = Adapted::rows(rows.iter().map(|row| {
            let layers: &[LayerAdapter] = row.adapter.map_or(&[], AdapterMix::layers);
            (row.tokens.len(), layers)
        }));
        let mut caches: Vec<_> = rows.iter_mut().map(|row| &mut *row.cache).collect();
        self.layers(x, &Pass::of(segments), &mut caches, &branches)
    }

    fn layers(
        &self,
        mut x: Tensor,
        pass: &Pass,
        caches: &mut [&mut KvCache],
        adapted: &Adapted<'_>,
    ) -> Result<Tensor> {
        x = match self.step(&x, pass, caches, adapted)? {
            Some(output) => output,
            None => self.layer_by_layer(x, pass, caches, adapted)?,
        };
        for (cache, segment) in caches.iter_mut().zip(&pass.segments) {
            cache.advance(segment.len);
        }
        Ok(x)
    }

    fn layer_by_layer(
        &self,
        mut x: Tensor,
        pass: &Pass,
        caches: &mut [&mut KvCache],
        adapted: &Adapted<'_>,
    ) -> Result<Tensor> {
        #[cfg(any(
            feature = "cuda",
            feature = "metal",
            target_os = "macos",
            target_os = "ios"
        ))]
        let fused = fused::OneToken::new(self, &x, pass, caches, adapted)?;
        for layer in &self.layers {
            #[cfg(any(
                feature = "cuda",
                feature = "metal",
                target_os = "macos",
                target_os = "ios"
            ))]
            if let Some(output) = fused.layer(layer, &x, caches)? {
                x = output;
                continue;
            }
            x = layer.forward(&x, pass, caches, adapted)?.output;
        }
        Ok(x)
    }

    /// Logits in `f32` for hidden states of shape (n, hidden), as (n, vocabulary).
    ///
    /// # Errors
    ///
    /// [`Error::Backend`](crate::Error::Backend) when the device fails.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        completed(&self.device, || self.logits_here(hidden))
    }

    /// [`Decoder::logits`] as a part of a step of work.
    pub(crate) fn logits_here(&self, hidden: &Tensor) -> Result<Tensor> {
        #[cfg(any(
            feature = "cuda",
            feature = "metal",
            target_os = "macos",
            target_os = "ios"
        ))]
        if let Some(logits) = fused::logits(self, hidden)? {
            return Ok(logits);
        }
        let normed = self.normed(hidden)?;
        Ok(self.head.infer(&normed)?.to_dtype(DType::F32)?)
    }

    /// Hidden states of shape (n, hidden) after the final norm.
    pub(crate) fn normed(&self, hidden: &Tensor) -> Result<Tensor> {
        let eps = self.config.rms_norm_eps;
        Ok(rms_norm(&hidden.contiguous()?, &self.norm, eps)?)
    }

    /// The decoder with the adapter's change added to its weights.
    pub(crate) fn merge(&self, adapter: &AdapterMix) -> Result<Self> {
        let mut merged = self.clone();
        for (layer, branches) in merged.layers.iter_mut().zip(adapter.layers()) {
            for (projection, branch) in Projection::ALL.into_iter().zip(branches) {
                if let Some(branch) = branch {
                    let weight = branch.merged(&self.weight(layer.index, projection)?)?;
                    layer.linears[projection as usize].weight =
                        Matrix::Dense(weight.to_dtype(self.dtype)?);
                }
            }
        }
        Ok(merged)
    }

    /// Embeds tokens of any shape as (number of tokens, hidden).
    fn embed(&self, tokens: &Tensor) -> candle_core::Result<Tensor> {
        let ids = tokens.flatten_all()?.contiguous()?;
        self.embedding.rows(&ids, self.activations())
    }

    fn segment(&self, batch: usize, len: usize, offset: usize) -> candle_core::Result<Segment> {
        let mut plans: Vec<(Option<usize>, AttentionPlan)> = vec![];
        for &window in &self.config.sliding_windows {
            if plans.iter().all(|(of, _)| *of != window) {
                let plan = AttentionPlan::causal(offset, len, window, &self.device)?;
                plans.push((window, plan));
            }
        }
        Ok(Segment {
            start: 0,
            batch,
            len,
            rotation: self.rope.rotation(offset, len)?,
            plans,
        })
    }
}

/// Reads the weights of a decoder.
struct Reader<'a> {
    weights: &'a dyn WeightSource,
    before: &'a mut dyn FnMut(Place) -> Result<()>,
    dtype: DType,
    device: &'a Device,
    arena: Arena,
}

impl Reader<'_> {
    fn vector(&mut self, place: Place) -> Result<Tensor> {
        (self.before)(place)?;
        let dtype = activations(self.dtype, self.device);
        // Rounded like the other weights, however wide it is kept.
        let weight = self.weights.load(&place.name(), self.dtype, self.device)?;
        Ok(weight.to_dtype(dtype)?)
    }

    /// A matrix as it stays: quantised where that is asked for and it is not yet, and on the CPU in the arena.
    fn matrix(&mut self, place: Place, quantization: Option<Quantization>) -> Result<Matrix> {
        (self.before)(place)?;
        let name = place.name();
        let matrix = (self.weights).load_matrix(&name, self.dtype, self.device)?;
        let matrix = match (quantization, matrix) {
            (Some(quantization), Matrix::Dense(dense)) => quantization.apply(&dense)?,
            (_, matrix) => matrix,
        };
        Ok(matrix.moved(&mut |tensor| self.arena.place(tensor))?)
    }
}

fn rope_table(config: &ModelConfig, dtype: DType, device: &Device) -> Arc<RopeTable> {
    let (inv_freq, scale) = rope::frequencies(config);
    Arc::new(RopeTable::new(inv_freq, scale, dtype, device))
}
