//! The names of tensors: those of Hugging Face checkpoints and those of GGUF files.

/// The tensors that belong to no layer.
const GLOBAL: [(&str, &str); 3] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
];

/// The tensors of a layer.
const LAYER: [(&str, &str); 11] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
];

/// The name in GGUF files of a tensor given by its Hugging Face name, such as `blk.0.attn_q.weight`
/// for `model.layers.0.self_attn.q_proj.weight`.
pub(crate) fn gguf_name(name: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    let find = |names: &[(&str, &'static str)], module: &str| {
        let found = names.iter().find(|(name, _)| *name == module);
        found.map(|(_, gguf)| *gguf)
    };
    if let Some(layer) = module.strip_prefix("model.layers.") {
        let (layer, module) = layer.split_once('.')?;
        let module = find(&LAYER, module)?;
        Some(format!("blk.{layer}.{module}.{kind}"))
    } else {
        let module = find(&GLOBAL, module)?;
        Some(format!("{module}.{kind}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_cpp() {
        for (name, expected) in [
            ("model.embed_tokens.weight", Some("token_embd.weight")),
            ("model.norm.weight", Some("output_norm.weight")),
            ("lm_head.weight", Some("output.weight")),
            (
                "model.layers.3.self_attn.q_proj.bias",
                Some("blk.3.attn_q.bias"),
            ),
            (
                "model.layers.12.self_attn.k_norm.weight",
                Some("blk.12.attn_k_norm.weight"),
            ),
            (
                "model.layers.0.mlp.down_proj.weight",
                Some("blk.0.ffn_down.weight"),
            ),
            (
                "model.layers.0.post_attention_layernorm.weight",
                Some("blk.0.ffn_norm.weight"),
            ),
            ("model.layers.0.mlp.experts.weight", None),
            ("weight", None),
        ] {
            assert_eq!(gguf_name(name).as_deref(), expected, "{name}");
        }
    }
}
