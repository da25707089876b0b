//! What the tests share: reading fixtures, making rows and comparing numbers.
#![allow(dead_code, unused_imports, reason = "each test uses a part of it")]

#[cfg(feature = "training")]
pub mod training;
#[cfg(feature = "training")]
pub use training::rows;

use candle_core::{DType, Device, Tensor};
use metal_candle::backend::{DTypePolicy, DeviceKind};
use metal_candle::models::KvCacheType;
use metal_candle::{LoRAAdapter, LoRAConfig, LoRAScale, Model, ModelLoader};
use serde_json::Value;
use std::path::{Path, PathBuf};

pub const TINY_CODER: &str = "assets/tiny-coder";

pub fn fixture(name: &str) -> PathBuf {
    Path::new("tests/fixtures").join(name)
}

pub fn expected(directory: &str) -> Value {
    read_json(&fixture(directory).join("expected.json"))
}

pub fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The device that the tests run on: that of `METAL_CANDLE_TEST_DEVICE`, `cpu` where it is not set.
pub fn device() -> DeviceKind {
    let name = std::env::var("METAL_CANDLE_TEST_DEVICE");
    DeviceKind::from_name(name.as_deref().unwrap_or("cpu")).unwrap()
}

/// How many of a long run's steps to take: all, but a few on a device made of software, which is
/// some hundred times slower.
pub fn affordable(steps: usize) -> usize {
    if cfg!(all(feature = "metal", not(target_vendor = "apple"))) {
        steps.min(2)
    } else {
        steps
    }
}

/// Loads a model in f32, as the references were computed.
pub fn load_f32(path: impl AsRef<Path>) -> Model {
    load_as(path, DTypePolicy::F32)
}

