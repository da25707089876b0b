//! Adapters on disk: PEFT's format, and what is refused.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{TINY_CODER, all_logits, assert_close, copy_of, edit_json, fixture, load_as};
use common::{load_f32, read_json, to_f64};
use metal_candle::backend::DTypePolicy;
use metal_candle::{Error, GenerateOptions, Generator, LoRAAdapter, LoRAConfig, Model, Projection};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const TENSOR: &str = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight";

fn small() -> Model {
    load_f32(fixture("models/qwen2_tied"))
}

/// An adapter on q and v of the small model, saved by this library.
fn saved(model: &Model) -> tempfile::TempDir {
    let config = LoRAConfig {
        rank: 2,
        targets: [Projection::Query, Projection::Value].into(),
        ..LoRAConfig::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let adapter = LoRAAdapter::new(config, model, 3).unwrap();
    adapter.save(directory.path()).unwrap();
    directory
}

fn change_weights(directory: &Path, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let path = directory.join(WEIGHTS);
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, path).unwrap();
}

fn refused(model: &Model, directory: &Path) -> Error {
    LoRAAdapter::load(directory, model).unwrap_err()
}

/// Names, dtypes and shapes in a safetensors file.
fn layout(path: &Path) -> BTreeMap<String, (String, Vec<usize>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| {
            let layout = (view.dtype().to_string(), view.shape().to_vec());
            (name.to_owned(), layout)
        })
        .collect()
}

#[test]
fn a_round_trip_changes_no_bit() {
    let model = load_f32(TINY_CODER);
    for name in ["init", "nonzero_b", "small_rslora", "small_dora"] {
        let from = fixture("lora").join(name);
        let adapter = LoRAAdapter::load(&from, &model).unwrap();
        let to = tempfile::tempdir().unwrap();
        adapter.save(to.path()).unwrap();
        let [from, saved] = [&from, to.path()]
            .map(|path| candle_core::safetensors::load(path.join(WEIGHTS), &Device::Cpu).unwrap());
        assert_eq!(from.len(), saved.len());
        for (name, tensor) in &from {
            assert_eq!(to_f64(tensor), to_f64(&saved[name]), "{name}");
        }
        let again = LoRAAdapter::load(to.path(), &model).unwrap();
        assert_eq!(again.config(), adapter.config());
        assert_eq!(again.base_model(), adapter.base_model());
    }
}

#[test]
fn files_are_laid_out_as_those_of_peft() {
    let model = load_f32(TINY_CODER);
    let adapter = LoRAAdapter::new(LoRAConfig::default(), &model, 0).unwrap();
    let directory = tempfile::tempdir().unwrap();
    adapter.save(directory.path()).unwrap();
    assert_eq!(
        layout(&directory.path().join(WEIGHTS)),
        layout(&fixture("lora/init").join(WEIGHTS))
    );

    let ours = read_json(&directory.path().join(CONFIG));
    let theirs = read_json(&fixture("lora/init").join(CONFIG));
    for (key, value) in ours.as_object().unwrap() {
        assert!(theirs.get(key).is_some(), "PEFT has no `{key}`");
        let same = match key.as_str() {
            "base_model_name_or_path" => value == TINY_CODER,
            "lora_alpha" => value.as_f64() == theirs[key].as_f64(),
            // A set for PEFT, in any order.
            "target_modules" => value.as_array().unwrap().len() == 7,
            _ => *value == theirs[key],
        };
        assert!(same, "{key}: {value} {}", theirs[key]);
    }
    for key in [
        "peft_type",
        "task_type",
        "base_model_name_or_path",
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "bias",
        "use_rslora",
        "use_dora",
        "inference_mode",
    ] {
        assert!(ours.get(key).is_some(), "{key}");
    }
}

#[test]
fn saving_keeps_other_files_and_replaces_its_own() {
    let model = small();
    let directory = saved(&model);
    std::fs::write(directory.path().join("notes.txt"), "mine").unwrap();
    let adapter = LoRAAdapter::new(LoRAConfig::default(), &model, 0).unwrap();
    adapter.save(directory.path()).unwrap();
    assert!(directory.path().join("notes.txt").exists());
    let again = LoRAAdapter::load(directory.path(), &model).unwrap();
    assert_eq!(again.config().rank, 8);
}

#[test]
fn files_that_are_missing_or_broken() {
    let model = small();
    for name in [CONFIG, WEIGHTS] {
        let directory = saved(&model);
        let path = directory.path().join(name);
        std::fs::remove_file(&path).unwrap();
        assert_error!(
            refused(&model, directory.path()),
            Error::FileNotFound { .. },
            [path.to_str().unwrap()]
        );
        std::fs::write(&path, "{\"r\": ").unwrap();
        assert_error!(
            refused(&model, directory.path()),
            Error::InvalidFormat { .. },
            [path.to_str().unwrap()]
        );
    }
}

