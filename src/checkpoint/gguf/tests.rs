//! Files are read back by candle's reader, and held to the model that they were made from.

mod tokenizers;

use super::*;
use crate::backend::{DTypePolicy, DeviceKind};
use crate::models::{LoRAAdapter, ModelLoader, Quantization};
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value as Read};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value as Json, json};
use std::fs::{self, File};

const TINY_CODER: &str = "assets/tiny-coder";
const FIXTURES: &str = "tests/fixtures/models";

fn load(directory: impl AsRef<Path>) -> Model {
    let loader = ModelLoader::new().with_device(DeviceKind::Cpu);
    loader.with_dtype(DTypePolicy::F32).load(directory).unwrap()
}

/// A model with another tokenizer.
fn with_tokenizer(directory: &str, tokenizer: &Json, config: &Json) -> Model {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(Path::new(directory).join(name), folder.path().join(name)).unwrap();
    }
    let write = |name: &str, contents: &Json| {
        fs::write(folder.path().join(name), contents.to_string()).unwrap();
    };
    write("tokenizer.json", tokenizer);
    write("tokenizer_config.json", config);
    load(folder.path())
}

/// A byte-level tokenizer of a few tokens, for models of 208 rows.
fn byte_level() -> Json {
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(4, "<end>", true), added(5, "<|x|>", false), added(6, "word", false)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false,
            "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3}, "merges": [["a", "b"]]}
    })
}

/// A file as candle reads it.
struct Written {
    content: Content,
    file: File,
}

fn written(model: &Model, kind: GgufType) -> Written {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out/model.gguf");
    model.save_gguf(&path, kind).unwrap();
    let mut file = File::open(path).unwrap();
    let content = Content::read(&mut file).unwrap();
    Written { content, file }
}

impl Written {
    fn value(&self, key: &str) -> &Read {
        let found = self.content.metadata.get(key);
        found.unwrap_or_else(|| panic!("no {key}"))
    }

    fn number(&self, key: &str) -> u32 {
        self.value(key).to_u32().unwrap()
    }

    fn text(&self, key: &str) -> &str {
        self.value(key).to_string().unwrap()
    }

    fn texts(&self, key: &str) -> Vec<&str> {
        let list = self.value(key).to_vec().unwrap().iter();
        list.map(|text| text.to_string().unwrap().as_str())
            .collect()
    }

    fn types(&self) -> Vec<i32> {
        let list = self.value("tokenizer.ggml.token_type").to_vec().unwrap();
        list.iter().map(|kind| kind.to_i32().unwrap()).collect()
    }

    fn has(&self, key: &str) -> bool {
        self.content.metadata.contains_key(key)
    }

    fn format(&self, name: &str) -> GgmlDType {
        self.content.tensor_infos[name].ggml_dtype
    }

    fn tensor(&mut self, name: &str) -> Tensor {
        let tensor = self.content.tensor(&mut self.file, name, &Device::Cpu);
        tensor.unwrap().dequantize(&Device::Cpu).unwrap()
    }
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    tensor.to_vec1().unwrap()
}

/// The largest part of a tensor, by the root of its mean square, that a format may lose.
fn bound(format: GgmlDType) -> f64 {
    match format {
        GgmlDType::F32 => 0.0,
        GgmlDType::F16 => 5e-4,
        GgmlDType::BF16 => 4e-3,
        GgmlDType::Q8_0 => 0.01,
        GgmlDType::Q6K => 0.03,
        GgmlDType::Q5_0 => 0.06,
        GgmlDType::Q4K => 0.1,
        GgmlDType::Q4_0 => 0.12,
        other => panic!("{other:?} is not written"),
    }
}

fn assert_close(name: &str, format: GgmlDType, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims(), "{name}");
    let square = |x: f32| f64::from(x) * f64::from(x);
    let (found, expected) = (numbers(found), numbers(expected));
    let size: f64 = expected.iter().copied().map(square).sum();
    let lost = found.iter().zip(&expected).map(|(a, b)| square(a - b));
    let lost = (lost.sum::<f64>() / size).sqrt();
    assert!(
        size > 0.0 && lost <= bound(format),
        "{name}, {format:?}: {lost}"
    );
}

/// Rows of a map as llama.cpp has them for Llama, by the index of each.
fn interleaved_rows(weight: &Tensor, heads: usize) -> Tensor {
    let rows = weight.dim(0).unwrap();
    let half = rows / heads / 2;
    let source = |row: usize| {
        let (head, within) = (row / (2 * half), row % (2 * half));
        u32::try_from(head * 2 * half + (within % 2) * half + within / 2).unwrap()
    };
    let order: Vec<_> = (0..rows).map(source).collect();
    let order = Tensor::from_vec(order, rows, &Device::Cpu).unwrap();
    weight.index_select(&order, 0).unwrap()
}

