//! Models for the tests of this layer and those above it.

use super::{Model, ModelLoader};
use crate::backend::{DTypePolicy, DeviceKind};
use serde_json::Value;

/// A small model of the fixtures.
pub(crate) fn model(name: &str, device: DeviceKind, dtype: DTypePolicy) -> Model {
    ModelLoader::new()
        .with_device(device)
        .with_dtype(dtype)
        .load(format!("tests/fixtures/models/{name}"))
        .unwrap()
}

/// The small model `qwen2_tied`, of 208 tokens, on the CPU, with further files in its directory.
pub(crate) fn model_with(files: &[(&str, Value)]) -> Model {
    let original = std::path::Path::new("tests/fixtures/models/qwen2_tied");
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(original.join(name), folder.path().join(name)).unwrap();
    }
    for (name, contents) in files {
        std::fs::write(folder.path().join(name), contents.to_string()).unwrap();
    }
    ModelLoader::new()
        .with_device(DeviceKind::Cpu)
        .load(folder.path())
        .unwrap()
}