#[test]
fn tensors_that_do_not_fit() {
    let model = small();
    let check = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let directory = saved(&model);
        change_weights(directory.path(), change);
        refused(&model, directory.path())
    };
    let missing = check(&|tensors| {
        tensors.remove(TENSOR);
    });
    assert_error!(
        missing,
        Error::Incompatible { .. },
        [WEIGHTS, "`tensors` is 1 missing", TENSOR, "[32, 2]", CONFIG]
    );
    let reshaped = check(&|tensors| {
        let turned = tensors[TENSOR].reshape((2, 32)).unwrap();
        tensors.insert(TENSOR.to_owned(), turned);
    });
    assert_error!(
        reshaped,
        Error::Incompatible { .. },
        [
            WEIGHTS,
            TENSOR,
            "1 of another shape",
            "[2, 32], expected [32, 2]"
        ]
    );
    let integers = check(&|tensors| {
        let integers = tensors[TENSOR].to_dtype(DType::I64).unwrap();
        tensors.insert(TENSOR.to_owned(), integers);
    });
    assert_error!(
        integers,
        Error::TensorMismatch { .. },
        [WEIGHTS, TENSOR, "dtype I64"]
    );
    let extra = check(&|tensors| {
        tensors.insert("lm_head.lora_A".to_owned(), tensors[TENSOR].clone());
    });
    assert_error!(
        extra,
        Error::Incompatible { .. },
        [WEIGHTS, "1 unexpected (lm_head.lora_A)", CONFIG]
    );
    let all = check(&|tensors| {
        let b = tensors[TENSOR].clone();
        for (name, tensor) in std::mem::take(tensors) {
            if name.contains("v_proj") {
                tensors.insert(format!("{name}_"), b.clone());
            } else {
                tensors.insert(name, tensor.unsqueeze(0).unwrap());
            }
        }
    });
    assert_error!(
        all,
        Error::Incompatible { .. },
        [
            "4 missing (",
            "v_proj",
            "4 unexpected (",
            "weight_",
            "4 of another shape (",
            "q_proj"
        ]
    );
}

#[test]
fn configurations_that_make_no_sense() {
    let model = small();
    for (key, value, expected) in [
        ("target_modules", json!(["q_proj", "lm_head"]), "q_proj"),
        ("target_modules", json!([]), "at least one"),
        ("target_modules", json!(2), "a list"),
        ("r", json!(0), "1 to 4096"),
        ("r", json!(-2), "1 to 4096"),
        ("r", Value::Null, "1 to 4096"),
        ("lora_alpha", json!(0), "above 0"),
        ("lora_alpha", json!("16"), "above 0"),
        ("lora_alpha", Value::Null, "above 0"),
        ("lora_dropout", json!(1), "below 1"),
        ("bias", json!("all"), "`none`"),
        ("peft_type", Value::Null, "`LORA`"),
    ] {
        let directory = saved(&model);
        edit_json(&directory.path().join(CONFIG), key, value.clone());
        let found = if value.is_null() {
            "missing".to_owned()
        } else {
            value.to_string()
        };
        assert_error!(
            refused(&model, directory.path()),
            Error::InvalidConfig { .. },
            [CONFIG, &format!("`{key}` is {found}"), expected]
        );
    }
}

#[test]
fn kinds_of_adapters_that_are_not_computed() {
    let model = small();
    for (key, value, found) in [
        ("peft_type", json!("IA3"), "IA3"),
        ("fan_in_fan_out", json!(true), "fan_in_fan_out"),
        ("modules_to_save", json!(["lm_head"]), "lm_head"),
        ("rank_pattern", json!({"q_proj": 4}), "rank_pattern"),
        ("alpha_pattern", json!({"q_proj": 4}), "alpha_pattern"),
    ] {
        let directory = saved(&model);
        edit_json(&directory.path().join(CONFIG), key, value);
        assert_error!(
            refused(&model, directory.path()),
            Error::Unsupported { .. },
            ["adapter", found, "supported: LoRA, rsLoRA and DoRA"]
        );
    }
}

#[test]
fn sixteen_bit_weights_are_widened() {
    let model = load_f32(TINY_CODER);
    let directory = copy_of(fixture("lora/nonzero_b"));
    let logits = |path: &Path| {
        let adapter = LoRAAdapter::load(path, &model).unwrap();
        to_f64(&all_logits(&model, &[5, 6, 7], Some(&adapter)))
    };
    let whole = logits(directory.path());
    change_weights(directory.path(), |tensors| {
        for tensor in tensors.values_mut() {
            *tensor = tensor.to_dtype(DType::BF16).unwrap();
        }
    });
    let rounded = logits(directory.path());
    assert_ne!(rounded, whole);
    assert_close("bf16", &rounded, &whole, 0.01);
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let model = small();
    let other = load_f32(fixture("models/qwen2_sliding"));
    let directory = saved(&model);
    let adapter = LoRAAdapter::load(directory.path(), &model).unwrap();
    model.merge(&adapter).unwrap();
    assert_error!(
        other.merge(&adapter).unwrap_err(),
        Error::InvalidOption { .. },
        ["`adapter`", "another shape"]
    );
    assert_error!(
        refused(&other, directory.path()),
        Error::Incompatible { .. },
        [WEIGHTS, "8 missing", "layers.2", "layers.3"]
    );
}

#[test]
fn a_merged_bf16_model_is_near_the_adapted_one() {
    let model = load_as(TINY_CODER, DTypePolicy::Bf16);
    let adapter = LoRAAdapter::load(fixture("lora/nonzero_b"), &model).unwrap();
    let ids = [5, 6, 7, 8];
    let base = to_f64(&all_logits(&model, &ids, None));
    let expected = to_f64(&all_logits(&model, &ids, Some(&adapter)));
    let merged = model.merge(&adapter).unwrap();
    assert_eq!(merged.dtype(), DType::BF16);
    let found = to_f64(&all_logits(&merged, &ids, None));
    assert_close("merged", &found, &expected, 0.05);
    let distance =
        |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    assert!(distance(&found, &expected) < 0.1 * distance(&base, &expected));
    // The model itself is as before.
    assert_eq!(to_f64(&all_logits(&model, &ids, None)), base);

    let options = GenerateOptions {
        max_tokens: 4,
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let generation = Generator::new(&merged)
        .generate_from_ids(&ids, &options, |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(generation.tokens.len(), 4);
}
