//! Adapters of mlx-lm and of PEFT, and from one format to the other.

mod common;

use candle_core::{Device, Tensor};
use common::{TINY_CODER, all_logits, assert_close, copy_of, edit_json, fixture, load_f32};
use common::{read_json, to_f64};
use metal_candle::checkpoint::AdapterFormat;
use metal_candle::models::{LayerSelection, LoRATargets};
use metal_candle::{Error, LoRAAdapter, LoRAConfig, LoRAScale, Model, Projection};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const PEFT: &str = "adapter_model.safetensors";
const MLX: &str = "adapters.safetensors";

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// Asserts that two files hold the same tensors, to the last bit.
fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (tensors(found), tensors(expected));
    assert_eq!(found.len(), expected.len());
    for (name, tensor) in &expected {
        assert_eq!(found[name].dims(), tensor.dims(), "{name}");
        assert_eq!(to_f64(&found[name]), to_f64(tensor), "{name}");
    }
}

/// Saves an adapter in a format and loads it again.
fn through(adapter: &LoRAAdapter, format: AdapterFormat, model: &Model) -> LoRAAdapter {
    let folder = tempfile::tempdir().unwrap();
    adapter.save_as(folder.path(), format).unwrap();
    assert_eq!(AdapterFormat::of(folder.path()).unwrap(), format);
    LoRAAdapter::load(folder.path(), model).unwrap()
}

fn logits(model: &Model, adapter: &LoRAAdapter) -> Vec<f64> {
    to_f64(&all_logits(model, &[5, 6, 7, 8], Some(adapter)))
}

#[test]
fn there_and_back_no_bit_changes() {
    let model = load_f32(TINY_CODER);
    for (name, file, other) in [
        ("mlx/lora_adapter", MLX, AdapterFormat::Peft),
        ("lora/nonzero_b", PEFT, AdapterFormat::Mlx),
        ("lora/small_dora", PEFT, AdapterFormat::Mlx),
        ("lora/small_rslora", PEFT, AdapterFormat::Mlx),
    ] {
        let source = fixture(name);
        let adapter = LoRAAdapter::load(&source, &model).unwrap();
        let converted = through(&adapter, other, &model);
        let scaling = adapter.config().scaling();
        assert!((converted.config().scaling() / scaling - 1.0).abs() < 1e-12);
        assert_close(
            name,
            &logits(&model, &converted),
            &logits(&model, &adapter),
            1e-6,
        );
        let folder = tempfile::tempdir().unwrap();
        let format = AdapterFormat::of(&source).unwrap();
        converted.save_as(folder.path(), format).unwrap();
        assert_same(&folder.path().join(file), &source.join(file));
        assert_eq!(adapter.base_model(), converted.base_model());
    }
}

#[test]
fn a_configuration_of_mlx_lm_has_its_keys() {
    let model = load_f32(TINY_CODER);
    let adapter = LoRAAdapter::load(fixture("mlx/lora_adapter"), &model).unwrap();
    assert_eq!(adapter.config().layers, LayerSelection::Last(3));
    assert_eq!(adapter.config().scale, LoRAScale::Factor(8.0));
    let folder = tempfile::tempdir().unwrap();
    adapter.save_as(folder.path(), AdapterFormat::Mlx).unwrap();
    let ours = read_json(&folder.path().join(CONFIG));
    let theirs = read_json(&fixture("mlx/lora_adapter").join(CONFIG));
    for key in ["fine_tune_type", "num_layers", "model"] {
        assert_eq!(ours[key], theirs[key]);
    }
    for key in ["rank", "scale", "dropout"] {
        assert_eq!(ours["lora_parameters"][key], theirs["lora_parameters"][key]);
    }
    assert_eq!(ours["lora_parameters"]["keys"].as_array().unwrap().len(), 7);

    // As a list of layers for PEFT, which is the same here.
    let peft = tempfile::tempdir().unwrap();
    adapter.save(peft.path()).unwrap();
    let config = read_json(&peft.path().join(CONFIG));
    assert_eq!(config["layers_to_transform"], json!([3, 4, 5]));
    assert_eq!(config["lora_alpha"], 32.0);
}

