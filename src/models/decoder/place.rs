//! The places of a decoder's weights.

use crate::models::{ModelConfig, Projection};

/// The place of one weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    Embedding,
    /// The norm before the attention of a layer.
    InputNorm(usize),
    /// The norm before the feed-forward block of a layer.
    PostNorm(usize),
    /// The norm of each query head of a layer.
    QueryNorm(usize),
    /// The norm of each key head of a layer.
    KeyNorm(usize),
    Weight(usize, Projection),
    Bias(usize, Projection),
    /// The norm after the last layer.
    Norm,
    /// The output head, where it is not the embedding.
    Head,
}

impl Place {
    /// All places of a model, in the order of the computation.
    pub(crate) fn all(config: &ModelConfig) -> Vec<Self> {
        let mut places = vec![Self::Embedding];
        for layer in 0..config.num_hidden_layers {
            places.extend([Self::InputNorm(layer), Self::PostNorm(layer)]);
            if config.qk_norm {
                places.extend([Self::QueryNorm(layer), Self::KeyNorm(layer)]);
            }
            for projection in Projection::ALL {
                places.push(Self::Weight(layer, projection));
                if projection.has_bias(config) {
                    places.push(Self::Bias(layer, projection));
                }
            }
        }
        places.push(Self::Norm);
        if !config.tie_word_embeddings {
            places.push(Self::Head);
        }
        places
    }

    /// The layer that it belongs to, if any.
    pub(crate) fn layer(self) -> Option<usize> {
        match self {
            Self::InputNorm(layer)
            | Self::PostNorm(layer)
            | Self::QueryNorm(layer)
            | Self::KeyNorm(layer)
            | Self::Weight(layer, _)
            | Self::Bias(layer, _) => Some(layer),
            Self::Embedding | Self::Norm | Self::Head => None,
        }
    }

    /// The name in a Hugging Face checkpoint.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Embedding => "model.embed_tokens.weight".to_owned(),
            Self::InputNorm(layer) => format!("model.layers.{layer}.input_layernorm.weight"),
            Self::PostNorm(layer) => {
                format!("model.layers.{layer}.post_attention_layernorm.weight")
            }
            Self::QueryNorm(layer) => format!("model.layers.{layer}.self_attn.q_norm.weight"),
            Self::KeyNorm(layer) => format!("model.layers.{layer}.self_attn.k_norm.weight"),
            Self::Weight(layer, projection) => format!("{}.weight", projection.module(layer)),
            Self::Bias(layer, projection) => format!("{}.bias", projection.module(layer)),
            Self::Norm => "model.norm.weight".to_owned(),
            Self::Head => "lm_head.weight".to_owned(),
        }
    }

    /// The size of each dimension, outermost first.
    pub(crate) fn shape(self, config: &ModelConfig) -> Vec<usize> {
        match self {
            Self::Embedding | Self::Head => vec![config.vocab_size, config.hidden_size],
            Self::InputNorm(_) | Self::PostNorm(_) | Self::Norm => vec![config.hidden_size],
            Self::QueryNorm(_) | Self::KeyNorm(_) => vec![config.head_dim],
            Self::Weight(_, projection) => {
                let (output, input) = projection.dims(config);
                vec![output, input]
            }
            Self::Bias(_, projection) => vec![projection.dims(config).0],
        }
    }
}
