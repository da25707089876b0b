//! A LoRA adapter: low-rank changes to the linear maps of a model.

use super::{Decoder, LoRAConfig, Model, ModelConfig, Projection};
use crate::backend::device::completed;
use crate::backend::ops::linear::LowRank;
use crate::backend::room::{self, TRAINED_BYTES};
use crate::error::{Error, Result};
use candle_core::{D, DType, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The change of one linear map: `row_scale ∘ (W x) + scaling · B A x`.
#[derive(Debug, Clone)]
pub(crate) struct Branch {
    /// (rank, in)
    pub a: Tensor,
    /// (out, rank); for `DoRA` with the rows scaled already.
    pub b: Tensor,
    /// A, B and the factors of the rows, one after the other; A and B are views of it.
    pub packed: Tensor,
    pub scaling: f64,
    /// Factor of each of the map's outputs, (out), where it is not 1.
    pub row_scale: Option<Tensor>,
    /// What training needs besides, for `DoRA`.
    pub dora: Option<Dora>,
    /// A and B in 16 bits, where products are computed with such.
    pub rounded: Option<[Tensor; 2]>,
}

/// `DoRA` writes a weight as the lengths of its rows times their directions, `m ∘ V / ‖V‖` with
/// `V = W + scaling · B A`: `row_scale` is `m / ‖V‖`.
#[derive(Debug, Clone)]
pub(crate) struct Dora {
    /// B itself, (out, rank).
    pub b: Tensor,
    /// `‖V‖`, (out).
    pub norm: Tensor,
}

impl Branch {
    /// A branch over A and B, of the given shapes, in one vector.
    pub(super) fn new(
        packed: Tensor,
        [output, rank, input]: [usize; 3],
        scaling: f64,
    ) -> Result<Self> {
        let [a, b] = factors(&packed, [output, rank, input])?;
        Ok(Self {
            a,
            b,
            packed,
            scaling,
            row_scale: None,
            dora: None,
            rounded: None,
        })
    }

    /// A branch that scales the rows of the map, too.
    pub(super) fn packing(
        a: &Tensor,
        b: &Tensor,
        scaling: f64,
        row_scale: Option<Tensor>,
    ) -> Result<Self> {
        let mut parts = vec![a.flatten_all()?, b.flatten_all()?];
        parts.extend(row_scale.clone());
        let ((rank, input), output) = (a.dims2()?, b.dim(0)?);
        Ok(Self {
            row_scale,
            ..Self::new(Tensor::cat(&parts, 0)?, [output, rank, input], scaling)?
        })
    }

    /// The same with the lengths of the rows of `weight` changed to `magnitude`.
    fn with_magnitude(self, weight: &Tensor, magnitude: &Tensor) -> Result<Self> {
        let change = (self.b.matmul(&self.a)? * self.scaling)?;
        self.with_row_norms(row_norms(&(weight + change)?)?, magnitude)
    }

    fn with_row_norms(self, norm: Tensor, magnitude: &Tensor) -> Result<Self> {
        let row_scale = (magnitude / &norm)?;
        let b = self.b.broadcast_mul(&row_scale.unsqueeze(1)?)?;
        Ok(Self {
            dora: Some(Dora { b: self.b, norm }),
            ..Self::packing(&self.a, &b, self.scaling, Some(row_scale))?
        })
    }

    pub(super) fn low_rank(&self) -> LowRank<'_> {
        LowRank {
            a: &self.a,
            b: &self.b,
            packed: &self.packed,
            scaling: self.scaling,
            row_scale: self.row_scale.as_ref(),
            rounded: self.rounded.as_ref(),
        }
    }

    /// The weight with the change added, in `f32`.
    pub(super) fn merged(&self, weight: &Tensor) -> Result<Tensor> {
        let change = (self.b.matmul(&self.a)? * self.scaling)?;
        Ok(match &self.row_scale {
            None => (weight + change)?,
            Some(scale) => (weight.broadcast_mul(&scale.unsqueeze(1)?)? + change)?,
        })
    }
}

