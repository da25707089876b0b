use super::*;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> Result<ModelConfig> {
    ModelConfig::from_file(
        &root()
            .join("tests/fixtures/models")
            .join(name)
            .join("config.json"),
    )
}

/// Qwen2.5-Coder-0.5B, changed by the given keys; `missing` removes one.
fn edited(edits: &[(&str, &str)]) -> Result<ModelConfig> {
    let mut value = serde_json::json!({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
        "bos_token_id": 151_643, "eos_token_id": 151_643, "hidden_act": "silu",
        "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06, "rope_theta": 1_000_000.0, "sliding_window": 32768,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true,
        "use_mrope": false, "use_sliding_window": false, "vocab_size": 151_936
    });
    let fields = value.as_object_mut().unwrap();
    for (key, text) in edits {
        if *text == "missing" {
            fields.remove(*key);
        } else {
            fields.insert((*key).to_owned(), serde_json::from_str(text).unwrap());
        }
    }
    ModelConfig::from_json(&value.to_string(), Path::new("config.json"))
}

#[test]
fn reads_every_qwen2_fixture() {
    let directories = std::fs::read_dir(root().join("tests/fixtures/models")).unwrap();
    let mut read = 0;
    for directory in directories {
        let name = directory.unwrap().file_name().into_string().unwrap();
        if name.starts_with("qwen2_") {
            let config = fixture(&name).unwrap();
            assert_eq!(config.architecture, Architecture::Qwen2, "{name}");
            assert_eq!(
                config.sliding_windows.len(),
                config.num_hidden_layers,
                "{name}"
            );
            read += 1;
        }
    }
    assert_eq!(read, 8);
}

#[test]
fn reads_both_config_styles() {
    let old = fixture("qwen2_tied").unwrap();
    assert!((old.rope_theta - 1e6).abs() < f64::EPSILON);
    assert!(old.tie_word_embeddings && old.attention_bias);
    assert_eq!(
        (old.head_dim, old.eos_token_ids.as_slice()),
        (16, &[207][..])
    );
    assert_eq!(old.sliding_windows, [None, None]);
    let sliding = fixture("qwen2_sliding").unwrap();
    assert_eq!(sliding.sliding_windows, [None, None, Some(8), Some(8)]);
    let new = fixture("qwen2_yarn").unwrap();
    assert!((new.rope_theta - 1000.0).abs() < f64::EPSILON);
    assert!(matches!(
        new.rope_scaling,
        RopeScaling::Yarn {
            original_max_position_embeddings: 256,
            ..
        }
    ));
}

#[test]
fn yarn_lengthens_the_context() {
    let context = |scaling: &str, max: &str| {
        let edits = [("rope_scaling", scaling), ("max_position_embeddings", max)];
        edited(&edits).unwrap().max_position_embeddings
    };
    // As Qwen2.5's documentation has it.
    let documented = r#"{"type": "yarn", "factor": 4.0,
        "original_max_position_embeddings": 32768}"#;
    assert_eq!(context(documented, "32768"), 131_072);
    assert_eq!(context(documented, "131072"), 131_072);
    assert_eq!(context(documented, "200000"), 200_000);
    let bare = r#"{"type": "yarn", "factor": 2.5}"#;
    assert_eq!(context(bare, "1000"), 2500);
    for (factor, expected) in [("1e300", MAX_POSITIONS), ("0.5", 1000)] {
        let scaling = format!(r#"{{"type": "yarn", "factor": {factor}}}"#);
        assert_eq!(context(&scaling, "1000"), expected, "{factor}");
    }
    let llama3 = r#"{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
        "high_freq_factor": 4, "original_max_position_embeddings": 32768}"#;
    assert_eq!(context(llama3, "32768"), 32_768);
    assert_eq!(fixture("qwen2_yarn").unwrap().max_position_embeddings, 1024);
}

