//! Formats of models: what is stored loads as it is, is told apart by its contents, and is described
//! without being loaded.

mod common;

use common::{
    TINY_CODER, all_logits, assert_close, assert_statistics, expected, fixture, ids, load_f32,
    numbers, to_f64,
};
use metal_candle::backend::{DType, DTypePolicy, DeviceKind};
use metal_candle::models::{
    KvCacheType, ModelFormat, Quantization, SafetensorsFormat, StoredModel,
};
use metal_candle::{Error, LoRAAdapter, LoRAConfig, ModelLoader, Result};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The logits that MLX's weights give, by transformers.
#[test]
fn mlx_weights_compute_as_their_numbers() {
    for (name, bits) in [("mlx/q4", 4), ("mlx/q8", 8)] {
        let model = load_f32(fixture(name));
        let group_size = 64;
        assert_eq!(
            model.quantization(),
            Some(Quantization { bits, group_size })
        );
        let reference = expected(name);
        for (weight, found) in reference["dequantized"].as_object().unwrap() {
            assert!(weight.starts_with("model."), "{weight}");
            assert_eq!(found["shape"][1], 128, "{weight}");
        }
        for sequence in reference["sequences"].as_array().unwrap() {
            let logits = all_logits(&model, &ids(&sequence["input_ids"]), None);
            let positions = numbers(&sequence["last3_positions"]);
            assert_eq!(positions.len(), 3);
            for (position, row) in positions
                .iter()
                .zip(sequence["last3_logits"].as_array().unwrap())
            {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let found = logits.get(*position as usize).unwrap();
                assert_close(name, &to_f64(&found), &numbers(row), 1e-4);
            }
            let statistics = sequence.get("all_logits");
            if let Some(statistics) = statistics {
                assert_statistics(name, &to_f64(&logits), statistics);
            }
        }
    }
}

/// Saved, it is a model of plain weights with the same logits.
#[test]
fn mlx_weights_are_saved_as_numbers() {
    const IDS: [u32; 5] = [7, 200, 3, 91, 14];
    let model = load_f32(fixture("mlx/q4"));
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let dense = load_f32(folder.path());
    assert!(model.is_quantized() && !dense.is_quantized());
    let logits = |model| to_f64(&all_logits(model, &IDS, None));
    assert_close("saved", &logits(&dense), &logits(&model), 1e-4);
    let adapter = LoRAAdapter::new(LoRAConfig::default(), &model, 1).unwrap();
    assert!(
        model.merge(&adapter).unwrap().is_quantized(),
        "the embedding is"
    );
}

/// A copy of a model directory, with `config.json` changed.
fn edited(source: &Path, edit: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
    folder
}

#[test]
fn modules_have_settings_of_their_own() {
    let source = fixture("mlx/q4");
    let plain = to_f64(&all_logits(&load_f32(&source), &[1, 2, 3], None));
    let module = "model.layers.0.mlp.up_proj";
    let listed = edited(&source, |config| {
        let quantization = &mut config["quantization"];
        quantization["group_size"] = 32.into();
        for layer in 0..2 {
            for part in ["q", "k", "v", "o"] {
                let module = format!("model.layers.{layer}.self_attn.{part}_proj");
                quantization[module] = serde_json::json!({"bits": 4, "group_size": 64});
            }
            for part in ["gate", "up", "down"] {
                let module = format!("model.layers.{layer}.mlp.{part}_proj");
                quantization[module] = serde_json::json!({"bits": 4, "group_size": 64});
            }
        }
        quantization["model.embed_tokens"] = serde_json::json!({"bits": 4, "group_size": 64});
    });
    let found = to_f64(&all_logits(&load_f32(listed.path()), &[1, 2, 3], None));
    assert_eq!(found, plain);

    let wrong = edited(&source, |config| {
        config["quantization"][module] = serde_json::json!({"bits": 8, "group_size": 64});
    });
    let error = ModelLoader::new()
        .load(wrong.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("`{module}.weight` has shape [128, 16]")),
        "{error}"
    );
}

