//! Files are read back by candle's reader, and held to the model that they were made from.

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
const BYTES_FIRST: usize = 3;

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

/// A tokenizer as `SentencePiece`'s, of `<unk>`, `<s>`, `</s>`, the bytes and these pieces.
fn sentence_piece(pieces: &[&str], merges: &Json) -> Json {
    let mut tokenizer = byte_level();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
    };
    let names = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let pieces = pieces.iter().map(|piece| (*piece).to_owned());
    let vocab: serde_json::Map<_, _> = (names.into_iter().chain(bytes).chain(pieces))
        .zip((0..).map(|id: u32| json!(id)))
        .collect();
    tokenizer["added_tokens"] = json!([special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")]);
    tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    tokenizer["pre_tokenizer"] = json!(null);
    tokenizer["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
    tokenizer["model"]["byte_fallback"] = json!(true);
    tokenizer["model"]["unk_token"] = json!("<unk>");
    tokenizer["model"]["vocab"] = Json::Object(vocab);
    tokenizer["model"]["merges"] = merges.clone();
    tokenizer
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
fn a_byte_level_tokenizer_is_written_as_it_is() {
    let model = load(TINY_CODER);
    let file = written(&model, GgufType::F16);
    assert_eq!(file.text("tokenizer.ggml.model"), "gpt2");
    assert_eq!(file.text("tokenizer.ggml.pre"), "qwen2");
    let tokenizer = fs::read(format!("{TINY_CODER}/tokenizer.json")).unwrap();
    let tokenizer: Json = serde_json::from_slice(&tokenizer).unwrap();
    let tokens = file.texts("tokenizer.ggml.tokens");
    assert_eq!(tokens.len(), 6144);
    for (token, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
        let id = usize::try_from(id.as_u64().unwrap()).unwrap();
        assert_eq!(tokens[id], token);
    }
    assert_eq!(tokens[6136], "<|im_start|>");
    let expected = tokenizer["model"]["merges"].as_array().unwrap().iter();
    let expected: Vec<_> = expected
        .map(|pair| {
            format!(
                "{} {}",
                pair[0].as_str().unwrap(),
                pair[1].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(file.texts("tokenizer.ggml.merges"), expected);
    let types = file.types();
    assert!(types[..6135].iter().all(|kind| *kind == 1));
    assert!(types[6135..].iter().all(|kind| *kind == 3));
    assert_eq!(file.number("tokenizer.ggml.bos_token_id"), 6135);
    assert_eq!(file.number("tokenizer.ggml.eos_token_id"), 6135);
    assert!(!file.has("tokenizer.ggml.eot_token_id"));
    assert!(
        !file
            .value("tokenizer.ggml.add_bos_token")
            .to_bool()
            .unwrap()
    );
    let template = model.chat_template().unwrap().source();
    assert_eq!(file.text("tokenizer.chat_template"), template);
    assert!(!file.has("tokenizer.chat_templates"));
}

#[test]
fn rows_without_a_token_are_padding() {
    let config = json!({"eos_token": "<end>", "chat_template": [
        {"name": "default", "template": "D"}, {"name": "tool_use", "template": "T{% if %}"}]});
    let model = with_tokenizer(&format!("{FIXTURES}/qwen2_tied"), &byte_level(), &config);
    let file = written(&model, GgufType::F16);
    assert_eq!(file.text("tokenizer.ggml.pre"), "gpt-2");
    let tokens = file.texts("tokenizer.ggml.tokens");
    let first = ["a", "b", "ab", "Ġ", "<end>", "<|x|>", "word", "[PAD7]"];
    assert_eq!((tokens.len(), &tokens[..8]), (208, &first[..]));
    assert_eq!(file.types()[..7], [1, 1, 1, 1, 3, 3, 4]);
    assert!(file.types()[7..].iter().all(|kind| *kind == 5));
    // A template that cannot be compiled is as good as another.
    assert_eq!(file.text("tokenizer.chat_template"), "D");
    assert_eq!(file.text("tokenizer.chat_template.tool_use"), "T{% if %}");
    assert_eq!(file.texts("tokenizer.chat_templates"), ["tool_use"]);
}

#[test]
fn a_tokenizer_with_byte_fallback_has_scores() {
    let pieces = ["▁", "a", "b", "▁a", "ab", "▁ab"];
    let merges = json!([["a", "b"], ["▁", "ab"], ["▁a", "b"], ["▁", "a"]]);
    let tokenizer = sentence_piece(&pieces, &merges);
    let model = with_tokenizer(TINY_CODER, &tokenizer, &json!({"eos_token": "</s>"}));
    let file = written(&model, GgufType::F16);
    assert_eq!(file.text("tokenizer.ggml.model"), "llama");
    let tokens = file.texts("tokenizer.ggml.tokens");
    assert_eq!(tokens[..4], ["<unk>", "<s>", "</s>", "<0x00>"]);
    let bytes = BYTES_FIRST..BYTES_FIRST + 256;
    assert_eq!(tokens[bytes.end..bytes.end + pieces.len()], pieces);
    let types = file.types();
    assert_eq!(types[..3], [2, 3, 3]);
    assert!(types[bytes.clone()].iter().all(|kind| *kind == 6));
    assert_eq!(types[bytes.end..bytes.end + 7], [1, 1, 1, 1, 1, 1, 5]);
    let scores = file.value("tokenizer.ggml.scores").to_vec().unwrap();
    let score = |at: usize| scores[bytes.end + at].to_f32().unwrap();
    // `ab` is made first, then `▁ab` in two ways, then `▁a`; the others are never made.
    assert!(score(4) > score(5) && score(5) > score(3) && score(3) > score(0));
    assert_eq!(scores.len(), 6144);
    assert_eq!(file.number("tokenizer.ggml.unknown_token_id"), 0);
    assert_eq!(file.number("tokenizer.ggml.bos_token_id"), 1);
    for (key, expected) in [
        ("add_bos_token", true),
        ("add_eos_token", false),
        ("add_space_prefix", true),
    ] {
        let found = file.value(&format!("tokenizer.ggml.{key}")).to_bool();
        assert_eq!(found.unwrap(), expected, "{key}");
    }
    assert!(!file.has("tokenizer.ggml.merges"));
    // As newer tokenizers write it.
    for (scheme, expected) in [("first", true), ("never", false)] {
        let mut tokenizer = tokenizer.clone();
        tokenizer["normalizer"] = json!(null);
        tokenizer["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁",
            "prepend_scheme": scheme, "split": false});
        let model = with_tokenizer(TINY_CODER, &tokenizer, &json!({}));
        let file = written(&model, GgufType::Q4_0);
        let found = file.value("tokenizer.ggml.add_space_prefix").to_bool();
        assert_eq!(found.unwrap(), expected, "{scheme}");
    }
}

#[test]
fn what_llama_cpp_does_not_know_is_refused() {
    let refused = |model: &Model, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let error = model.save_gguf(folder.path().join("x.gguf"), GgufType::F16);
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    };
    let check = |edit: &dyn Fn(&mut Json), expected: &str| {
        let mut tokenizer = byte_level();
        edit(&mut tokenizer);
        let directory = format!("{FIXTURES}/qwen2_tied");
        refused(
            &with_tokenizer(&directory, &tokenizer, &json!({})),
            expected,
        );
    };
    check(
        &|t| t["pre_tokenizer"] = json!({"type": "Whitespace"}),
        "pre-tokenizer `{\"type\":\"Whitespace\"}` is not supported; supported: those that \
         llama.cpp calls qwen2, llama-bpe",
    );
    check(
        &|t| t["model"]["ignore_merges"] = json!(true),
        "with ignore_merges",
    );
    check(&|t| t["normalizer"] = json!({"type": "NFKC"}), "normalizer");
    check(
        &|t| t["model"]["end_of_word_suffix"] = json!("</w>"),
        "end_of_word_suffix",
    );
    check(
        &|t| {
            t["model"] = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
            t["added_tokens"] = json!([]);
        },
        "tokenizer `\"WordLevel\"` is not supported; supported: BPE",
    );
    check(
        &|t| t["model"]["byte_fallback"] = json!(true),
        "byte fallback",
    );
    let pieces = ["a", "b", "c", "ab", "bc", "abc"];
    for (merges, expected) in [
        // Another way to make `abc` is `a` + `bc`.
        (
            json!([["a", "b"], ["b", "c"], ["ab", "c"]]),
            "`abc` without `a` + `bc`",
        ),
        (
            json!([["ab", "c"], ["a", "b"], ["a", "bc"], ["b", "c"]]),
            "`abc` at two places",
        ),
    ] {
        let tokenizer = sentence_piece(&pieces, &merges);
        refused(
            &with_tokenizer(TINY_CODER, &tokenizer, &json!({})),
            expected,
        );
    }
    let mut tokenizer = sentence_piece(&[], &json!([]));
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    assert!(vocab.remove("<0x0A>").is_some());
    refused(
        &with_tokenizer(TINY_CODER, &tokenizer, &json!({})),
        "no `<0x0A>`",
    );
}

#[test]
fn a_model_without_a_tokenizer_is_told_so() {
    let model = load(format!("{FIXTURES}/qwen2_tied"));
    let folder = tempfile::tempdir().unwrap();
    let error = model.save_gguf(folder.path().join("x.gguf"), GgufType::F16);
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
    assert!(error.to_string().contains("no tokenizer.json"), "{error}");
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
