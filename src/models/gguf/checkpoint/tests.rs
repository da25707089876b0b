use candle_core::quantized::{GgmlDType, QTensor};

use super::super::testing::{Writer, fixture};
use super::*;
use crate::backend::arena::Arena;
use crate::backend::{DTypePolicy, DeviceKind};
use crate::models::{Decoder, SafetensorsCheckpoint, StoredTensor, WeightSource, testing};

const MODELS: [&str; 4] = ["qwen2_tied", "qwen2_untied_gqa", "qwen3", "llama_plain"];
const QUERIES: &str = "model.layers.1.self_attn.q_proj.weight";

/// The weights of a file without blocks.
#[derive(Debug)]
struct Dense(GgufCheckpoint);

impl WeightSource for Dense {
    fn stored(&self, _: &str) -> Option<StoredTensor> {
        None
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.0.entry(name, shape).map(drop)
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.0.load_dense(name, Some(dtype), device)
    }
}

fn open(writer: &Writer) -> GgufCheckpoint {
    // Still mapped when its name is gone.
    GgufCheckpoint::open(writer.write().path()).unwrap()
}

fn original(name: &str) -> SafetensorsCheckpoint {
    SafetensorsCheckpoint::open(&Path::new("tests/fixtures/models").join(name)).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn tensors_are_those_of_the_original() {
    for name in MODELS {
        let checkpoint = open(&fixture(name));
        let original = original(name);
        let specs = checkpoint.config().tensors();
        checkpoint.validate(&specs).unwrap();
        assert_eq!(specs.len(), original.names().count());
        for TensorSpec { name, shape } in specs {
            assert_eq!(checkpoint.shape(&name), Some(&shape[..]));
            assert_eq!(checkpoint.ggml_type(&name), Some(GgmlType::F32));
            let found = checkpoint.load_dense(&name, None, &Device::Cpu).unwrap();
            let expected = original.load(&name, None, &Device::Cpu).unwrap();
            assert_eq!(found.dims(), expected.dims());
            assert_eq!(numbers(&found), numbers(&expected), "{name}");
        }
    }
}

#[test]
fn logits_are_those_of_the_original() {
    for name in MODELS {
        let checkpoint = open(&fixture(name));
        let config = checkpoint.config().clone();
        let (dtype, device) = (DType::F32, &Device::Cpu);
        let weights = Dense(checkpoint);
        let decoder = Decoder::new(
            config,
            dtype,
            device,
            None,
            &weights,
            Arena::new(0),
            &mut |_| Ok(()),
        );
        let model = testing::model(name, DeviceKind::Cpu, DTypePolicy::F32);
        let tokens = Tensor::new(&[[3u32, 1, 4, 1, 5, 9, 2, 6]], &Device::Cpu).unwrap();
        let logits = |decoder: &Decoder| {
            let hidden = decoder.forward(&tokens, None, None).unwrap();
            numbers(&decoder.logits(&hidden.squeeze(0).unwrap()).unwrap())
        };
        let expected = logits(model.decoder());
        assert!(expected.iter().any(|logit| logit.abs() > 1e-3));
        assert_eq!(logits(&decoder.unwrap()), expected, "{name}");
    }
}

#[test]
fn rows_of_blocks_are_in_the_order_of_the_original() {
    let weight = original("llama_plain")
        .load(QUERIES, None, &Device::Cpu)
        .unwrap();
    let mut writer = fixture("llama_plain");
    let entry = writer
        .tensors
        .iter()
        .position(|entry| entry.name == "blk.1.attn_q.weight");
    let entry = writer.tensors.remove(entry.unwrap());
    let at = usize::try_from(entry.offset).unwrap();
    let stored = &writer.data[at..at + 64 * 64 * 4];
    let stored = Tensor::from_raw_buffer(stored, DType::F32, &[64, 64], &Device::Cpu).unwrap();
    assert_ne!(numbers(&stored), numbers(&weight));
    let quantize = |weight: &Tensor| QTensor::quantize(weight, GgmlDType::Q8_0).unwrap();
    writer.add(
        &entry.name,
        &[64, 64],
        8,
        &quantize(&stored).data().unwrap(),
    );
    let checkpoint = open(&writer);
    checkpoint.validate(&checkpoint.config().tensors()).unwrap();
    assert_eq!(checkpoint.ggml_type(QUERIES).unwrap().to_string(), "Q8_0");
    // Blocks lie within rows.
    let expected = quantize(&weight);
    assert_eq!(checkpoint.bytes(QUERIES).unwrap(), expected.data().unwrap());
    let error = checkpoint
        .load_dense(QUERIES, None, &Device::Cpu)
        .unwrap_err();
    let expected = "`blk.1.attn_q.weight` has type Q8_0; expected F32, F16 or BF16";
    assert!(error.to_string().contains(expected), "{error}");
    // What need not be put in order is not copied.
    let values = checkpoint
        .bytes("model.layers.1.self_attn.v_proj.weight")
        .unwrap();
    assert!(matches!(values, Cow::Borrowed(_)));
}

#[test]
fn numbers_of_16_bits_are_converted() {
    let norm = "model.norm.weight";
    let values = [0.5f32, -3.0, 1024.0, 0.0];
    for (type_id, dtype, stored) in [
        (1, DType::F16, [0x3800u16, 0xc200, 0x6400, 0]),
        (30, DType::BF16, [0x3f00, 0xc040, 0x4480, 0]),
    ] {
        let mut writer = fixture("llama_plain");
        writer
            .tensors
            .retain(|entry| entry.name != "output_norm.weight");
        let bytes: Vec<u8> = stored.iter().flat_map(|n| n.to_le_bytes()).collect();
        writer.add("output_norm.weight", &[4], type_id, &bytes);
        let checkpoint = open(&writer);
        let stored = checkpoint.load_dense(norm, None, &Device::Cpu).unwrap();
        assert_eq!(stored.dtype(), dtype);
        let found = checkpoint
            .load_dense(norm, Some(DType::F32), &Device::Cpu)
            .unwrap();
        assert_eq!(found.to_vec1::<f32>().unwrap(), values);
    }
}

#[test]
fn validation_names_what_is_missing_different_or_too_much() {
    let message = |change: &dyn Fn(&mut Writer)| {
        let mut writer = fixture("llama_plain");
        change(&mut writer);
        let checkpoint = open(&writer);
        let error = checkpoint
            .validate(&checkpoint.config().tensors())
            .unwrap_err();
        error.to_string()
    };
    let found = message(&|writer| {
        writer
            .tensors
            .retain(|entry| entry.name != "blk.1.ffn_up.weight");
    });
    assert!(
        found.contains("`blk.1.ffn_up.weight` is missing; expected shape [64, 64]"),
        "{found}"
    );
    let found = message(&|writer| {
        let mut tensors = writer.tensors.iter_mut();
        let entry = tensors.find(|entry| entry.name == "blk.1.ffn_up.weight");
        entry.unwrap().dims = vec![64, 32];
    });
    assert!(
        found.contains("has shape [32, 64]; expected [64, 64]"),
        "{found}"
    );
    for (type_id, name) in [(24, "I8"), (39, "MXFP4"), (77, "number 77")] {
        let found = message(&|writer| {
            let mut tensors = writer.tensors.iter_mut();
            let entry = tensors.find(|entry| entry.name == "blk.1.ffn_up.weight");
            entry.unwrap().type_id = type_id;
        });
        let expected = format!("has type {name}; expected F32, F16, BF16, Q4_0");
        assert!(found.contains(&expected), "{found}");
    }
    let found = message(&|writer| writer.add("blk.1.attn_output.bias", &[64], 0, &[0; 256]));
    assert!(
        found.contains("tensor `blk.1.attn_output.bias` is not supported"),
        "{found}"
    );
}

#[test]
fn tensors_that_cannot_be_read_are_named() {
    let mut writer = fixture("llama_plain");
    for entry in &mut writer.tensors {
        match &*entry.name {
            "blk.1.attn_v.weight" => entry.type_id = 77,
            "blk.1.attn_q.weight" => entry.dims = vec![64, 60],
            _ => {}
        }
    }
    let checkpoint = open(&writer);
    let message = |name: &str| checkpoint.bytes(name).unwrap_err().to_string();
    let found = message("model.layers.1.self_attn.v_proj.weight");
    assert!(
        found.contains("`blk.1.attn_v.weight` has type number 77"),
        "{found}"
    );
    let found = message(QUERIES);
    assert!(
        found.contains("shape [60, 64]; expected 4 heads of 16 rows"),
        "{found}"
    );
    assert!(
        message("model.layers.9.mlp.up_proj.weight").contains("`blk.9.ffn_up.weight` is missing")
    );
    assert!(message("other").contains("`other` is missing"));
}
