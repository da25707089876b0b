//! The tensors that a model has.

use crate::models::config::ModelConfig;

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
        let hidden = self.hidden_size;
        let queries = self.num_attention_heads.saturating_mul(self.head_dim);
        let keys = self.num_key_value_heads.saturating_mul(self.head_dim);
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: &[usize]| {
            let shape = shape.to_vec();
            tensors.push(TensorSpec { name, shape });
        };

        add(
            "model.embed_tokens.weight".to_owned(),
            &[self.vocab_size, hidden],
        );
        for layer in 0..self.num_hidden_layers {
            let layer = format!("model.layers.{layer}");
            for (projection, rows) in [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)] {
                add(
                    format!("{layer}.self_attn.{projection}.weight"),
                    &[rows, hidden],
                );
                if self.attention_bias {
                    add(format!("{layer}.self_attn.{projection}.bias"), &[rows]);
                }
            }
            add(
                format!("{layer}.self_attn.o_proj.weight"),
                &[hidden, queries],
            );
            if self.qk_norm {
                for norm in ["q_norm", "k_norm"] {
                    add(format!("{layer}.self_attn.{norm}.weight"), &[self.head_dim]);
                }
            }
            add(
                format!("{layer}.mlp.gate_proj.weight"),
                &[self.intermediate_size, hidden],
            );
            add(
                format!("{layer}.mlp.up_proj.weight"),
                &[self.intermediate_size, hidden],
            );
            add(
                format!("{layer}.mlp.down_proj.weight"),
                &[hidden, self.intermediate_size],
            );
            add(format!("{layer}.input_layernorm.weight"), &[hidden]);
            add(
                format!("{layer}.post_attention_layernorm.weight"),
                &[hidden],
            );
        }
        add("model.norm.weight".to_owned(), &[hidden]);
        if !self.tie_word_embeddings {
            add("lm_head.weight".to_owned(), &[self.vocab_size, hidden]);
        }
        tensors
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
