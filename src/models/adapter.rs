//! A LoRA adapter: low-rank changes to the linear maps of a model.

use super::{Model, ModelConfig, Projection};
use crate::backend::ops::linear::low_rank;
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// What a LoRA adapter changes, and how much.
///
/// `y = W x + scaling · B A x`, where `scaling` is `alpha / rank`, or `alpha / sqrt(rank)` for
/// rsLoRA. The defaults are those of Hugging Face's PEFT for `rank` and `alpha`, on all seven
/// projections as in mlx-lm. (mlx-lm's `scale` is `scaling` itself: its default of 20 at rank 8
/// is an `alpha` of 160.)
///
/// # Example
///
/// ```
/// use metal_candle::models::{LoRAConfig, Projection};
///
/// let config = LoRAConfig {
///     rank: 16,
///     alpha: 32.0,
///     ..LoRAConfig::default()
/// };
/// assert_eq!(config.scaling(), 2.0);
/// assert!(config.targets.contains(&Projection::Down));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LoRAConfig {
    /// Rank of the change, at least 1. Default 8.
    pub rank: usize,
    /// Strength of the change before division by the rank. Default 16.
    pub alpha: f64,
    /// Share of the branch's inputs that training drops, in [0, 1). Default 0.
    pub dropout: f64,
    /// Divide by the square root of the rank (Kalajdzievski, 2023,
    /// <https://arxiv.org/abs/2312.03732>). Default false.
    pub use_rslora: bool,
    /// The projections that are changed, in every layer. Default all.
    pub targets: BTreeSet<Projection>,
}

impl Default for LoRAConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            use_rslora: false,
            targets: Projection::ALL.into_iter().collect(),
        }
    }
}

impl LoRAConfig {
    /// The factor of the low-rank branch.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a rank fits f64")]
    pub fn scaling(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Checks the ranges of all fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the field and its range.
    pub fn validate(&self) -> Result<()> {
        if self.rank == 0 || self.rank > 4096 {
            return Err(Error::option("rank", self.rank, "1 to 4096"));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(Error::option("alpha", self.alpha, "a number above 0"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::option(
                "dropout",
                self.dropout,
                "0 or more and below 1",
            ));
        }
        if self.targets.is_empty() {
            return Err(Error::option(
                "target_modules",
                "empty",
                "at least one projection",
            ));
        }
        Ok(())
    }
}

/// The two matrices of one adapted projection, as views into the adapter's weights.
#[derive(Debug, Clone)]
pub(crate) struct LowRankPair {
    /// (rank, in)
    pub a: Tensor,
    /// (out, rank)
    pub b: Tensor,
    pub scaling: f64,
}

impl LowRankPair {
    pub(crate) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        low_rank(x, &self.a, &self.b, self.scaling)
    }
}

/// The adapted projections of one layer, by [`Projection`].
pub(crate) type LayerAdapter = [Option<LowRankPair>; 7];

/// Where one adapted projection lies in the flat vector of an adapter's weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub layer: usize,
    pub projection: Projection,
    pub rank: usize,
    pub input: usize,
    pub output: usize,
    /// Start of A; B follows it.
    pub offset: usize,
}

impl Slot {
    pub(crate) fn len(&self) -> usize {
        self.rank * (self.input + self.output)
    }

    /// `model.layers.{i}.self_attn.q_proj`
    pub(crate) fn module(&self) -> String {
        format!("model.layers.{}.{}", self.layer, self.projection.path())
    }
}

/// A LoRA adapter for one model: its configuration and its weights, in `f32` on the model's device.
///
/// All weights lie in one flat vector, so that an optimizer step is a handful of operations however
/// many layers there are. Adapters come from training or from a file
/// ([`LoRAAdapter::load`](crate::checkpoint)); a model is not changed by using one, so several can
/// serve at the same time.
#[derive(Debug, Clone)]
pub struct LoRAAdapter {
    config: LoRAConfig,
    base_model: String,
    slots: Vec<Slot>,
    weights: Tensor,
    layers: Vec<LayerAdapter>,
}