#[test]
fn every_selection_of_modules_survives_both_formats() {
    let model = load_f32(fixture("models/qwen2_sliding"));
    let config = |targets: LoRATargets, layers: LayerSelection| LoRAConfig {
        rank: 2,
        use_dora: true,
        targets,
        layers,
        ..LoRAConfig::default()
    };
    let some = || LoRATargets::from([Projection::Query, Projection::Down]);
    let pattern = || LoRATargets::Pattern(r".*(1\.mlp\.up_proj|[23]\..*v_proj)".to_owned());
    for (config, modules) in [
        (config(LoRATargets::default(), LayerSelection::All), 28),
        (config(some(), LayerSelection::Last(2)), 4),
        (config(some(), LayerSelection::These([0, 2].into())), 4),
        (config(pattern(), LayerSelection::All), 3),
        (config(pattern(), LayerSelection::Last(2)), 2),
    ] {
        let adapter = LoRAAdapter::new(config, &model, 1).unwrap();
        for format in [AdapterFormat::Peft, AdapterFormat::Mlx] {
            let folder = tempfile::tempdir().unwrap();
            let again = through(&adapter, format, &model);
            again.save(folder.path()).unwrap();
            let found = tensors(&folder.path().join(PEFT));
            assert_eq!(found.len(), 3 * modules, "{format:?}");
            adapter.save(folder.path()).unwrap();
            let expected = tensors(&folder.path().join(PEFT));
            for (name, tensor) in &expected {
                assert_eq!(to_f64(&found[name]), to_f64(tensor), "{name}");
            }
            assert!(again.config().use_dora);
        }
    }
}

#[test]
fn the_files_tell_the_format() {
    let model = load_f32(TINY_CODER);
    let folder = copy_of(fixture("mlx/lora_adapter"));
    let directory = folder.path();
    std::fs::write(directory.join("notes.txt"), "mine").unwrap();
    let adapter = LoRAAdapter::load(directory, &model).unwrap();
    // In the place of the other one, whose configuration would be gone.
    for (format, there, gone) in [
        (AdapterFormat::Peft, PEFT, MLX),
        (AdapterFormat::Mlx, MLX, PEFT),
    ] {
        adapter.save_as(directory, format).unwrap();
        assert!(directory.join(there).exists() && !directory.join(gone).exists());
        assert!(directory.join("notes.txt").exists());
        LoRAAdapter::load(directory, &model).unwrap();
    }
    let load = || LoRAAdapter::load(directory, &model).unwrap_err();
    std::fs::copy(directory.join(MLX), directory.join(PEFT)).unwrap();
    assert_error!(
        load(),
        Error::InvalidFormat { .. },
        [directory.to_str().unwrap(), PEFT, MLX, "one of them"]
    );
    for name in [PEFT, MLX] {
        std::fs::remove_file(directory.join(name)).unwrap();
    }
    assert_error!(
        load(),
        Error::FileNotFound { .. },
        [directory.to_str().unwrap(), PEFT, MLX]
    );
    for (name, format) in [("peft", AdapterFormat::Peft), ("mlx", AdapterFormat::Mlx)] {
        assert_eq!(AdapterFormat::from_name(name).unwrap(), format);
    }
    assert_error!(
        AdapterFormat::from_name("gguf").unwrap_err(),
        Error::InvalidOption { .. },
        ["`format`", "`gguf`", "`peft` or `mlx`"]
    );
}

#[test]
fn tensors_must_be_those_of_the_configuration() {
    let model = load_f32(TINY_CODER);
    let check = |key: &str, value: Value| {
        let folder = copy_of(fixture("mlx/lora_adapter"));
        edit_json(&folder.path().join(CONFIG), key, value);
        LoRAAdapter::load(folder.path(), &model).unwrap_err()
    };
    // One layer more: the first ten are named, with their shapes.
    assert_error!(
        check("num_layers", json!(4)),
        Error::Incompatible { .. },
        [
            MLX,
            "14 missing (model.layers.2.self_attn.q_proj.lora_a [256, 4]",
            "and 4 more",
            CONFIG
        ]
    );
    assert_error!(
        check("num_layers", json!(2)),
        Error::Incompatible { .. },
        ["14 unexpected (model.layers.3.", "and 4 more"]
    );
    let parameters = |rank: u32| json!({"rank": rank, "scale": 8.0});
    assert_error!(
        check("lora_parameters", parameters(2)),
        Error::Incompatible { .. },
        [
            "42 of another shape (",
            "lora_a [256, 4], expected [256, 2]",
            "and 32 more"
        ]
    );
    assert_error!(
        check("fine_tune_type", json!("dora")),
        Error::Incompatible { .. },
        ["21 missing (model.layers.3.self_attn.q_proj.m [256]"]
    );
}
