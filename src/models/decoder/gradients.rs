//! What is trained, and the gradients of it.

use super::Place;
use crate::models::Projection;
use crate::models::adapter::Part;
use crate::models::trained_weights::TrainedWeights;
use candle_core::{Result, Tensor};
use std::collections::HashMap;

/// A part of what is trained, which has a gradient of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Parameter {
    Branch(usize, Projection, Part),
    Whole(Place),
}

impl TrainedWeights {
    /// The first layer that is trained, or whose input is; the number of layers where there is none.
    pub(super) fn first_layer(&self) -> usize {
        match self {
            Self::Adapter(adapter) => adapter.slots().first().map_or(0, |slot| slot.layer),
            Self::Full(weights) => {
                let places = weights.slots().iter().map(|slot| slot.place);
                if places.clone().any(|place| place == Place::Embedding) {
                    0
                } else {
                    places.filter_map(Place::layer).min().unwrap_or(0)
                }
            }
        }
    }

    /// A place for the gradient of each part, in the order of the flat vector.
    pub(super) fn gradients(&self) -> Gradients {
        let order: Vec<_> = match self {
            Self::Adapter(adapter) => {
                let slots = adapter.slots().iter();
                slots
                    .flat_map(|slot| {
                        slot.parts()
                            .map(|(part, ..)| Parameter::Branch(slot.layer, slot.projection, part))
                    })
                    .collect()
            }
            Self::Full(weights) => {
                let slots = weights.slots().iter();
                slots.map(|slot| Parameter::Whole(slot.place)).collect()
            }
        };
        let parts = order.iter().map(|parameter| (*parameter, None)).collect();
        Gradients { order, parts }
    }
}

/// The gradients found so far.
pub(super) struct Gradients {
    order: Vec<Parameter>,
    parts: HashMap<Parameter, Option<Tensor>>,
}

impl Gradients {
    /// Whether this weight is trained.
    pub(super) fn wants(&self, parameter: Parameter) -> bool {
        self.parts.contains_key(&parameter)
    }

    /// Takes a gradient, `f32`, beside what the weight has from elsewhere.
    pub(super) fn add(&mut self, parameter: Parameter, gradient: Tensor) -> Result<()> {
        if let Some(place) = self.parts.get_mut(&parameter) {
            *place = Some(match place.take() {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            });
        }
        Ok(())
    }

    /// Computes and takes a gradient where the weight is trained.
    pub(super) fn add_with(
        &mut self,
        parameter: Parameter,
        gradient: impl FnOnce() -> Result<Tensor>,
    ) -> Result<()> {
        if self.wants(parameter) {
            self.add(parameter, gradient()?)?;
        }
        Ok(())
    }

    /// One vector of all.
    pub(super) fn flatten(mut self) -> Result<Tensor> {
        let mut parts = Vec::with_capacity(self.order.len());
        for parameter in &self.order {
            let Some(gradient) = self.parts.remove(parameter).flatten() else {
                let reason = format!("{parameter:?} got no gradient");
                return Err(candle_core::Error::Msg(reason));
            };
            parts.push(gradient.flatten_all()?);
        }
        Tensor::cat(&parts, 0)
    }
}
