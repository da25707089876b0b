//! Loading broken model directories: each error names the file, and what is wrong in it.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{TINY_CODER, copy_of, edit_json, fixture};
use metal_candle::backend::DeviceKind;
use metal_candle::{Error, Model, ModelLoader, Result};
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;

const WEIGHTS: &str = "model.safetensors";
const TENSOR: &str = "model.layers.1.mlp.up_proj.weight";

/// On the CPU: what is wrong with a directory is found before a device is opened.
fn load(path: impl AsRef<Path>) -> Result<Model> {
    ModelLoader::new().with_device(DeviceKind::Cpu).load(path)
}

fn small() -> tempfile::TempDir {
    copy_of(fixture("models/qwen2_tied"))
}

/// Rewrites the weights of a model directory.
fn change_weights(directory: &Path, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let path = directory.join(WEIGHTS);
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    change(&mut tensors);
    // Another file: the old one may still be mapped.
    let new = directory.join("new");
    candle_core::safetensors::save(&tensors, &new).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[test]
fn a_path_that_is_no_directory() {
    assert_error!(
        load("no/such/model").unwrap_err(),
        Error::FileNotFound { .. },
        ["no/such/model", "config.json", WEIGHTS]
    );
    assert_error!(
        load("Cargo.toml").unwrap_err(),
        Error::InvalidFormat { .. },
        ["Cargo.toml", "is a file", "expected a model directory"]
    );
}

#[test]
fn each_file_that_is_missing() {
    for name in ["config.json", WEIGHTS] {
        let model = small();
        let path = model.path().join(name);
        std::fs::remove_file(&path).unwrap();
        assert_error!(
            load(model.path()).unwrap_err(),
            Error::FileNotFound { .. },
            [path.to_str().unwrap(), "expected"]
        );
    }
    let model = copy_of(fixture("models/qwen2_tied_sharded"));
    let shard = model.path().join("model-00002-of-00003.safetensors");
    std::fs::remove_file(&shard).unwrap();
    assert_error!(
        load(model.path()).unwrap_err(),
        Error::FileNotFound { .. },
        [shard.to_str().unwrap()]
    );
}

#[test]
fn files_that_may_be_missing() {
    let model = copy_of(TINY_CODER);
    for name in [
        "generation_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
    ] {
        std::fs::remove_file(model.path().join(name)).unwrap();
        load(model.path()).unwrap();
    }
}

#[test]
fn weights_cut_at_any_length() {
    let model = small();
    let path = model.path().join(WEIGHTS);
    let whole = std::fs::read(&path).unwrap();
    let header = usize::try_from(u64::from_le_bytes(whole[..8].try_into().unwrap())).unwrap();
    for length in [0, 4, 8, 8 + header / 2, 8 + header, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert_error!(
            load(model.path()).unwrap_err(),
            Error::InvalidFormat { .. },
            [path.to_str().unwrap()]
        );
    }
    std::fs::write(&path, &whole).unwrap();
    load(model.path()).unwrap();
}

#[test]
fn files_of_garbage() {
    let model = copy_of(TINY_CODER);
    for name in [
        WEIGHTS,
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "config.json",
    ] {
        let path = model.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        for garbage in [&b"\xff\xfe garbage, and quite a lot of it"[..], b"{\"a\": "] {
            std::fs::write(&path, garbage).unwrap();
            assert_error!(
                load(model.path()).unwrap_err(),
                Error::InvalidFormat { .. },
                [path.to_str().unwrap()]
            );
        }
        std::fs::write(&path, whole).unwrap();
    }
}

#[test]
fn tensors_that_do_not_fit_the_configuration() {
    let model = small();
    change_weights(model.path(), |tensors| {
        tensors.remove(TENSOR);
    });
    assert_error!(
        load(model.path()).unwrap_err(),
        Error::MissingTensor { .. },
        [WEIGHTS, TENSOR, "expected shape [64, 64]"]
    );

    let model = small();
    change_weights(model.path(), |tensors| {
        let short = tensors[TENSOR].narrow(0, 0, 63).unwrap();
        tensors.insert(TENSOR.to_owned(), short);
    });
    assert_error!(
        load(model.path()).unwrap_err(),
        Error::TensorMismatch { .. },
        [WEIGHTS, TENSOR, "shape [63, 64]", "expected [64, 64]"]
    );

    let model = small();
    change_weights(model.path(), |tensors| {
        let integers = tensors[TENSOR].to_dtype(DType::I64).unwrap();
        tensors.insert(TENSOR.to_owned(), integers);
    });
    assert_error!(
        load(model.path()).unwrap_err(),
        Error::TensorMismatch { .. },
        [WEIGHTS, TENSOR, "dtype I64", "F32, F16 or BF16"]
    );
}

#[test]
fn a_configuration_that_does_not_fit_the_weights() {
    let model = small();
    edit_json(
        &model.path().join("config.json"),
        "num_hidden_layers",
        json!(3),
    );
    assert_error!(
        load(model.path()).unwrap_err(),
        Error::MissingTensor { .. },
        ["model.layers.2."]
    );
    edit_json(
        &model.path().join("config.json"),
        "hidden_size",
        json!("wide"),
    );
    assert_error!(
        load(model.path()).unwrap_err(),
        Error::InvalidConfig { .. },
        [
            "config.json",
            "`hidden_size`",
            "wide",
            "expected a whole number"
        ]
    );
}

#[test]
fn other_architectures_are_refused_by_name() {
    let model = small();
    let path = model.path().join("config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("\"qwen2\"", "\"gemma3\"")).unwrap();
    assert_error!(
        load(model.path()).unwrap_err(),
        Error::Unsupported { .. },
        [
            "config.json: architecture",
            "`gemma3`",
            "supported: qwen2, qwen3, llama, mistral"
        ]
    );
}

#[cfg(not(any(
    feature = "cuda",
    feature = "metal",
    target_os = "macos",
    target_os = "ios"
)))]
#[test]
fn a_gpu_that_the_build_does_not_have() {
    for (kind, name) in [(DeviceKind::Metal, "metal"), (DeviceKind::Cuda, "cuda")] {
        assert_error!(
            ModelLoader::new()
                .with_device(kind)
                .load(fixture("models/qwen2_tied"))
                .unwrap_err(),
            Error::DeviceUnavailable { .. },
            [&format!("`{name}`"), "this build has no"]
        );
    }
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_model() {
    let model = small();
    let tokenizer = "tokenizer.json";
    let from = Path::new(TINY_CODER).join(tokenizer);
    std::fs::copy(from, model.path().join(tokenizer)).unwrap();
    assert_error!(
        load(model.path()).unwrap_err(),
        Error::InvalidConfig { .. },
        [
            "config.json",
            "`vocab_size` is 208",
            "the 6144 tokens of the tokenizer"
        ]
    );
}