/// A and B, views of the vector that they are packed in.
fn factors(packed: &Tensor, [output, rank, input]: [usize; 3]) -> Result<[Tensor; 2]> {
    let a_len = rank * input;
    let a = packed.narrow(0, 0, a_len)?.reshape((rank, input))?;
    let b = packed.narrow(0, a_len, output * rank)?;
    Ok([a, b.reshape((output, rank))?])
}

fn row_norms(weight: &Tensor) -> Result<Tensor> {
    Ok(weight.sqr()?.sum(D::Minus1)?.sqrt()?)
}

/// The adapted projections of one layer, by [`Projection`].
pub(crate) type LayerAdapter = [Option<Branch>; 7];

/// Where one adapted projection lies in the flat vector of an adapter's weights: A, then B, then for
/// `DoRA` the magnitudes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub layer: usize,
    pub projection: Projection,
    pub rank: usize,
    pub input: usize,
    pub output: usize,
    pub has_magnitude: bool,
    /// Start of A.
    pub offset: usize,
}

/// A matrix or vector of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    A,
    B,
    Magnitude,
}

impl Slot {
    pub(crate) fn len(&self) -> usize {
        let magnitudes = if self.has_magnitude { self.output } else { 0 };
        self.rank * (self.input + self.output) + magnitudes
    }

