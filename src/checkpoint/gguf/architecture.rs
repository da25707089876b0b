//! The configuration of a model as a GGUF file has it.

use super::file::{Metadata, Value};
use super::unsupported;
use crate::error::Result;
use crate::models::{Architecture, Model, ModelConfig, RopeScaling, rope};

/// The name of the computation in llama.cpp.
///
/// Mistral is Llama there.
pub(super) fn name(config: &ModelConfig) -> &'static str {
    if matches!(
        config.architecture,
        Architecture::Llama | Architecture::Mistral
    ) {
        Architecture::Llama.model_type()
    } else {
        config.architecture.model_type()
    }
}

/// Whether llama.cpp turns neighbouring dimensions, and not the two halves of a head.
pub(super) fn rotates_neighbours(config: &ModelConfig) -> bool {
    name(config) == Architecture::Llama.model_type()
}

/// Sizes and settings, under the keys of the architecture.
pub(super) fn metadata(model: &Model) -> Result<Metadata> {
    let config = model.config();
    check(model)?;
    let name = name(config);
    let mut metadata = Metadata::new();
    let mut set = |key: &str, value: Value| metadata.push((format!("{name}.{key}"), value));
    set("vocab_size", config.vocab_size.into());
    set("context_length", config.max_position_embeddings.into());
    set("embedding_length", config.hidden_size.into());
    set("block_count", config.num_hidden_layers.into());
    set("feed_forward_length", config.intermediate_size.into());
    set("attention.head_count", config.num_attention_heads.into());
    set("attention.head_count_kv", config.num_key_value_heads.into());
    set("attention.key_length", config.head_dim.into());
    set("attention.value_length", config.head_dim.into());
    set(
        "attention.layer_norm_rms_epsilon",
        config.rms_norm_eps.into(),
    );
    if let Some(window) = config.sliding_windows.first().copied().flatten() {
        set("attention.sliding_window", window.into());
    }
    set("rope.dimension_count", config.head_dim.into());
    set("rope.freq_base", config.rope_theta.into());
    if let RopeScaling::Linear { factor } = &config.rope_scaling {
        set("rope.scaling.type", "linear".into());
        set("rope.scaling.factor", (*factor).into());
    }
    if let RopeScaling::Yarn {
        factor,
        original_max_position_embeddings: original,
        beta_fast,
        beta_slow,
        ..
    } = &config.rope_scaling
    {
        set("rope.scaling.type", "yarn".into());
        set("rope.scaling.factor", (*factor).into());
        set("rope.scaling.original_context_length", (*original).into());
        set("rope.scaling.yarn_beta_fast", (*beta_fast).into());
        set("rope.scaling.yarn_beta_slow", (*beta_slow).into());
        // On top of what YaRN says, which llama.cpp applies by itself.
        let usual = rope::yarn_attention_factor(*factor);
        let (_, scale) = rope::frequencies(config);
        if (scale / usual - 1.0).abs() > f64::EPSILON {
            set("rope.scaling.attn_factor", (scale / usual).into());
        }
    }
    Ok(metadata)
}

/// What each rotary frequency is divided by, where the scaling is one that llama.cpp takes as such
/// factors.
pub(super) fn rope_factors(config: &ModelConfig) -> Option<Vec<f32>> {
    if matches!(
        config.rope_scaling,
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Yarn { .. }
    ) {
        return None;
    }
    let plain = ModelConfig {
        rope_scaling: RopeScaling::None,
        ..config.clone()
    };
    let ((plain, _), (scaled, _)) = (rope::frequencies(&plain), rope::frequencies(config));
    let factors = plain
        .iter()
        .zip(scaled)
        .map(|(plain, scaled)| plain / scaled);
    Some(factors.collect())
}

/// Refuses what llama.cpp would compute otherwise than this library.
fn check(model: &Model) -> Result<()> {
    let config = model.config();
    let name = name(config);
    let windows = &config.sliding_windows;
    if windows.iter().any(|window| Some(window) != windows.first()) {
        return Err(unsupported(
            model,
            "sliding window of a GGUF file",
            "one on some layers only",
            "one window on every layer, or none",
        ));
    }
    if config.architecture == Architecture::Qwen2
        && config.head_dim * config.num_attention_heads != config.hidden_size
    {
        return Err(unsupported(
            model,
            "head width of a GGUF file",
            &format!("head_dim {} in a model of type {name}", config.head_dim),
            "hidden_size divided by num_attention_heads",
        ));
    }
    if rope_factors(config).is_some() && !rotates_neighbours(config) {
        return Err(unsupported(
            model,
            "rope scaling of a GGUF file",
            &format!("{:?} in a model of type {name}", config.rope_scaling),
            "linear, yarn or none; in models of type llama others as well",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{DTypePolicy, DeviceKind};
    use crate::models::testing::model;

    fn read(name: &str) -> (Model, Metadata) {
        let model = model(name, DeviceKind::Cpu, DTypePolicy::F32);
        let metadata = metadata(&model).unwrap();
        (model, metadata)
    }

    fn value<'a>(metadata: &'a Metadata, key: &str) -> Option<&'a Value> {
        let entry = metadata.iter().find(|(name, _)| name == key)?;
        Some(&entry.1)
    }

    #[test]
    fn yarn_has_the_keys_of_llama_cpp() {
        let (_, metadata) = read("qwen2_yarn");
        let text = value(&metadata, "qwen2.rope.scaling.type");
        assert_eq!(text, Some(&Value::Text("yarn".to_owned())));
        for (key, expected) in [
            ("factor", 4.0),
            ("yarn_beta_fast", 32.0),
            ("yarn_beta_slow", 1.0),
        ] {
            let found = value(&metadata, &format!("qwen2.rope.scaling.{key}"));
            assert_eq!(found, Some(&Value::F32(expected)), "{key}");
        }
        let found = value(&metadata, "qwen2.rope.scaling.attn_factor");
        assert_eq!(found, None, "the usual one");
    }

    #[test]
    fn factors_are_those_of_the_frequencies() {
        let (model, metadata) = read("llama3_scaled");
        assert_eq!(value(&metadata, "llama.rope.scaling.type"), None);
        let factors = rope_factors(model.config()).unwrap();
        assert_eq!(factors.len(), model.config().head_dim / 2);
        // The fastest is kept, the slowest divided by the factor, and between them they rise.
        assert!((factors[0] - 1.0).abs() < 1e-6);
        assert!((factors[factors.len() - 1] - 8.0).abs() < 1e-4);
        assert!(factors.is_sorted_by(|a, b| a <= &(b + 1e-5)));
    }

    #[test]
    fn a_window_is_one_of_all_layers() {
        let (_, metadata) = read("mistral_sliding");
        let window = value(&metadata, "llama.attention.sliding_window");
        assert_eq!(window, Some(&Value::U32(7)));
        let (_, metadata) = read("llama_plain");
        assert_eq!(value(&metadata, "llama.attention.sliding_window"), None);
        let model = model("qwen2_sliding", DeviceKind::Cpu, DTypePolicy::F32);
        let windows = &model.config().sliding_windows;
        assert!(windows.contains(&None) && windows.iter().any(Option::is_some));
        let error = super::metadata(&model).unwrap_err().to_string();
        assert!(error.contains("sliding window"), "{error}");
    }
}
