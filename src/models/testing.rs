//! Models for the tests of this layer and those above it.

use super::{Model, ModelLoader};
use crate::backend::{DTypePolicy, DeviceKind};

/// A small model of the fixtures.
pub(crate) fn model(name: &str, device: DeviceKind, dtype: DTypePolicy) -> Model {
    ModelLoader::new()
        .with_device(device)
        .with_dtype(dtype)
        .load(format!("tests/fixtures/models/{name}"))
        .unwrap()
}
