//! What the tests of this layer share.

use std::sync::OnceLock;

use crate::ModelLoader;
use crate::backend::DeviceKind;
use crate::models::Model;

/// The small code model, on the CPU.
pub(super) fn tiny_coder() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        ModelLoader::new()
            .with_device(DeviceKind::Cpu)
            .load("assets/tiny-coder")
            .unwrap()
    })
}