impl LoRAAdapter {
    /// A new adapter that changes nothing yet: A uniform in ±1/sqrt(in) as in PEFT and mlx-lm (the
    /// seed decides), B zero.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] where the configuration is out of range, [`Error::Backend`] where the
    /// device is out of memory.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::{LoRAAdapter, LoRAConfig, ModelLoader};
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let adapter = LoRAAdapter::new(LoRAConfig::default(), &model, 0)?;
    /// assert_eq!(adapter.parameter_count(), 233_472);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn new(config: LoRAConfig, model: &Model, seed: u64) -> Result<Self> {
        config.validate()?;
        let slots = slots(&config, model.config());
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut weights = Vec::with_capacity(slots.last().map_or(0, |s| s.offset + s.len()));
        for slot in &slots {
            #[allow(
                clippy::cast_precision_loss,
                reason = "a width is far below the 2^24 that f32 counts exactly"
            )]
            let bound = 1.0 / (slot.input as f32).sqrt();
            weights.extend((0..slot.rank * slot.input).map(|_| rng.random_range(-bound..bound)));
            weights.resize(slot.offset + slot.len(), 0f32);
        }
        let count = weights.len();
        let weights = Tensor::from_vec(weights, count, model.device())?;
        let base_model = model.path().to_string_lossy().into_owned();
        Self::from_weights(config, base_model, slots, weights)
    }

    /// An adapter over the given flat weights.
    pub(crate) fn from_weights(
        config: LoRAConfig,
        base_model: String,
        slots: Vec<Slot>,
        weights: Tensor,
    ) -> Result<Self> {
        debug_assert_eq!(weights.dtype(), DType::F32);
        let layers = views(&config, &slots, &weights)?;
        Ok(Self {
            config,
            base_model,
            slots,
            weights,
            layers,
        })
    }

    /// Replaces the weights, as an optimizer step does.
    pub(crate) fn set_weights(&mut self, weights: Tensor) -> Result<()> {
        self.layers = views(&self.config, &self.slots, &weights)?;
        self.weights = weights;
        Ok(())
    }

    /// What the adapter changes.
    #[must_use]
    pub fn config(&self) -> &LoRAConfig {
        &self.config
    }

    /// The name or path of the model that the adapter was made for.
    #[must_use]
    pub fn base_model(&self) -> &str {
        &self.base_model
    }

    /// The number of trainable parameters.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        self.weights.elem_count()
    }

    pub(crate) fn weights(&self) -> &Tensor {
        &self.weights
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(crate) fn layer(&self, index: usize) -> Option<&LayerAdapter> {
        self.layers.get(index)
    }

    /// Checks that the adapter was made for a model of this configuration.
    pub(crate) fn check(&self, model: &ModelConfig) -> Result<()> {
        if self.slots == slots(&self.config, model) {
            Ok(())
        } else {
            Err(Error::option(
                "adapter",
                "made for a model of another shape",
                "an adapter for this model",
            ))
        }
    }
}

/// The slots of an adapter, layer by layer.
pub(crate) fn slots(config: &LoRAConfig, model: &ModelConfig) -> Vec<Slot> {
    let mut offset = 0;
    let mut slots = Vec::with_capacity(model.num_hidden_layers * config.targets.len());
    for layer in 0..model.num_hidden_layers {
        for &projection in &config.targets {
            let (output, input) = projection.dims(model);
            let slot = Slot {
                layer,
                projection,
                rank: config.rank,
                input,
                output,
                offset,
            };
            offset += slot.len();
            slots.push(slot);
        }
    }
    slots
}

