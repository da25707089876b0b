//! The weights of a decoder, one after the other.

use super::{Decoder, Linear, Matrix, Place};
use crate::error::{Error, Result};
use crate::models::Projection;
use candle_core::{DType, Tensor};

impl Decoder {
    /// The places of all weights, in the order of the computation; a tied head comes once, as the
    /// embedding.
    pub(crate) fn places(&self) -> Vec<Place> {
        Place::all(&self.config)
    }

    /// The shape of the weight at a place.
    pub(crate) fn shape_at(&self, place: Place) -> Result<Vec<usize>> {
        match self.matrix(place) {
            Some(matrix) => Ok(matrix.dims()),
            None => Ok(self.vector_or_table(place)?.dims().to_vec()),
        }
    }

    /// The weight at a place in the decoder's dtype; a quantised one is made dense.
    pub(crate) fn weight_at(&self, place: Place) -> Result<Tensor> {
        match self.matrix(place) {
            Some(matrix) => Ok(matrix.dense(self.dtype)?),
            None => Ok(self.vector_or_table(place)?.clone()),
        }
    }

    /// The weight of a projection in `f32`.
    pub(crate) fn weight(&self, layer: usize, projection: Projection) -> Result<Tensor> {
        let place = Place::Weight(layer, projection);
        let matrix = self.matrix(place).ok_or_else(|| self.no_such(place))?;
        Ok(matrix.dense(DType::F32)?)
    }

    fn linear(&self, layer: usize, projection: Projection) -> Option<&Linear> {
        Some(&self.layers.get(layer)?.linears[projection as usize])
    }

    fn matrix(&self, place: Place) -> Option<&Matrix> {
        match place {
            Place::Weight(layer, projection) => Some(&self.linear(layer, projection)?.weight),
            _ => None,
        }
    }

    fn vector_or_table(&self, place: Place) -> Result<&Tensor> {
        let found = match place {
            Place::Embedding => Some(&self.embedding),
            Place::InputNorm(layer) => self.layers.get(layer).map(|layer| &layer.input_norm),
            Place::PostNorm(layer) => self.layers.get(layer).map(|layer| &layer.post_norm),
            Place::Bias(layer, projection) => self
                .linear(layer, projection)
                .and_then(|linear| linear.bias.as_ref()),
            Place::Norm => Some(&self.norm),
            Place::Head => (!self.config.tie_word_embeddings).then_some(&self.head),
            Place::Weight(..) => None,
        };
        found.ok_or_else(|| self.no_such(place))
    }

    fn no_such(&self, place: Place) -> Error {
        let expected = format!("a weight of a model of {} layers", self.layers.len());
        Error::option("weight", place.name(), expected)
    }

    /// Puts a weight of the same shape, in the decoder's dtype, in its place.
    pub(crate) fn set(&mut self, place: Place, weight: Tensor) {
        match place {
            Place::Embedding => {
                if self.config.tie_word_embeddings {
                    self.head = weight.clone();
                }
                self.embedding = weight;
            }
            Place::Norm => self.norm = weight,
            Place::Head => self.head = weight,
            Place::InputNorm(index)
            | Place::PostNorm(index)
            | Place::Weight(index, _)
            | Place::Bias(index, _) => {
                let Some(layer) = self.layers.get_mut(index) else {
                    return;
                };
                match place {
                    Place::InputNorm(_) => layer.input_norm = weight,
                    Place::PostNorm(_) => layer.post_norm = weight,
                    Place::Weight(_, projection) => {
                        layer.linears[projection as usize].weight = Matrix::Dense(weight);
                    }
                    Place::Bias(_, projection) => {
                        layer.linears[projection as usize].bias = Some(weight);
                    }
                    Place::Embedding | Place::Norm | Place::Head => {}
                }
            }
        }
    }
}
