//! The tensors that a model has.

use crate::models::config::ModelConfig;
use crate::models::decoder::Place;

/// The name and shape of a tensor that a model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name in the Hugging Face layout, such as `model.norm.weight`.
    pub name: String,
    /// The size of each dimension, outermost first.
    pub shape: Vec<usize>,
}

impl ModelConfig {
    /// The tensors that a checkpoint of this model must have.
    ///
    /// The names are those of Hugging Face checkpoints. A model with tied embeddings has no
    /// `lm_head.weight`.
    #[must_use]
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let spec = |place: Place| TensorSpec {
            name: place.name(),
            shape: place.shape(self),
        };
        Place::all(self).into_iter().map(spec).collect()
    }

    /// The number of parameters; a tied embedding counts once.
    ///
    /// Saturates at `usize::MAX`, which no configuration that was read reaches.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        let count = |spec: &TensorSpec| spec.shape.iter().copied().fold(1, usize::saturating_mul);
        self.tensors()
            .iter()
            .map(count)
            .fold(0, usize::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A configuration of the size of Qwen2.5-Coder models.
    fn config(widths: [usize; 3], heads: [usize; 2], layers: usize, tied: bool) -> ModelConfig {
        let text = serde_json::json!({
            "model_type": "qwen2", "vocab_size": widths[0], "hidden_size": widths[1],
            "intermediate_size": widths[2], "num_attention_heads": heads[0],
            "num_key_value_heads": heads[1], "num_hidden_layers": layers,
            "tie_word_embeddings": tied
        });
        ModelConfig::from_json(&text.to_string(), Path::new("config.json")).unwrap()
    }

    #[test]
    fn parameter_counts_are_those_published() {
        // All sizes of Qwen2.5-Coder, 0.5B to 32B.
        for (widths, heads, layers, tied, count) in [
            ([151_936, 896, 4864], [14, 2], 24, true, 494_032_768),
            ([151_936, 1536, 8960], [12, 2], 28, true, 1_543_714_304),
            ([151_936, 2048, 11_008], [16, 2], 36, true, 3_085_938_688),
            ([152_064, 3584, 18_944], [28, 4], 28, false, 7_615_616_512),
            ([152_064, 5120, 13_824], [40, 8], 48, false, 14_770_033_664),
            (
                [152_064, 5120, 27_648],
                [40, 8],
                64,
                false,
                32_763_876_352_usize,
            ),
        ] {
            assert_eq!(config(widths, heads, layers, tied).parameter_count(), count);
        }
    }

    #[test]
    fn attention_is_as_wide_as_its_heads() {
        let mut config = config([10, 8, 16], [4, 2], 1, false);
        config.head_dim = 6;
        let shape = |name: &str| {
            let tensors = config.tensors();
            let spec = tensors.iter().find(|spec| spec.name.ends_with(name));
            spec.unwrap().shape.clone()
        };
        assert_eq!(shape("layers.0.self_attn.q_proj.weight"), [24, 8]);
        assert_eq!(shape("layers.0.self_attn.k_proj.bias"), [12]);
        assert_eq!(shape("layers.0.self_attn.o_proj.weight"), [8, 24]);
        assert_eq!(shape("lm_head.weight"), [10, 8]);
    }
}
