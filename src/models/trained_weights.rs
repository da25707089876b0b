//! What training changes: an adapter, or the weights of the model.

use super::adapter::LayerAdapter;
use super::full_weights::FullWeights;
use super::{Decoder, LoRAAdapter};
use crate::error::Result;
use candle_core::Tensor;

/// What training changes, as one flat `f32` vector.
#[derive(Debug, Clone)]
pub(crate) enum TrainedWeights {
    Adapter(LoRAAdapter),
    /// Apart, since it is much larger.
    Full(Box<FullWeights>),
}

impl TrainedWeights {
    pub(crate) fn weights(&self) -> &Tensor {
        match self {
            Self::Adapter(adapter) => adapter.weights(),
            Self::Full(full) => full.weights(),
        }
    }

    /// Replaces the weights, as an optimizer step does. `base` is the decoder that training began with.
    pub(crate) fn set_weights(&mut self, weights: Tensor, base: &Decoder) -> Result<()> {
        match self {
            Self::Adapter(adapter) => adapter.set_weights(weights, base),
            Self::Full(full) => full.set_weights(weights),
        }
    }

    /// The decoder that computes with the trained weights, beside [`branches`](Self::branches).
    pub(crate) fn decoder<'a>(&'a self, base: &'a Decoder) -> &'a Decoder {
        match self {
            Self::Adapter(_) => base,
            Self::Full(full) => full.decoder(),
        }
    }

    /// The branches that act beside the decoder's weights.
    pub(crate) fn branches(&self) -> &[LayerAdapter] {
        match self {
            Self::Adapter(adapter) => adapter.layers(),
            Self::Full(_) => &[],
        }
    }

    /// Name, offset and shape of each matrix and vector, and whether it maps one hidden state to
    /// another.
    pub(crate) fn parts(&self) -> Vec<(String, usize, Vec<usize>, bool)> {
        match self {
            Self::Adapter(adapter) => {
                let slots = adapter.slots().iter();
                let parts = slots.flat_map(|slot| {
                    slot.parts().map(|(part, offset, dims)| {
                        let hidden = dims.len() > 1;
                        (format!("{} {part:?}", slot.module()), offset, dims, hidden)
                    })
                });
                parts.collect()
            }
            Self::Full(full) => {
                let slots = full.slots().iter();
                let parts = slots.map(|slot| {
                    let (name, dims) = (slot.place.name(), slot.dims.clone());
                    let hidden = dims.len() > 1 && slot.place.layer().is_some();
                    (name, slot.offset, dims, hidden)
                });
                parts.collect()
            }
        }
    }
}
