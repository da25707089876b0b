//! Models saved to a directory, as transformers and this library load them.

mod common;

use common::{
    TINY_CODER, all_logits, assert_close, copy_of, edit_json, expected, fixture, load_as, load_f32,
    numbers, read_json, to_f64,
};
use metal_candle::backend::DTypePolicy;
use metal_candle::{Error, LoRAAdapter, Model};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const IDS: [u32; 5] = [5, 6, 7, 8, 9];

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Dtype, shape and bytes of every tensor in the safetensors files of a directory.
fn tensors(directory: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let mut tensors = BTreeMap::new();
    for name in names(directory) {
        if name.ends_with(".safetensors") {
            let bytes = fs::read(directory.join(name)).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            tensors.extend(file.iter().map(|(name, view)| {
                let dtype = view.dtype().to_string();
                (
                    name.to_owned(),
                    (dtype, view.shape().to_vec(), view.data().to_vec()),
                )
            }));
        }
    }
    tensors
}

fn logits(model: &Model) -> Vec<f64> {
    to_f64(&all_logits(model, &IDS, None))
}

#[test]
fn a_round_trip_changes_no_bit() {
    for (name, dtype) in [
        ("qwen2_tied", DTypePolicy::F32),
        ("qwen2_tied_sharded", DTypePolicy::F32),
        ("qwen2_untied_gqa", DTypePolicy::F32),
        ("qwen2_untied_f16", DTypePolicy::F16),
        ("qwen2_bf16", DTypePolicy::Bf16),
        ("qwen3", DTypePolicy::F32),
        ("llama3_scaled", DTypePolicy::F32),
        ("mistral_sliding", DTypePolicy::F32),
    ] {
        let source = fixture("models").join(name);
        let model = load_as(&source, dtype);
        let folder = tempfile::tempdir().unwrap();
        let saved = folder.path().join("saved");
        model.save(&saved).unwrap();
        assert_eq!(
            names(&saved),
            ["config.json", "model.safetensors"],
            "{name}"
        );
        assert!(tensors(&saved) == tensors(&source), "{name}");
        let config = |directory: &Path| read_json(&directory.join("config.json")).to_string();
        assert_eq!(config(&saved), config(&source));
        assert_eq!(logits(&load_as(&saved, dtype)), logits(&model), "{name}");
    }
}

#[test]
fn weights_are_written_in_the_dtype_of_the_model() {
    for (name, key) in [("qwen2_bf16", "torch_dtype"), ("qwen2_untied_f16", "dtype")] {
        let source = fixture("models").join(name);
        let (wide, stored) = (load_f32(&source), load_as(&source, DTypePolicy::Bf16));
        let folder = tempfile::tempdir().unwrap();
        // The second one in the place of the first.
        for (model, dtype, short) in [(&wide, "float32", "F32"), (&stored, "bfloat16", "BF16")] {
            model.save(folder.path()).unwrap();
            assert_eq!(read_json(&folder.path().join("config.json"))[key], dtype);
            assert!(
                tensors(folder.path())
                    .values()
                    .all(|(dtype, ..)| dtype == short)
            );
        }
        let again = load_as(folder.path(), DTypePolicy::Bf16);
        assert_eq!(logits(&again), logits(&stored));
    }
}

