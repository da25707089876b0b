//! Data sets for the C programs, and inputs that are broken in one way each.

use metal_candle::backend::DeviceKind;
use metal_candle::{LoRAAdapter, LoRAConfig, ModelLoader};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const SMALL_MODEL: &str = "tests/fixtures/models/qwen2_tied";

/// Two rows of few tokens, which keep training short also under a memory checker.
const ROWS: &str = concat!(
    "{\"prompt\": \"one two\", \"completion\": \" three four\"}\n",
    "{\"prompt\": \"red green\", \"completion\": \" blue\"}\n",
);

/// Two pairs of a better and a worse answer.
const PREFERENCES: &str = concat!(
    "{\"prompt\": \"one two\", \"chosen\": \" three\", \"rejected\": \" nine\"}\n",
    "{\"prompt\": \"red green\", \"chosen\": \" blue\", \"rejected\": \" seven\"}\n",
);

/// A folder with `train.jsonl` and `valid.jsonl`, and `preferences.jsonl`.
pub fn data() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("train.jsonl"), ROWS).unwrap();
    fs::write(folder.path().join("valid.jsonl"), ROWS).unwrap();
    fs::write(folder.path().join("preferences.jsonl"), PREFERENCES).unwrap();
    folder
}

/// The folder that `errors.c` and `nulls.c` expect.
pub fn broken() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (name, content) in [
        ("rows.jsonl", ROWS.as_bytes()),
        ("empty.jsonl", b"\n"),
        (
            "bad_row.jsonl",
            b"{\"text\": \"a b\"}\n\n{\"prompt\": \"a\"}\n",
        ),
        ("bad_bytes.jsonl", b"{\"text\": \"\xFF\"}\n"),
    ] {
        fs::write(root.join(name), content).unwrap();
    }
    for name in [
        "other_model",
        "no_config",
        "no_weights",
        "bad_json",
        "bad_value",
        "unknown_architecture",
        "truncated",
        "wrong_shape",
        "missing_tensor",
        "small_vocabulary",
        "bad_tokenizer",
    ] {
        copy_model(&root.join(name));
    }
    fs::remove_file(root.join("no_config/config.json")).unwrap();
    fs::remove_file(root.join("no_weights/model.safetensors")).unwrap();
    fs::write(root.join("bad_json/config.json"), "{\"hidden_size\": }").unwrap();
    edit_config(&root.join("bad_value"), |config| {
        config["hidden_size"] = json!("wide");
    });
    edit_config(&root.join("unknown_architecture"), |config| {
        config["model_type"] = json!("fancy");
    });
    let weights = root.join("truncated/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 100]).unwrap();
    edit_tensors(&root.join("wrong_shape"), |tensors| {
        tensors["model.layers.1.mlp.up_proj.weight"]["shape"] = json!([32, 128]);
    });
    edit_tensors(&root.join("missing_tensor"), |tensors| {
        let norm = tensors.as_object_mut().unwrap();
        let entry = norm.remove("model.norm.weight").unwrap();
        norm.insert("model.other.weight".to_owned(), entry);
    });
    fs::copy(
        "assets/tiny-coder/tokenizer.json",
        root.join("small_vocabulary/tokenizer.json"),
    )
    .unwrap();
    fs::write(root.join("bad_tokenizer/tokenizer.json"), "{}").unwrap();
    fs::create_dir(root.join("bad_best")).unwrap();
    fs::write(root.join("bad_best/best.json"), "{\"step\": 1}").unwrap();

    // Only to write a file, which is the same from every device.
    let model = ModelLoader::new()
        .with_device(DeviceKind::Cpu)
        .load(SMALL_MODEL)
        .unwrap();
    let config = LoRAConfig {
        rank: 2,
        ..LoRAConfig::default()
    };
    let adapter = LoRAAdapter::new(config, &model, 0).unwrap();
    adapter.save(root.join("other_adapter")).unwrap();
    folder
}

fn copy_model(directory: &Path) {
    fs::create_dir(directory).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(Path::new(SMALL_MODEL).join(name), directory.join(name)).unwrap();
    }
}

fn edit_config(directory: &Path, change: impl FnOnce(&mut Value)) {
    let path = directory.join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
}

/// Changes the header of the safetensors file: its length in 8 bytes, then JSON.
fn edit_tensors(directory: &Path, change: impl FnOnce(&mut Value)) {
    let path = directory.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let (header, tensors) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
    let mut header = serde_json::from_slice(header).unwrap();
    change(&mut header);
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(&path, [&length, header.as_bytes(), tensors].concat()).unwrap();
}