    /// The parts in their order, with offset and shape.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Part, usize, Vec<usize>)> {
        let b = self.offset + self.rank * self.input;
        let magnitude = b + self.output * self.rank;
        let magnitude = (Part::Magnitude, magnitude, vec![self.output]);
        [
            (Part::A, self.offset, vec![self.rank, self.input]),
            (Part::B, b, vec![self.output, self.rank]),
        ]
        .into_iter()
        .chain(self.has_magnitude.then_some(magnitude))
    }

    /// `model.layers.{i}.self_attn.q_proj`
    pub(crate) fn module(&self) -> String {
        self.projection.module(self.layer)
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
    /// seed decides), B zero, the magnitudes of `DoRA` those of the model's weights.
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
        let slots = slots(&config, model.config())?;
        let count = slots.last().map_or(0, |s| s.offset + s.len());
        room::check(model.device(), count, TRAINED_BYTES, "the adapter to train")?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut weights = Vec::with_capacity(count);
        for slot in &slots {
            #[allow(
                clippy::cast_precision_loss,
                reason = "a width is far below the 2^24 that f32 counts exactly"
            )]
            let bound = 1.0 / (slot.input as f32).sqrt();
            weights.extend((0..slot.rank * slot.input).map(|_| rng.random_range(-bound..bound)));
            let with_b = weights.len() + slot.output * slot.rank;
            weights.resize(with_b, 0f32);
            if slot.has_magnitude {
                let norms = completed(model.device(), || {
                    let weight = model.decoder().weight(slot.layer, slot.projection)?;
                    Ok(row_norms(&weight)?.to_vec1::<f32>()?)
                })?;
                weights.extend(norms);
            }
        }
        let count = weights.len();
        let weights = Tensor::from_vec(weights, count, model.device())?;
        let base_model = model.path().to_string_lossy().into_owned();
        Self::from_weights(config, base_model, slots, weights, model.decoder())
    }

    /// An adapter over the given flat weights, for the model of `decoder`.
    pub(crate) fn from_weights(
        config: LoRAConfig,
        base_model: String,
        slots: Vec<Slot>,
        weights: Tensor,
        decoder: &Decoder,
    ) -> Result<Self> {
        debug_assert_eq!(weights.dtype(), DType::F32);
        let layers = completed(weights.device(), || {
            branches(&config, &slots, &weights, decoder)
        })?;
        Ok(Self {
            config,
            base_model,
            slots,
            weights,
            layers,
        })
    }

    /// Replaces the weights, as an optimizer step does.
    pub(crate) fn set_weights(&mut self, weights: Tensor, decoder: &Decoder) -> Result<()> {
        self.layers = completed(weights.device(), || {
            branches(&self.config, &self.slots, &weights, decoder)
        })?;
        self.weights = weights;
        Ok(())
    }

    /// Replaces the weights while the norms of `DoRA` stay those of another adapter.
    #[cfg(test)]
    pub(crate) fn set_weights_with_norms_of(
        &mut self,
        weights: Tensor,
        other: &Self,
    ) -> Result<()> {
        for slot in &self.slots {
            let packed_len = slot.rank * (slot.input + slot.output);
            let packed = weights.narrow(0, slot.offset, packed_len)?;
            let magnitude = weights.narrow(0, slot.offset + packed_len, slot.output)?;
            let place = |adapter: &Self| {
                let branch = adapter.layers[slot.layer][slot.projection as usize].clone();
                branch.and_then(|branch| branch.dora)
            };
            let norm = place(other).map(|dora| dora.norm);
            let norm = norm.ok_or_else(|| Error::option("adapter", "LoRA", "DoRA"))?;
            let shape = [slot.output, slot.rank, slot.input];
            let branch = Branch::new(packed, shape, self.config.scaling())?;
            self.layers[slot.layer][slot.projection as usize] =
                Some(branch.with_row_norms(norm, &magnitude)?);
        }
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

    /// By layer, up to the last one that is changed.
    pub(crate) fn layers(&self) -> &[LayerAdapter] {
        &self.layers
    }

    /// Checks that the adapter was made for a model of this configuration.
    pub(crate) fn check(&self, model: &ModelConfig) -> Result<()> {
        if slots(&self.config, model).is_ok_and(|slots| slots == self.slots) {
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
pub(crate) fn slots(config: &LoRAConfig, model: &ModelConfig) -> Result<Vec<Slot>> {
    let mut offset = 0;
    let slot = |(layer, projection): (usize, Projection)| {
        let (output, input) = projection.dims(model);
        let slot = Slot {
            layer,
            projection,
            rank: config.rank,
            input,
            output,
            has_magnitude: config.use_dora,
            offset,
        };
        offset += slot.len();
        slot
    };
    Ok(config.modules(model)?.into_iter().map(slot).collect())
}

fn branches(
    config: &LoRAConfig,
    slots: &[Slot],
    weights: &Tensor,
    decoder: &Decoder,
) -> Result<Vec<LayerAdapter>> {
    let mut layers: Vec<LayerAdapter> = vec![];
    // NVIDIA's GPUs multiply 16 bits some ten times as fast as 32, and add up in 32.
    let in_16_bits = weights.device().is_cuda() && decoder.dtype() != DType::F32;
    let rounded = if in_16_bits && !config.use_dora {
        Some(weights.to_dtype(decoder.dtype())?)
    } else {
        None
    };
    for slot in slots {
        let packed_len = slot.rank * (slot.input + slot.output);
        let packed = weights.narrow(0, slot.offset, packed_len)?;
        let shape = [slot.output, slot.rank, slot.input];
        let mut branch = Branch::new(packed, shape, config.scaling())?;
        if let Some(rounded) = &rounded {
            let packed = rounded.narrow(0, slot.offset, packed_len)?;
            branch.rounded = Some(factors(&packed, shape)?);
        }
        if slot.has_magnitude {
            let magnitude = weights.narrow(0, slot.offset + packed_len, slot.output)?;
            let weight = decoder.weight(slot.layer, slot.projection)?;
            branch = branch.with_magnitude(&weight, &magnitude)?;
        }
        if layers.len() <= slot.layer {
            layers.resize_with(slot.layer + 1, Default::default);
        }
        layers[slot.layer][slot.projection as usize] = Some(branch);
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
            let branch = adapter.layers()[slot.layer][slot.projection as usize].as_ref();
            let Branch { a, b, .. } = branch.unwrap();
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
        let model = model("qwen2_tied", device_kind(), DTypePolicy::F32);
        let mut adapter = LoRAAdapter::new(LoRAConfig::default(), &model, 5).unwrap();
        let (clone, old) = (adapter.clone(), read(adapter.weights()));
        let new: Vec<f32> = (0..old.len()).map(|i| i as f32).collect();
        let new = Tensor::new(new, &Device::Cpu).unwrap();
        let device = adapter.weights().device().clone();
        adapter
            .set_weights(new.to_device(&device).unwrap(), model.decoder())
            .unwrap();
        assert_views(&adapter, &read(&new));
        assert_views(&clone, &old);
    }
}
