//! The weights of a model by llama.cpp's names, in its order of rows.

use super::GgufType;
use super::architecture::{rope_factors, rotates_neighbours};
use super::file::Stored;
use super::gguf_type::Role;
use crate::models::decoder::Place;
use crate::models::gguf::gguf_name;
use crate::models::{Model, ModelConfig, Projection};
use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};

/// All tensors of a file.
pub(super) fn tensors(model: &Model, kind: GgufType) -> Vec<Stored<'_>> {
    let decoder = model.decoder();
    let config = model.config();
    let mut tensors = Vec::new();
    if let Some(factors) = rope_factors(config) {
        tensors.push(Stored {
            name: "rope_freqs.weight".to_owned(),
            dims: vec![factors.len()],
            format: GgmlDType::F32,
            tensor: Box::new(move || Ok(Tensor::new(factors.as_slice(), &Device::Cpu)?)),
        });
    }
    for place in decoder.places() {
        let dims = place.shape(config);
        let heads = rotated_heads(place, config);
        tensors.push(Stored {
            name: name(place),
            format: kind.of_tensor(role(place, config), &dims),
            dims,
            tensor: Box::new(move || {
                let weight = decoder.weight_at(place)?;
                match heads {
                    Some(heads) => Ok(interleaved(&weight, heads)?),
                    None => Ok(weight),
                }
            }),
        });
    }
    tensors
}

/// llama.cpp's name of a weight; each has one.
fn name(place: Place) -> String {
    let name = place.name();
    gguf_name(&name).unwrap_or(name)
}

fn role(place: Place, config: &ModelConfig) -> Role {
    match place {
        Place::Head => Role::Head,
        Place::Embedding if config.tie_word_embeddings => Role::Head,
        Place::Weight(layer, Projection::Value | Projection::Down) => Role::Sensitive {
            layer,
            layers: config.num_hidden_layers,
        },
        _ => Role::Plain,
    }
}

/// The number of heads of a map whose rows llama.cpp has in another order; in the models where it has,
/// such a map has no bias.
fn rotated_heads(place: Place, config: &ModelConfig) -> Option<usize> {
    if !rotates_neighbours(config) {
        return None;
    }
    match place {
        Place::Weight(_, Projection::Query) => Some(config.num_attention_heads),
        Place::Weight(_, Projection::Key) => Some(config.num_key_value_heads),
        _ => None,
    }
}

/// The rows with the two halves of each head interleaved, so that the dimensions that rotate together
/// are neighbours.
fn interleaved(weight: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let rows = weight.dim(0)?;
    let halves = weight.reshape((heads, 2, rows / heads / 2, ()))?;
    halves.transpose(1, 2)?.reshape(weight.shape())
}