pub fn ids(value: &Value) -> Vec<u32> {
    let array = value.as_array().unwrap();
    array
        .iter()
        .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

/// The logits of every position, (n, vocabulary).
pub fn all_logits(model: &Model, ids: &[u32], adapter: Option<&LoRAAdapter>) -> Tensor {
    let tokens = Tensor::new(ids, model.device())
        .unwrap()
        .unsqueeze(0)
        .unwrap();
    let hidden = model.decoder().forward(&tokens, None, adapter).unwrap();
    model.decoder().logits(&hidden.squeeze(0).unwrap()).unwrap()
}

pub fn to_f64(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor
        .to_device(&Device::Cpu)
        .unwrap()
        .to_dtype(DType::F64)
        .unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The perplexity of a text that is read `chunk` tokens at a time, and the bytes of the cache that holds it.
pub fn perplexity(
    model: &Model,
    ids: &[u32],
    chunk: usize,
    cache_type: KvCacheType,
) -> (f64, usize) {
    let decoder = model.decoder();
    let mut cache = decoder.new_cache_of(cache_type);
    let mut nll = 0.0;
    for (start, part) in (0..).step_by(chunk).zip(ids.chunks(chunk)) {
        let tokens = Tensor::new(part, model.device()).unwrap();
        let tokens = tokens.unsqueeze(0).unwrap();
        let hidden = decoder.forward(&tokens, Some(&mut cache), None).unwrap();
        let logits = decoder.logits(&hidden.squeeze(0).unwrap()).unwrap();
        let logits = logits.to_device(&Device::Cpu).unwrap();
        let logits = logits.to_dtype(DType::F64).unwrap();
        let log_softmax = candle_nn::ops::log_softmax(&logits, 1).unwrap();
        let rows = log_softmax.to_vec2::<f64>().unwrap();
        let targets = ids.iter().skip(start + 1);
        nll -= rows
            .iter()
            .zip(targets)
            .map(|(row, &target)| row[target as usize])
            .sum::<f64>();
    }
    assert_eq!(cache.len(), ids.len());
    let scored = u32::try_from(ids.len() - 1).unwrap();
    ((nll / f64::from(scored)).exp(), cache.size_in_bytes())
}

/// Asserts that numbers agree within `tolerance` of the largest of them.
pub fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let size = expected.iter().fold(0f64, |max, x| max.max(x.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0f64, f64::max);
    assert!(
        worst <= tolerance * size && found.iter().all(|x| x.is_finite()),
        "{what}: off by {worst}, largest {size}"
    );
}

/// Asserts that logits agree with `count`, `mean`, `std` and `l2` of the reference.
pub fn assert_statistics(what: &str, found: &[f64], expected: &Value) {
    #[allow(clippy::cast_precision_loss)]
    let count = found.len() as f64;
    let mean = found.iter().sum::<f64>() / count;
    let square = found.iter().map(|x| x * x).sum::<f64>();
    let std = (square / count - mean * mean).sqrt();
    for (name, value) in [("mean", mean), ("std", std), ("l2", square.sqrt())] {
        let reference = expected[name].as_f64().unwrap();
        let scale = if name == "mean" { std } else { reference };
        assert!(
            (value - reference).abs() < 1e-4 * scale,
            "{what} {name}: {value} {reference}"
        );
    }
}

/// Asserts that the logits of one position agree with the reference's extract of them.
pub fn assert_extract(what: &str, found: &[f64], expected: &Value, tolerance: f64) {
    let top: Vec<f64> = ids(&expected["top20_ids"])
        .iter()
        .map(|&id| found[id as usize])
        .collect();
    assert_close(what, &top, &numbers(&expected["top20_values"]), tolerance);
    assert_close(
        what,
        &found[..32],
        &numbers(&expected["first32"]),
        tolerance,
    );
    assert_statistics(what, found, expected);
}

/// Loads a model in the given dtype on the device under test.
pub fn load_as(path: impl AsRef<Path>, dtype: DTypePolicy) -> Model {
    load_on(device(), path, dtype)
}

/// Loads a model in the given dtype on the given device.
pub fn load_on(device: DeviceKind, path: impl AsRef<Path>, dtype: DTypePolicy) -> Model {
    ModelLoader::new()
        .with_device(device)
        .with_dtype(dtype)
        .load(path)
        .unwrap()
}

/// The folder of an adapter whose A and B are both away from zero, as after some training.
pub fn trained_adapter(path: &Path) -> tempfile::TempDir {
    let config = LoRAConfig {
        rank: 2,
        scale: LoRAScale::Alpha(4.0),
        ..LoRAConfig::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let model = load_on(DeviceKind::Cpu, path, DTypePolicy::F32);
    let adapter = LoRAAdapter::new(config, &model, 3).unwrap();
    adapter.save(folder.path()).unwrap();
    let file = folder.path().join("adapter_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    for (name, tensor) in &mut tensors {
        if name.contains("lora_B") {
            let shape = tensor.dims().to_vec();
            let count = u32::try_from(tensor.elem_count()).unwrap();
            // Neither equal nor of one sign: sines of steps of one radian.
            let values = Tensor::arange(0, count, &Device::Cpu).unwrap();
            let values = values.to_dtype(DType::F32).unwrap();
            let values = (values.sin().unwrap() * 0.2).unwrap();
            *tensor = values.reshape(shape).unwrap();
        }
    }
    candle_core::safetensors::save(&tensors, file).unwrap();
    folder
}

/// A copy of a directory that a test may damage.
pub fn copy_of(directory: impl AsRef<Path>) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    copy
}

/// A model whose weights of one kind are multiplied by a number, in f32 on the device under test.
pub fn disturbed(path: impl AsRef<Path>, by: f64) -> Model {
    let copy = copy_of(path);
    let file = copy.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    for (name, tensor) in &mut tensors {
        if name.ends_with("down_proj.weight") {
            *tensor = tensor.affine(by, 0.0).unwrap();
        }
    }
    candle_core::safetensors::save(&tensors, &file).unwrap();
    load_f32(copy.path())
}

/// Sets a key of a JSON file, or removes it where the value is null.
pub fn edit_json(path: &Path, key: &str, value: Value) {
    let mut json = read_json(path);
    if value.is_null() {
        json.as_object_mut().unwrap().remove(key);
    } else {
        json[key] = value;
    }
    std::fs::write(path, json.to_string()).unwrap();
}

/// Asserts that an error is of a variant and that its message holds all of the words.
#[macro_export]
macro_rules! assert_error {
    ($error:expr, $variant:pat, $words:expr) => {
        let error: metal_candle::Error = $error;
        assert!(matches!(&error, $variant), "{error:?}");
        let message = error.to_string();
        for word in $words {
            assert!(message.contains(word), "no `{word}` in: {message}");
        }
    };
}