#[test]
fn all_tensors_are_those_of_the_model() {
    let model = load(TINY_CODER);
    let weight = |name: &str| {
        let decoder = model.decoder();
        let mut places = decoder.places().into_iter();
        let place = places.find(|place| place.name() == name).unwrap();
        decoder.weight_at(place).unwrap()
    };
    let expected = [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
    ];
    let parts = [
        ("attn_norm.weight", "input_layernorm.weight"),
        ("attn_q.weight", "self_attn.q_proj.weight"),
        ("attn_q.bias", "self_attn.q_proj.bias"),
        ("attn_k.weight", "self_attn.k_proj.weight"),
        ("attn_k.bias", "self_attn.k_proj.bias"),
        ("attn_v.weight", "self_attn.v_proj.weight"),
        ("attn_v.bias", "self_attn.v_proj.bias"),
        ("attn_output.weight", "self_attn.o_proj.weight"),
        ("ffn_norm.weight", "post_attention_layernorm.weight"),
        ("ffn_gate.weight", "mlp.gate_proj.weight"),
        ("ffn_up.weight", "mlp.up_proj.weight"),
        ("ffn_down.weight", "mlp.down_proj.weight"),
    ];
    let layers = (0..6).flat_map(|layer| {
        let name = move |(to, from)| {
            (
                format!("blk.{layer}.{to}"),
                format!("model.layers.{layer}.{from}"),
            )
        };
        parts.map(name)
    });
    let expected = expected.map(|(to, from)| (to.to_owned(), from.to_owned()));
    let expected: Vec<_> = expected.into_iter().chain(layers).collect();
    let sensitive = [
        "blk.2.attn_v.weight",
        "blk.2.ffn_down.weight",
        "blk.5.attn_v.weight",
        "blk.5.ffn_down.weight",
    ];
    for &kind in GgufType::ALL {
        let mut file = written(&model, kind);
        assert_eq!(file.content.tensor_infos.len(), expected.len());
        assert_eq!(file.content.tensor_data_offset % 32, 0);
        for (to, from) in &expected {
            let format = file.format(to);
            let is_vector = to.contains("norm") || to.contains("bias");
            let wanted = match kind {
                _ if is_vector => GgmlDType::F32,
                GgufType::F16 => GgmlDType::F16,
                GgufType::Bf16 => GgmlDType::BF16,
                GgufType::Q8_0 => GgmlDType::Q8_0,
                GgufType::Q6K => GgmlDType::Q6K,
                _ if to == "token_embd.weight" => GgmlDType::Q6K,
                GgufType::Q4_0 => GgmlDType::Q4_0,
                GgufType::Q4K if sensitive.contains(&to.as_str()) => GgmlDType::Q6K,
                GgufType::Q4K => GgmlDType::Q4K,
            };
            assert_eq!(format, wanted, "{to} of {}", kind.name());
            assert_eq!(file.content.tensor_infos[to].offset % 32, 0);
            assert_close(to, format, &file.tensor(to), &weight(from));
        }
    }
}

#[test]
fn llama_has_its_rows_interleaved_and_its_factors() {
    for (name, vocab_size) in [("llama3_scaled", 256), ("llama_plain", 224)] {
        let directory = format!("{FIXTURES}/{name}");
        let model = with_tokenizer(&directory, &byte_level(), &json!({}));
        let config = model.config();
        let mut file = written(&model, GgufType::Q4K);
        assert_eq!(file.text("general.architecture"), "llama");
        assert_eq!(file.number("llama.vocab_size"), vocab_size);
        assert_eq!(file.number("llama.rope.dimension_count"), 16);
        for (part, path, heads) in [
            ("attn_q", "self_attn.q_proj", config.num_attention_heads),
            ("attn_k", "self_attn.k_proj", config.num_key_value_heads),
        ] {
            let place = format!("model.layers.1.{path}.weight");
            let mut places = model.decoder().places().into_iter();
            let place = places.find(|found| found.name() == place).unwrap();
            let weight = model.decoder().weight_at(place).unwrap();
            let name = format!("blk.1.{part}.weight");
            // Rows of 64 numbers are no whole blocks of 256.
            assert_eq!(file.format(&name), GgmlDType::Q5_0);
            let expected = interleaved_rows(&weight, heads);
            assert_close(&name, GgmlDType::Q5_0, &file.tensor(&name), &expected);
        }
        assert_eq!(file.format("output.weight"), GgmlDType::Q8_0);
        let factors = file.content.tensor_infos.contains_key("rope_freqs.weight");
        assert_eq!(factors, name == "llama3_scaled");
        if factors {
            let found = numbers(&file.tensor("rope_freqs.weight"));
            assert_eq!(Some(found), architecture::rope_factors(config));
        }
    }
}