#[test]
fn quantizations_of_other_kinds_are_refused_by_name() {
    for (name, edit) in [
        (
            "mode: mxfp4",
            r#"{"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}"#,
        ),
        (
            "bits: 3",
            r#"{"quantization": {"group_size": 64, "bits": 3}}"#,
        ),
        (
            "group_size: 16",
            r#"{"quantization": {"group_size": 16, "bits": 4}}"#,
        ),
        (
            "awq",
            r#"{"quantization": null, "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}"#,
        ),
    ] {
        let folder = edited(&fixture("mlx/q4"), |config| {
            let edit: Value = serde_json::from_str(edit).unwrap();
            for (key, value) in edit.as_object().unwrap() {
                config[key] = value.clone();
            }
        });
        let error = ModelLoader::new().load(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let error = |edit: &str| {
        let folder = edited(&fixture("mlx/q4"), |config| {
            let edit: Value = serde_json::from_str(edit).unwrap();
            for (key, value) in edit.as_object().unwrap() {
                config[key] = value.clone();
            }
        });
        let load = ModelLoader::new().load(folder.path()).unwrap_err();
        let inspect = ModelLoader::new().inspect(folder.path()).unwrap_err();
        assert_eq!(load.to_string(), inspect.to_string());
        load.to_string()
    };
    let message = error(r#"{"vocab_size": 300}"#);
    assert!(
        message.contains("`model.embed_tokens.weight` has shape [256, 16]; expected [300, 16]"),
        "{message}"
    );
    let message = error(r#"{"quantization": {"group_size": 128, "bits": 4}}"#);
    assert!(
        message.contains("scales` has shape [256, 2]; expected [256, 1]"),
        "{message}"
    );
    let message = error(r#"{"hidden_size": 96}"#);
    assert!(
        message.contains("expected a divisor of the 96 inputs"),
        "{message}"
    );
}

#[test]
fn headers_tell_what_a_model_is() {
    let info = ModelLoader::new().inspect(TINY_CODER).unwrap();
    assert_eq!((info.format, info.quantization()), ("safetensors", None));
    let model = load_f32(TINY_CODER);
    assert_eq!(info.parameter_count, model.parameter_count());
    assert_eq!(&info.config, model.config());
    let cache_type = KvCacheType::Full;
    let cache = |tokens| info.cache_size_in_bytes(tokens, DType::F32, cache_type);
    let mut kept = model.decoder().new_cache();
    kept.reserve(1000);
    let tokens = metal_candle::backend::Tensor::zeros((1, 1), DType::U32, model.device()).unwrap();
    model
        .decoder()
        .forward(&tokens, Some(&mut kept), None)
        .unwrap();
    assert!(kept.size_in_bytes() >= cache(1000) && kept.size_in_bytes() < cache(1300));

    let json = info.to_json();
    assert_eq!(json["architecture"], "qwen2");
    assert_eq!(json["parameters"], info.parameter_count);
    assert_eq!(json["memory"]["weights"]["bf16"], 2 * info.parameter_count);
    assert_eq!(json["memory"]["cache_per_1000_tokens"]["f32"], cache(1000));

    let info = ModelLoader::new().inspect(fixture("mlx/q8")).unwrap();
    assert_eq!(info.format, "mlx");
    assert_eq!(info.quantization(), Some("8-bit affine, groups of 64"));
    // Codes, and a scale and a bias of 16 bits for each group.
    let quantized = &info.encodings["8-bit affine, groups of 64"];
    assert_eq!(
        quantized.bytes,
        quantized.parameters + quantized.parameters / 64 * 4
    );
    assert_eq!(
        quantized.parameters + info.encodings["F16"].parameters,
        info.parameter_count
    );
}

#[test]
fn progress_counts_every_tensor_and_cancels_before_any() {
    let seen = Arc::new(Mutex::new(vec![]));
    let loader = |limit: usize| {
        let seen = Arc::clone(&seen);
        ModelLoader::new()
            .with_device(DeviceKind::Cpu)
            .with_dtype(DTypePolicy::F32)
            .with_progress(move |progress| {
                seen.lock().unwrap().push(progress.clone());
                if progress.loaded_tensors < limit {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })
    };
    let model = loader(usize::MAX).load(TINY_CODER).unwrap();
    let reports = std::mem::take(&mut *seen.lock().unwrap());
    let tensors = model.config().tensors().len();
    assert_eq!(reports.len(), tensors + 1);
    assert!(reports.is_sorted_by_key(|report| (report.loaded_tensors, report.loaded_bytes)));
    assert!(reports.iter().all(|report| report.tensors == tensors));
    assert_eq!(reports[0].loaded_bytes, 0);
    let last = reports.last().unwrap();
    assert_eq!(
        (last.loaded_tensors, last.loaded_bytes),
        (tensors, last.bytes)
    );

    for limit in [0, 1, tensors] {
        let result = loader(limit).load(TINY_CODER);
        assert!(matches!(result, Err(Error::Cancelled)), "{limit}");
        assert_eq!(std::mem::take(&mut *seen.lock().unwrap()).len(), limit + 1);
    }
}

/// A format of an application: a file that names a model directory.
#[derive(Debug)]
struct Pointer;

impl ModelFormat for Pointer {
    fn name(&self) -> &'static str {
        "pointer"
    }

    fn detect(&self, path: &Path) -> Result<bool> {
        Ok(path.is_file() && std::fs::read(path).is_ok_and(|text| text.starts_with(b"model: ")))
    }

    fn open(&self, path: &Path) -> Result<StoredModel> {
        let text = std::fs::read_to_string(path).unwrap();
        SafetensorsFormat.open(Path::new(text.trim_start_matches("model: ")))
    }
}

#[test]
fn an_application_adds_a_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pointer");
    std::fs::write(&path, format!("model: {TINY_CODER}")).unwrap();
    let loader = ModelLoader::new().with_format(Pointer);
    assert_eq!(loader.load(&path).unwrap().parameter_count(), 6_297_856);
    assert_eq!(loader.inspect(&path).unwrap().format, "pointer");
    assert_eq!(loader.inspect(TINY_CODER).unwrap().format, "safetensors");
    let error = ModelLoader::new().load(&path).unwrap_err();
    assert!(matches!(error, Error::InvalidFormat { .. }), "{error}");
}