#[test]
fn large_models_are_written_in_shards() {
    let model = load_f32(fixture("models/qwen2_untied_gqa"));
    let max_size = 60_000;
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    model.save_sharded(directory, max_size).unwrap();
    let files = names(directory);
    let shards: Vec<_> = files
        .iter()
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    assert!(
        shards.len() > 2 && files.len() == shards.len() + 2,
        "{files:?}"
    );
    assert!(tensors(directory) == tensors(&fixture("models/qwen2_untied_gqa")));

    let index = read_json(&directory.join("model.safetensors.index.json"));
    let mut total = 0;
    for (number, name) in shards.iter().enumerate() {
        assert_eq!(
            **name,
            format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len())
        );
        let bytes = fs::read(directory.join(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let size: usize = file.iter().map(|(_, view)| view.data().len()).sum();
        assert!(file.len() == 1 || size as u64 <= max_size, "{name}: {size}");
        // Numbers begin where a processor can read them at once.
        assert_eq!(bytes.len() % 8, size % 8);
        for tensor in file.names() {
            assert_eq!(index["weight_map"][tensor], **name);
        }
        total += size;
    }
    assert_eq!(
        index["weight_map"].as_object().unwrap().len(),
        tensors(directory).len()
    );
    assert_eq!(index["metadata"]["total_size"], total);
    assert_eq!(logits(&load_f32(directory)), logits(&model));

    // Older shards are no part of a newer model.
    model.save(directory).unwrap();
    assert_eq!(names(directory), ["config.json", "model.safetensors"]);
    assert_error!(
        model.save_sharded(directory, 0).unwrap_err(),
        Error::InvalidOption { .. },
        ["`max_shard_size` is 0", "1 byte"]
    );
}

#[test]
fn a_model_may_be_saved_over_itself() {
    let folder = copy_of(TINY_CODER);
    let directory = folder.path();
    fs::create_dir_all(directory.join("additional_chat_templates")).unwrap();
    fs::create_dir_all(directory.join("mine")).unwrap();
    for name in [
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
        "mine/notes",
    ] {
        fs::write(directory.join(name), name).unwrap();
    }
    fs::write(directory.join("LICENSE.txt"), "MIT").unwrap();
    let before = names(directory);
    let model = load_f32(directory);
    let adapter = LoRAAdapter::load(fixture("lora/nonzero_b"), &model).unwrap();
    let merged = model.merge(&adapter).unwrap();
    merged.save(directory).unwrap();
    assert_eq!(names(directory), before);
    let again = load_f32(directory);
    assert_eq!(logits(&again), logits(&merged));
    assert_ne!(logits(&again), logits(&model));
    assert_eq!(again.eos_token_ids(), model.eos_token_ids());
    assert_eq!(
        again.tokenizer().unwrap().vocab_size(),
        model.tokenizer().unwrap().vocab_size()
    );

    // Elsewhere are all files but those that are no part of the model, and of an older one there no
    // tokenizer.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("merges.txt"), "old").unwrap();
    again.save(elsewhere.path()).unwrap();
    let copied: Vec<_> = before
        .iter()
        .filter(|name| !["mine", "training.json"].contains(&name.as_str()))
        .cloned()
        .collect();
    assert_eq!(names(elsewhere.path()), copied);
    for name in [
        "tokenizer.json",
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
    ] {
        let read = |directory: &Path| fs::read(directory.join(name)).unwrap();
        assert!(read(elsewhere.path()) == read(directory), "{name}");
    }
}

#[test]
fn a_merged_adapter_is_in_the_weights() {
    let model = load_f32(TINY_CODER);
    for name in ["nonzero_b", "small_rslora", "small_dora"] {
        let adapter = LoRAAdapter::load(fixture("lora").join(name), &model).unwrap();
        let folder = tempfile::tempdir().unwrap();
        model.merge(&adapter).unwrap().save(folder.path()).unwrap();
        let saved = tensors(folder.path());
        for (tensor, reference) in expected(&format!("lora/{name}"))["merged_weights"]
            .as_object()
            .unwrap()
        {
            let (dtype, _, bytes) = &saved[tensor];
            assert_eq!(dtype, "F32");
            let (numbers_of_four, _) = bytes.as_chunks::<4>();
            let found: Vec<_> = numbers_of_four
                .iter()
                .map(|x| f64::from(f32::from_le_bytes(*x)))
                .collect();
            assert_close(tensor, &found[..8], &numbers(&reference["first8"]), 1e-6);
            let l2 = found.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!(
                (l2 / reference["l2"].as_f64().unwrap() - 1.0).abs() < 1e-6,
                "{tensor}: {l2}"
            );
        }
    }
}

#[test]
fn what_cannot_be_saved_leaves_nothing() {
    let model = load_f32(fixture("models/qwen2_tied"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert_error!(
        model.save(&file).unwrap_err(),
        Error::InvalidFormat { .. },
        [file.to_str().unwrap(), "is a file"]
    );
    assert_error!(
        model.save(file.join("x")).unwrap_err(),
        Error::Io { .. },
        [file.to_str().unwrap()]
    );
    assert_eq!(names(folder.path()), ["file"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn a_model_is_saved_whole_though_its_directory_is_gone() {
    let source = copy_of(TINY_CODER);
    let model = load_f32(source.path());
    fs::remove_dir_all(source.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let saved = load_f32(folder.path());
    assert_eq!(logits(&saved), logits(&model));
    assert_eq!(saved.eos_token_ids(), model.eos_token_ids());
    assert!(saved.has_chat_template());
    let encode = |model: &Model| model.tokenizer().unwrap().encode("fn main() {}", true);
    assert_eq!(encode(&saved).unwrap(), encode(&model).unwrap());
}

#[test]
fn a_configuration_of_quantized_weights_becomes_one_of_plain_weights() {
    let source = copy_of(fixture("models/qwen2_tied"));
    for key in ["quantization", "quantization_config"] {
        let settings = json!({"bits": 4, "group_size": 64});
        edit_json(&source.path().join("config.json"), key, settings);
    }
    let model = load_f32(source.path());
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let config = read_json(&folder.path().join("config.json"));
    assert_eq!(config["quantization"], Value::Null);
    assert_eq!(config["quantization_config"], Value::Null);
    assert_eq!(config["torch_dtype"], "float32");
}
