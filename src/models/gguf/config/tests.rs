use std::path::Path;

use super::super::testing::{Encoded, Writer, bool, encoded, f32, fixture, i32, i32s, string, u32};
use crate::error::{Error, Result};
use crate::models::{Architecture, GgufCheckpoint, ModelConfig};

fn read(writer: &Writer) -> Result<ModelConfig> {
    let file = writer.write();
    let read = GgufCheckpoint::open(file.path());
    if let Err(error) = &read {
        let name = file.path().display().to_string();
        assert!(error.to_string().starts_with(&name), "{error}");
    }
    read.map(|checkpoint| checkpoint.config().clone())
}

fn with(model: &str, key: &str, value: Encoded) -> Result<ModelConfig> {
    read(&fixture(model).with(key, value))
}

#[test]
fn configurations_are_those_of_the_originals() {
    for (name, architecture, keys) in [
        ("qwen2_tied", Architecture::Qwen2, vec![]),
        ("qwen2_untied_gqa", Architecture::Qwen2, vec![]),
        ("qwen2_untied_f16", Architecture::Qwen2, vec![]),
        ("qwen3", Architecture::Qwen3, vec![]),
        ("llama_plain", Architecture::Llama, vec![]),
        (
            "mistral_sliding",
            Architecture::Mistral,
            vec![("llama.attention.sliding_window", u32(7))],
        ),
        (
            "qwen2_yarn",
            Architecture::Qwen2,
            vec![
                ("qwen2.rope.scaling.type", string("yarn")),
                ("qwen2.rope.scaling.factor", f32(4.0)),
                ("qwen2.rope.scaling.original_context_length", u32(256)),
            ],
        ),
    ] {
        let mut writer = fixture(name);
        for (key, value) in keys {
            writer = writer.with(key, value);
        }
        let path = Path::new("tests/fixtures/models").join(name);
        let expected = ModelConfig::from_file(&path.join("config.json")).unwrap();
        assert_eq!(expected.architecture, architecture);
        assert_eq!(read(&writer).unwrap(), expected, "{name}");
    }
}

#[test]
fn the_configuration_can_be_saved_and_read_again() {
    let file = fixture("llama_plain").write();
    let checkpoint = GgufCheckpoint::open(file.path()).unwrap();
    let text = checkpoint.config_json().to_string();
    let read = ModelConfig::from_json(&text, Path::new("config.json")).unwrap();
    assert_eq!(&read, checkpoint.config());
    assert_eq!(
        checkpoint.config_json()["architectures"][0],
        "LlamaForCausalLM"
    );
    assert_eq!(checkpoint.config_json()["rms_norm_eps"], 1e-5);
}

#[test]
fn what_the_file_may_leave_out_has_the_values_of_llama_cpp() {
    let prefix = "llama.attention.";
    let writer = fixture("llama_plain")
        .without(&format!("{prefix}key_length"))
        .without(&format!("{prefix}value_length"))
        .without(&format!("{prefix}head_count_kv"))
        .without("llama.rope.freq_base")
        .without("tokenizer.ggml.bos_token_id")
        .without("tokenizer.ggml.eos_token_id");
    let config = read(&writer).unwrap();
    assert_eq!((config.head_dim, config.num_key_value_heads), (16, 4));
    assert!((config.rope_theta - 1e4).abs() < f64::EPSILON);
    assert!(config.eos_token_ids.is_empty() && config.bos_token_id.is_none());
}

#[test]
fn a_text_ends_with_the_sequence_the_turn_or_the_message() {
    let writer = fixture("llama_plain")
        .with("tokenizer.ggml.eot_token_id", u32(7))
        .with("tokenizer.ggml.eom_token_id", u32(223))
        .with("tokenizer.ggml.padding_token_id", u32(5));
    let config = read(&writer).unwrap();
    assert_eq!(config.eos_token_ids, [223, 7]);
    assert_eq!(
        (config.bos_token_id, config.pad_token_id),
        (Some(222), Some(5))
    );
}

#[test]
fn sizes_may_be_given_for_each_layer_if_they_are_the_same() {
    let key = "llama.attention.head_count_kv";
    let config = with("llama_plain", key, i32s([4, 4])).unwrap();
    assert_eq!(config.num_key_value_heads, 4);
    for numbers in [i32s([4, 2]), i32s([]), i32s([-4, -4]), string("4"), i32(-1)] {
        let error = with("llama_plain", key, numbers).unwrap_err();
        assert!(
            matches!(&error, Error::InvalidConfig { key: k, .. } if k == key),
            "{error}"
        );
    }
}

