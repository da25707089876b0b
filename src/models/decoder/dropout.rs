//! Dropout on the inputs of the adapters' branches.

use crate::backend::ops::dropout::dropout_mask;
use crate::models::Projection;
use candle_core::{Result, Tensor};

/// Dropout of one forward and its backward.
pub(crate) struct Dropout {
    pub p: f64,
    /// Another one for every batch of a run.
    pub seed: u64,
}

impl Dropout {
    /// The factors of the elements of a branch's input.
    pub(super) fn mask(&self, layer: usize, projection: Projection, x: &Tensor) -> Result<Tensor> {
        // Layers and projections get seeds of their own, so that a layer computed again, alone,
        // drops the same elements.
        let site = (layer * Projection::ALL.len() + projection as usize) as u64;
        let seed = self
            .seed
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(site);
        dropout_mask(x.dims(), self.p, seed, x.device())?.to_dtype(x.dtype())
    }

    pub(super) fn apply(&self, layer: usize, projection: Projection, x: &Tensor) -> Result<Tensor> {
        x * self.mask(layer, projection, x)?
    }
}
