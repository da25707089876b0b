//! The weights of a decoder, one after the other.

use super::{Decoder, HeadNorms, Linear, Place};
use crate::backend::ops::matrix::Matrix;
use crate::error::{Error, Result};
use crate::models::Projection;
use candle_core::{DType, Tensor};

impl Decoder {
    /// The places of all weights, in the order of the computation; a tied head comes once, as the
    /// embedding.
    pub(crate) fn places(&self) -> Vec<Place> {
        Place::all(&self.config)
    }

    /// The weight at a place in the decoder's dtype; a quantised one is made dense.
    pub(crate) fn weight_at(&self, place: Place) -> Result<Tensor> {
        match self.matrix(place) {
            Some(matrix) => Ok(matrix.dense(self.dtype)?),
            None => Ok(self.vector(place)?.to_dtype(self.dtype)?),
        }
    }

    /// The weight of a projection in `f32`.
    pub(crate) fn weight(&self, layer: usize, projection: Projection) -> Result<Tensor> {
        let place = Place::Weight(layer, projection);
        let matrix = self.matrix(place).ok_or_else(|| self.no_such(place))?;
        Ok(matrix.dense(DType::F32)?)
    }

    /// The bytes of memory that the weights take.
    #[must_use]
    pub fn weights_size_in_bytes(&self) -> usize {
        let size = |place| match (self.matrix(place), self.vector(place)) {
            (Some(matrix), _) => matrix.size_in_bytes(),
            (None, Ok(vector)) => vector.elem_count() * vector.dtype().size_in_bytes(),
            (None, Err(_)) => 0,
        };
        self.places().into_iter().map(size).sum()
    }

    fn linear(&self, layer: usize, projection: Projection) -> Option<&Linear> {
        Some(&self.layers.get(layer)?.linears[projection as usize])
    }

    fn head_norms(&self, layer: usize) -> Option<&HeadNorms> {
        self.layers.get(layer)?.head_norms.as_ref()
    }

    fn matrix(&self, place: Place) -> Option<&Matrix> {
        match place {
            Place::Embedding => Some(&self.embedding),
            Place::Head => (!self.config.tie_word_embeddings).then_some(&self.head),
            Place::Weight(layer, projection) => Some(&self.linear(layer, projection)?.weight),
            _ => None,
        }
    }

    fn vector(&self, place: Place) -> Result<&Tensor> {
        let found = match place {
            Place::InputNorm(layer) => self.layers.get(layer).map(|layer| &layer.input_norm),
            Place::PostNorm(layer) => self.layers.get(layer).map(|layer| &layer.post_norm),
            Place::QueryNorm(layer) => self.head_norms(layer).map(|norms| &norms.query),
            Place::KeyNorm(layer) => self.head_norms(layer).map(|norms| &norms.key),
            Place::Bias(layer, projection) => self
                .linear(layer, projection)
                .and_then(|linear| linear.bias.as_ref()),
            Place::Norm => Some(&self.norm),
            Place::Embedding | Place::Head | Place::Weight(..) => None,
        };
        found.ok_or_else(|| self.no_such(place))
    }

    fn no_such(&self, place: Place) -> Error {
        let expected = format!("a weight of a model of {} layers", self.layers.len());
        Error::option("weight", place.name(), expected)
    }

    /// Puts a weight of the same shape in its place.
    pub(crate) fn set(&mut self, place: Place, weight: &Tensor) -> Result<()> {
        let is_matrix = self.matrix(place).is_some();
        let dtype = if is_matrix {
            self.dtype
        } else {
            self.activations()
        };
        let weight = weight.to_dtype(dtype)?;
        match place {
            Place::Embedding => {
                self.embedding = Matrix::Dense(weight);
                if self.config.tie_word_embeddings {
                    self.head = self.embedding.clone();
                }
            }
            Place::Norm => self.norm = weight,
            Place::Head => self.head = Matrix::Dense(weight),
            _ => {
                let layer = place.layer().and_then(|index| self.layers.get_mut(index));
                if let Some(layer) = layer {
                    layer.set(place, weight);
                }
            }
        }
        Ok(())
    }
}
