//! The weights of a model itself, to be trained.

use super::decoder::{Decoder, Place};
use super::{LayerSelection, Model};
use crate::backend::device::completed;
use crate::backend::room::{self, TRAINED_BYTES};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};

/// A model's weights in `f32` as one flat vector, and the decoder that they make in the model's dtype.
///
/// With all layers everything is trained, embedding, norms and head included; with some of them only
/// what belongs to these, as in mlx-lm.
#[derive(Debug, Clone)]
pub(crate) struct FullWeights {
    slots: Vec<WeightSlot>,
    weights: Tensor,
    decoder: Decoder,
}

/// Where one weight lies in the flat vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WeightSlot {
    pub place: Place,
    pub dims: Vec<usize>,
    pub offset: usize,
}

impl FullWeights {
    /// The weights of a model as they are.
    pub(crate) fn new(model: &Model, layers: &LayerSelection) -> Result<Self> {
        let slots = Self::slots_of(model, layers)?;
        let decoder = model.decoder().clone();
        let count = slots
            .iter()
            .map(|slot| slot.dims.iter().product::<usize>())
            .sum();
        room::check(model.device(), count, TRAINED_BYTES, "the weights to train")?;
        let weights = completed(model.device(), || {
            let part = |slot: &WeightSlot| -> Result<Tensor> {
                let weight = decoder.weight_at(slot.place)?;
                Ok(weight.to_dtype(DType::F32)?.flatten_all()?)
            };
            let parts = slots.iter().map(part).collect::<Result<Vec<_>>>()?;
            Ok(Tensor::cat(&parts, 0)?)
        })?;
        Self::from_weights(slots, weights, decoder)
    }

    /// The given weights in the place of a model's.
    pub(crate) fn from_weights(
        slots: Vec<WeightSlot>,
        weights: Tensor,
        decoder: Decoder,
    ) -> Result<Self> {
        let mut full = Self {
            slots,
            weights: weights.clone(),
            decoder,
        };
        full.set_weights(weights)?;
        Ok(full)
    }

    /// The slots of a model's weights.
    pub(crate) fn slots_of(model: &Model, layers: &LayerSelection) -> Result<Vec<WeightSlot>> {
        let config = model.config();
        let count = config.num_hidden_layers;
        layers.check(count)?;
        let mut offset = 0;
        let mut slots = vec![];
        if model.is_quantized() {
            let found = "of a model with quantised weights";
            let expected = "a model that is not quantised; beside a quantised one train an adapter";
            return Err(Error::option("full fine-tuning", found, expected));
        }
        for place in Place::all(config) {
            let selected = match place.layer() {
                Some(layer) => layers.contains(layer, count),
                None => *layers == LayerSelection::All,
            };
            if selected {
                let dims = place.shape(config);
                let slot = WeightSlot {
                    place,
                    dims,
                    offset,
                };
                offset += slot.dims.iter().product::<usize>();
                slots.push(slot);
            }
        }
        Ok(slots)
    }

    /// Replaces the weights, as an optimizer step does.
    pub(crate) fn set_weights(&mut self, weights: Tensor) -> Result<()> {
        let mut decoder = self.decoder.clone();
        completed(weights.device(), || {
            for slot in &self.slots {
                let len = slot.dims.iter().product();
                let weight = weights.narrow(0, slot.offset, len)?;
                let weight = weight.reshape(slot.dims.as_slice())?;
                decoder.set(slot.place, &weight)?;
            }
            Ok(())
        })?;
        self.decoder = decoder;
        self.weights = weights;
        Ok(())
    }

    pub(crate) fn weights(&self) -> &Tensor {
        &self.weights
    }

    pub(crate) fn slots(&self) -> &[WeightSlot] {
        &self.slots
    }

    /// The decoder with these weights.
    pub(crate) fn decoder(&self) -> &Decoder {
        &self.decoder
    }
}