#[test]
fn reads_llama() {
    let plain = fixture("llama_plain").unwrap();
    assert_eq!(plain.architecture, Architecture::Llama);
    assert!(!plain.attention_bias && !plain.tie_word_embeddings);
    assert_eq!(plain.rope_scaling, RopeScaling::None);
    assert_eq!(plain.sliding_windows, [None, None]);
    let scaled = fixture("llama3_scaled").unwrap();
    assert_eq!((scaled.head_dim, scaled.num_key_value_heads), (16, 2));
    assert!(matches!(scaled.rope_scaling, RopeScaling::Llama3 { .. }));
    let edits = [
        ("model_type", r#""llama""#),
        ("head_dim", "32"),
        ("use_sliding_window", "true"),
        ("max_window_layers", "0"),
    ];
    // What is Qwen2's has no effect, as in transformers.
    let other = edited(&edits).unwrap();
    assert!(other.tie_word_embeddings && other.sliding_windows.iter().all(Option::is_none));
    assert_eq!(other.head_dim, 32);
    let short = edited(&[edits[0], ("max_position_embeddings", "missing")]).unwrap();
    assert_eq!(short.max_position_embeddings, 2048);
}

#[test]
fn qwen3_norms_its_heads() {
    let config = fixture("qwen3").unwrap();
    assert_eq!(config.architecture, Architecture::Qwen3);
    assert_eq!((config.head_dim, config.qk_norm), (24, true));
    assert!(!config.attention_bias && config.tie_word_embeddings);
    let edits = [
        ("model_type", r#""qwen3""#),
        ("use_sliding_window", "true"),
        ("max_window_layers", "23"),
    ];
    let other = edited(&edits).unwrap();
    // Not hidden_size / num_attention_heads.
    assert_eq!(other.head_dim, 128);
    assert_eq!(other.sliding_windows[22..], [None, Some(32_768)]);
    assert!(!fixture("qwen2_tied").unwrap().qk_norm);
}

#[test]
fn mistral_slides_everywhere_or_nowhere() {
    assert_eq!(
        fixture("mistral_sliding").unwrap().sliding_windows,
        [Some(7), Some(7)]
    );
    let with = |window: &str| {
        // A switch of Qwen2, which Mistral does not have.
        let switch = ("use_sliding_window", "false");
        let edits = [("model_type", r#""mistral""#), ("sliding_window", window)];
        edited(&[edits[0], edits[1], switch])
            .unwrap()
            .sliding_windows
    };
    for (window, expected) in [("16", Some(16)), ("null", None), ("missing", Some(4096))] {
        assert_eq!(with(window), [expected; 24], "{window}");
    }
}

#[test]
fn biases_are_unsupported_outside_qwen2() {
    for family in [r#""qwen3""#, r#""llama""#, r#""mistral""#] {
        for key in ["attention_bias", "mlp_bias"] {
            let read = |value| edited(&[("model_type", family), (key, value)]);
            assert!(!read("false").unwrap().attention_bias);
            let error = read("true").unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            let message = error.to_string();
            assert!(message.contains(&format!("`{key}: true`")), "{message}");
            assert!(edited(&[(key, "true")]).unwrap().attention_bias);
        }
    }
}

#[test]
fn absent_keys_have_the_defaults_of_transformers() {
    let keys = [
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_theta",
        "tie_word_embeddings",
        "max_position_embeddings",
        "eos_token_id",
        "hidden_act",
    ];
    let config = edited(&keys.map(|key| (key, "missing"))).unwrap();
    assert_eq!(config.num_key_value_heads, 14);
    assert!((config.rms_norm_eps - 1e-6).abs() < f64::EPSILON);
    assert!((config.rope_theta - 1e4).abs() < f64::EPSILON);
    assert!(!config.tie_word_embeddings);
    assert_eq!(config.max_position_embeddings, 32_768);
    assert!(config.eos_token_ids.is_empty());
}

#[test]
fn head_dim_of_the_file_wins() {
    assert_eq!(edited(&[]).unwrap().head_dim, 64);
    assert_eq!(edited(&[("head_dim", "24")]).unwrap().head_dim, 24);
}

#[test]
fn layer_types_decide_about_windows() {
    let types = |layers: &str| {
        edited(&[
            ("num_hidden_layers", "2"),
            ("layer_types", layers),
            ("sliding_window", "16"),
            ("use_sliding_window", "true"),
            ("max_window_layers", "0"),
        ])
    };
    let config = types(r#"["sliding_attention", "full_attention"]"#).unwrap();
    assert_eq!(config.sliding_windows, [Some(16), None]);
    for bad in [
        r#"["full_attention"]"#,
        r#"["full_attention", "linear"]"#,
        "[1, 2]",
        "2",
    ] {
        let error = types(bad).unwrap_err().to_string();
        assert!(error.contains("`layer_types`"), "{error}");
    }
}

#[test]
fn absurd_values_name_their_key() {
    for (key, value) in [
        ("model_type", "missing"),
        ("model_type", "7"),
        ("vocab_size", "missing"),
        ("vocab_size", "16777217"),
        ("hidden_size", "0"),
        ("hidden_size", "896.5"),
        ("intermediate_size", "-1"),
        ("num_hidden_layers", "4097"),
        ("num_attention_heads", "13"),
        ("num_attention_heads", "128"),
        ("num_key_value_heads", "3"),
        ("num_key_value_heads", "28"),
        ("head_dim", "63"),
        ("max_position_embeddings", "1e30"),
        ("rms_norm_eps", "0"),
        ("tie_word_embeddings", "1"),
        ("eos_token_id", "-1"),
        ("pad_token_id", "4294967296"),
    ] {
        let error = edited(&[(key, value)]).unwrap_err();
        assert!(
            matches!(error, Error::InvalidConfig { .. }),
            "{key}: {error}"
        );
        let message = error.to_string();
        assert!(
            message.starts_with(&format!("config.json: `{key}` is ")),
            "{message}"
        );
    }
    let huge = [
        "vocab_size",
        "hidden_size",
        "num_attention_heads",
        "head_dim",
    ];
    let error = edited(&huge.map(|key| (key, "16777216"))).unwrap_err();
    assert!(error.to_string().contains("parameters"), "{error}");
    let sliding = [("use_sliding_window", "true"), ("max_window_layers", "0")];
    let error = edited(&[sliding[0], sliding[1], ("sliding_window", "null")]).unwrap_err();
    assert!(
        error.to_string().contains("`sliding_window` is null"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_run_is_unsupported() {
    for (key, value, found) in [
        (
            "model_type",
            r#""gpt2""#,
            "supported: qwen2, qwen3, llama, mistral",
        ),
        ("hidden_act", r#""gelu""#, "gelu"),
        ("rope_scaling", r#"{"rope_type": "dynamic"}"#, "yarn"),
    ] {
        let error = edited(&[(key, value)]).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{key}: {error}");
        assert!(error.to_string().contains(found), "{error}");
    }
}

#[test]
fn text_that_is_no_object_is_an_invalid_format() {
    for text in ["", "[]", "{\"model_type\": "] {
        let error = ModelConfig::from_json(text, Path::new("config.json")).unwrap_err();
        assert!(
            matches!(error, Error::InvalidFormat { .. }),
            "{text}: {error}"
        );
    }
}
