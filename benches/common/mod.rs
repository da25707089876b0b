//! What benches share: a model in every format, and a step that ends with its logits on the host.

use candle_core::Tensor;
use metal_candle::backend::{DTypePolicy, DeviceKind};
use metal_candle::checkpoint::GgufType;
use metal_candle::models::KvCache;
use metal_candle::{Model, ModelLoader};

/// A dtype of a directory, or a format of a GGUF file.
pub const FORMATS: [&str; 5] = ["f32", "bf16", "f16", "Q8_0", "Q4_K"];

/// tiny-coder in a format, on the CPU.
pub fn model(format: &str) -> Model {
    let loader = ModelLoader::new().with_device(DeviceKind::Cpu);
    let path = "assets/tiny-coder";
    let Ok(kind) = GgufType::from_name(format) else {
        let dtype = DTypePolicy::from_name(format).unwrap();
        return loader.with_dtype(dtype).load(path).unwrap();
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    loader.load(path).unwrap().save_gguf(&file, kind).unwrap();
    loader.load(file).unwrap()
}

/// Some ids that the model knows.
pub fn tokens(count: usize) -> Vec<u32> {
    (100..5100).step_by(7).cycle().take(count).collect()
}

/// The logits after the tokens, which the cache gets.
pub fn step(model: &Model, tokens: &[u32], cache: &mut KvCache) -> Vec<f32> {
    let tokens = Tensor::new(tokens, model.device()).unwrap();
    let tokens = tokens.unsqueeze(0).unwrap();
    let hidden = model.decoder().forward(&tokens, Some(cache), None).unwrap();
    let last = hidden.narrow(1, hidden.dims()[1] - 1, 1).unwrap();
    let logits = model.decoder().logits(&last.flatten_to(1).unwrap());
    logits.unwrap().flatten_all().unwrap().to_vec1().unwrap()
}
