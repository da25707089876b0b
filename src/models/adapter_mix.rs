//! Adapters that act together.

use super::adapter::{Branch, LayerAdapter};
use super::{LoRAAdapter, ModelConfig};
use crate::backend::device::completed;
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::sync::Arc;

/// Adapters that change a model together, each with a weight, made ready for generation.
///
/// The change of each projection is the weighted sum of the adapters' changes. It costs what one
/// adapter with the sum of their ranks does, and the model is not touched, so that any number of
/// texts with other mixes can use it at the same time. Cloning is cheap.
///
/// # Example
///
/// ```
/// use metal_candle::models::AdapterMix;
/// use metal_candle::{Generator, LoRAAdapter, ModelLoader};
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// let style = LoRAAdapter::load("tests/fixtures/lora/nonzero_b", &model)?;
/// let names = LoRAAdapter::load("tests/fixtures/lora/small_rslora", &model)?;
/// let mix = AdapterMix::new(vec![(style, 0.75), (names, 0.5)])?;
/// let mut generator = Generator::new(&model);
/// generator.set_adapters(Some(mix))?;
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct AdapterMix {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: Vec<(LoRAAdapter, f64)>,
    layers: Vec<LayerAdapter>,
}

impl AdapterMix {
    /// A mix of adapters for one model, each with its weight: 1 for the adapter as it is, 0 for none
    /// of it, below 0 for its opposite.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for weights that are not finite, or where there is no adapter;
    /// [`Error::Backend`] where the adapters are for models of other shapes or on other devices.
    pub fn new(parts: Vec<(LoRAAdapter, f64)>) -> Result<Self> {
        let Some((first, _)) = parts.first() else {
            return Err(Error::option("adapters", "empty", "at least one adapter"));
        };
        if let Some((_, weight)) = parts.iter().find(|(_, weight)| !weight.is_finite()) {
            return Err(Error::option("weight", weight, "a finite number"));
        }
        let layers = completed(first.weights().device(), || mixed(&parts))?;
        Ok(Self {
            inner: Arc::new(Inner { parts, layers }),
        })
    }

    /// The adapters and their weights.
    #[must_use]
    pub fn parts(&self) -> &[(LoRAAdapter, f64)] {
        &self.inner.parts
    }

    pub(crate) fn layers(&self) -> &[LayerAdapter] {
        &self.inner.layers
    }

    /// Whether both are the same mix, and not only an equal one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Checks that all adapters were made for a model of this configuration.
    pub(crate) fn check(&self, model: &ModelConfig) -> Result<()> {
        let mut parts = self.inner.parts.iter();
        parts.try_for_each(|(adapter, _)| adapter.check(model))
    }
}

fn mixed(parts: &[(LoRAAdapter, f64)]) -> Result<Vec<LayerAdapter>> {
    let count = parts.iter().map(|(adapter, _)| adapter.layers().len());
    let count = count.max().unwrap_or(0);
    let mut layers = Vec::with_capacity(count);
    for layer in 0..count {
        let mut mixed = LayerAdapter::default();
        for (projection, slot) in mixed.iter_mut().enumerate() {
            let branches = parts.iter().filter_map(|(adapter, weight)| {
                let branch = adapter.layers().get(layer)?[projection].as_ref()?;
                Some((branch, *weight))
            });
            *slot = sum(&branches.collect::<Vec<_>>())?;
        }
        layers.push(mixed);
    }
    Ok(layers)
}

/// One branch that does what all do: their A one below the other, and their B side by side.
fn sum(branches: &[(&Branch, f64)]) -> Result<Option<Branch>> {
    if branches.is_empty() {
        return Ok(None);
    }
    let down: Vec<_> = branches.iter().map(|(branch, _)| &branch.a).collect();
    let a = Tensor::cat(&down, 0)?;
    let up = branches.iter();
    let up = up.map(|(branch, weight)| &branch.b * (weight * branch.scaling));
    let b = Tensor::cat(&up.collect::<candle_core::Result<Vec<_>>>()?, 1)?;
    let mut row_scale = None;
    for (branch, weight) in branches {
        if let Some(scale) = &branch.row_scale {
            // Each adds its own distance from the model's rows.
            let change = scale.affine(*weight, -weight)?;
            row_scale = Some(match row_scale {
                None => (change + 1.0)?,
                Some(sum) => (sum + change)?,
            });
        }
    }
    Branch::packing(&a, &b, 1.0, row_scale).map(Some)
}