#[test]
fn a_window_as_long_as_the_context_is_none() {
    let window = "qwen2.attention.sliding_window";
    let config = with("qwen2_tied", window, u32(512)).unwrap();
    assert_eq!(config.sliding_windows, [None, None]);
    let error = with("qwen2_tied", window, u32(511)).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let config = with("llama_plain", "llama.attention.sliding_window", u32(512)).unwrap();
    assert_eq!(config.architecture, Architecture::Llama);
}

#[test]
fn what_would_be_computed_wrongly_is_unsupported() {
    for (key, value, found) in [
        (
            "general.architecture",
            string("gemma3"),
            "supported: qwen2, qwen3, llama",
        ),
        ("llama.expert_count", u32(8), "`llama.expert_count: 8`"),
        (
            "llama.attention.value_length",
            u32(8),
            "`llama.attention.value_length: 8`",
        ),
        (
            "llama.rope.dimension_count",
            u32(8),
            "`llama.rope.dimension_count: 8`",
        ),
        ("llama.logit_scale", f32(0.5), "`llama.logit_scale: 0.5`"),
        (
            "llama.attention.causal",
            bool(false),
            "`llama.attention.causal: false`",
        ),
    ] {
        let error = with("llama_plain", key, value).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{key}: {error}");
        assert!(error.to_string().contains(found), "{error}");
    }
    for (key, value) in [
        ("llama.expert_count", u32(0)),
        ("llama.logit_scale", f32(0.0)),
        ("llama.attention.causal", bool(true)),
    ] {
        with("llama_plain", key, value).unwrap();
    }
    // Biases that Llama does not have.
    let mut writer = fixture("llama_plain");
    writer.add("blk.0.attn_q.bias", &[64], 0, &[0; 256]);
    let error = read(&writer).unwrap_err().to_string();
    assert!(
        error.contains("`attention_bias: true` is not supported"),
        "{error}"
    );
}

#[test]
fn absent_and_absurd_values_are_named() {
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        let error = read(&fixture("llama_plain").without(key))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!(": `{key}` is missing; expected")),
            "{error}"
        );
    }
    for (key, value, found) in [
        (
            "general.architecture",
            u32(1),
            "`general.architecture` is 1",
        ),
        (
            "llama.block_count",
            u32(u32::MAX),
            "`num_hidden_layers` is 4294967295",
        ),
        ("llama.block_count", u32(0), "`num_hidden_layers` is 0"),
        (
            "llama.embedding_length",
            u32(u32::MAX),
            "`hidden_size` is 4294967295",
        ),
        (
            "llama.context_length",
            encoded(10, u64::MAX.to_le_bytes()),
            "`max_position_embeddings`",
        ),
        (
            "llama.attention.head_count",
            u32(0),
            "`num_attention_heads` is 0",
        ),
        (
            "llama.attention.head_count_kv",
            u32(3),
            "`num_key_value_heads` is 3",
        ),
        (
            "llama.attention.layer_norm_rms_epsilon",
            f32(f32::NAN),
            "layer_norm_rms_epsilon` is NaN",
        ),
        (
            "llama.attention.layer_norm_rms_epsilon",
            f32(-1.0),
            "`rms_norm_eps` is -1",
        ),
        (
            "llama.rope.freq_base",
            f32(f32::INFINITY),
            "`llama.rope.freq_base` is inf",
        ),
        ("llama.rope.freq_base", f32(0.0), "`rope_theta` is 0"),
        (
            "tokenizer.ggml.eos_token_id",
            i32(-1),
            "`tokenizer.ggml.eos_token_id` is -1",
        ),
    ] {
        let error = with("llama_plain", key, value).unwrap_err();
        assert!(
            matches!(error, Error::InvalidConfig { .. }),
            "{key}: {error}"
        );
        assert!(error.to_string().contains(found), "{error}");
    }
    let mut writer = fixture("llama_plain");
    writer
        .tensors
        .retain(|tensor| tensor.name != "token_embd.weight");
    let error = read(&writer).unwrap_err();
    assert!(matches!(error, Error::MissingTensor { .. }), "{error}");
    writer.add("token_embd.weight", &[4], 0, &[0; 16]);
    let error = read(&writer).unwrap_err().to_string();
    assert!(
        error.contains("`token_embd.weight` has shape [4]"),
        "{error}"
    );
}