#[test]
fn qwen3_has_norms_of_its_heads() {
    let directory = format!("{FIXTURES}/qwen3");
    let model = with_tokenizer(&directory, &byte_level(), &json!({}));
    let mut file = written(&model, GgufType::Q6K);
    assert_eq!(file.text("general.architecture"), "qwen3");
    assert_eq!(file.number("qwen3.attention.key_length"), 24);
    for (part, path) in [("attn_q_norm", "q_norm"), ("attn_k_norm", "k_norm")] {
        let place = format!("model.layers.1.self_attn.{path}.weight");
        let mut places = model.decoder().places().into_iter();
        let place = places.find(|found| found.name() == place).unwrap();
        let weight = model.decoder().weight_at(place).unwrap();
        let name = format!("blk.1.{part}.weight");
        assert_eq!(file.format(&name), GgmlDType::F32);
        assert_close(&name, GgmlDType::F32, &file.tensor(&name), &weight);
    }
    // Rows of 96 numbers, and not interleaved.
    assert_eq!(file.format("blk.0.attn_output.weight"), GgmlDType::Q8_0);
    let query = crate::models::Projection::Query;
    let weight = model.decoder().weight(0, query).unwrap();
    assert_close(
        "q",
        GgmlDType::Q8_0,
        &file.tensor("blk.0.attn_q.weight"),
        &weight,
    );
}

#[test]
fn metadata_describes_the_model() {
    let model = load(TINY_CODER);
    let file = written(&model, GgufType::Q4K);
    assert_eq!(file.text("general.architecture"), "qwen2");
    assert_eq!(file.text("general.type"), "model");
    assert_eq!(file.text("general.name"), "tiny-coder");
    assert_eq!(file.number("general.file_type"), 15);
    assert_eq!(file.number("general.quantization_version"), 2);
    for (key, expected) in [
        ("vocab_size", 6144),
        ("context_length", 2048),
        ("embedding_length", 256),
        ("block_count", 6),
        ("feed_forward_length", 768),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 64),
        ("attention.value_length", 64),
        ("rope.dimension_count", 64),
    ] {
        assert_eq!(file.number(&format!("qwen2.{key}")), expected, "{key}");
    }
    let number = |key: &str| file.value(&format!("qwen2.{key}")).to_f32().unwrap();
    assert!((number("rope.freq_base") - 1e6).abs() < 1.0);
    assert!((number("attention.layer_norm_rms_epsilon") - 1e-6).abs() < 1e-12);
    assert!(!file.has("qwen2.attention.sliding_window"));
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, "old").unwrap();
    let other = load(format!("{FIXTURES}/qwen2_tied"));
    assert!(other.save_gguf(&path, GgufType::Q8_0).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"old");
    let model = load(TINY_CODER);
    model.save_gguf(&path, GgufType::Q8_0).unwrap();
    assert_eq!(fs::read(&path).unwrap()[..4], *b"GGUF");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let error = model.save_gguf(folder.path(), GgufType::Q8_0).unwrap_err();
    assert!(error.to_string().contains("is a directory"), "{error}");
    // A folder that cannot be: a file has its name.
    let below = path.join("model.gguf");
    let error = model.save_gguf(&below, GgufType::Q8_0).unwrap_err();
    assert!(
        error.to_string().contains(&below.display().to_string()),
        "{error}"
    );
}

#[test]
fn merged_and_quantised_weights_are_written_as_they_are() {
    let model = load(TINY_CODER);
    let adapter = LoRAAdapter::load("tests/fixtures/lora/nonzero_b", &model).unwrap();
    let merged = model.merge(&adapter).unwrap();
    let quantised = ModelLoader::new()
        .with_device(DeviceKind::Cpu)
        .with_dtype(DTypePolicy::F32)
        .with_quantization(Some(Quantization::default()))
        .load(TINY_CODER)
        .unwrap();
    let name = "blk.3.attn_q.weight";
    let weight = |model: &Model| {
        let query = crate::models::Projection::Query;
        model.decoder().weight(3, query).unwrap()
    };
    let plain = numbers(&weight(&model));
    for changed in [merged, quantised] {
        let weight = weight(&changed);
        assert_ne!(numbers(&weight), plain);
        let mut file = written(&changed, GgufType::F16);
        assert_close(name, GgmlDType::F16, &file.tensor(name), &weight);
    }
}