fn views(config: &LoRAConfig, slots: &[Slot], weights: &Tensor) -> Result<Vec<LayerAdapter>> {
    let mut layers: Vec<LayerAdapter> = vec![];
    for slot in slots {
        let (a_len, b_len) = (slot.rank * slot.input, slot.output * slot.rank);
        let pair = LowRankPair {
            a: weights
                .narrow(0, slot.offset, a_len)?
                .reshape((slot.rank, slot.input))?,
            b: weights
                .narrow(0, slot.offset + a_len, b_len)?
                .reshape((slot.output, slot.rank))?,
            scaling: config.scaling(),
        };
        if layers.len() <= slot.layer {
            layers.resize_with(slot.layer + 1, Default::default);
        }
        layers[slot.layer][slot.projection as usize] = Some(pair);
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::{device_kind, read};
    use crate::backend::{DTypePolicy, DeviceKind};
    use crate::models::testing::model;
    use candle_core::Device;

    fn adapter(device: DeviceKind, dtype: DTypePolicy) -> LoRAAdapter {
        let config = LoRAConfig {
            rank: 3,
            ..LoRAConfig::default()
        };
        LoRAAdapter::new(config, &model("qwen2_tied", device, dtype), 5).unwrap()
    }

    /// Asserts that A and B of every slot are the numbers at its place in `weights`.
    fn assert_views(adapter: &LoRAAdapter, weights: &[f64]) {
        assert_eq!(read(adapter.weights()), weights);
        let mut end = 0;
        for slot in adapter.slots() {
            assert_eq!(slot.offset, end);
            end += slot.len();
            let pair = adapter.layer(slot.layer).unwrap()[slot.projection as usize].as_ref();
            let LowRankPair { a, b, .. } = pair.unwrap();
            assert_eq!(a.dims(), &[slot.rank, slot.input]);
            assert_eq!(b.dims(), &[slot.output, slot.rank]);
            let middle = slot.offset + slot.rank * slot.input;
            assert_eq!(read(a), weights[slot.offset..middle], "{}", slot.module());
            assert_eq!(read(b), weights[middle..end], "{}", slot.module());
        }
        assert_eq!(end, adapter.parameter_count());
    }

    #[test]
    fn matrices_are_views_of_the_weights_on_every_device() {
        let here = adapter(DeviceKind::Cpu, DTypePolicy::F32);
        // An adapter is f32 beside a model of 16 bits, too.
        for dtype in [DTypePolicy::F32, DTypePolicy::Bf16] {
            let there = adapter(device_kind(), dtype);
            assert_eq!(there.weights().dtype(), DType::F32);
            assert_views(&there, &read(here.weights()));
        }
    }

    #[test]
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^24")]
    fn new_weights_are_not_those_of_a_clone() {
        let mut adapter = adapter(device_kind(), DTypePolicy::F32);
        let (clone, old) = (adapter.clone(), read(adapter.weights()));
        let new: Vec<f32> = (0..old.len()).map(|i| i as f32).collect();
        let new = Tensor::new(new, &Device::Cpu).unwrap();
        let device = adapter.weights().device().clone();
        adapter
            .set_weights(new.to_device(&device).unwrap())
            .unwrap();
        assert_views(&adapter, &read(&new));
        assert_views(&clone, &old);
    }

    #[test]
    fn options_out_of_range_are_named() {
        let check = |change: fn(&mut LoRAConfig), name: &str| {
            let mut config = LoRAConfig::default();
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        };
        check(|c| c.rank = 0, "`rank`");
        check(|c| c.alpha = f64::NAN, "`alpha`");
        check(|c| c.alpha = 0.0, "`alpha`");
        check(|c| c.dropout = 1.0, "`dropout`");
        check(|c| c.targets.clear(), "`target_modules`");
    }

    #[test]
    fn rslora_divides_by_the_root() {
        let config = LoRAConfig {
            rank: 16,
            alpha: 16.0,
            use_rslora: true,
            ..LoRAConfig::default()
        };
        assert!((config.scaling() - 4.0).abs() < 1e-12);
    }
}
