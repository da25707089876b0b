//! Model directories and files that lie: each lie is an error that names the file and what is wrong in it,
//! whatever the format, in little time and memory.

mod common;
#[path = "untrusted/gguf.rs"]
mod gguf;
#[path = "untrusted/index.rs"]
mod index;
#[path = "untrusted/safetensors.rs"]
mod safetensors;
#[path = "untrusted/tokenizer.rs"]
mod tokenizer;

use common::{TINY_CODER, copy_of, edit_json, fixture};
use metal_candle::backend::DeviceKind;
use metal_candle::{Error, Model, ModelLoader, Result};
use serde_json::{Value, json};
use std::path::Path;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PICKLED: &str = "pytorch_model.bin";
const SHARD: &str = "model-00002-of-00003.safetensors";

/// The directories of each layout, with the file that holds weights.
const LAYOUTS: [(&str, &str); 4] = [
    ("models/qwen2_tied", WEIGHTS),
    ("models/qwen2_tied_sharded", SHARD),
    ("mlx/q4", WEIGHTS),
    ("models/qwen2_tied_pickle", PICKLED),
];

fn load(path: impl AsRef<Path>) -> Result<Model> {
    ModelLoader::new().with_device(DeviceKind::Cpu).load(path)
}

/// Asserts that an error is of the variant of this name, short, and that its message has the words.
fn assert_named(error: &Error, variant: &str, words: &[&str]) {
    assert!(
        format!("{error:?}").starts_with(variant),
        "{variant}: {error:?}"
    );
    let message = error.to_string();
    assert!(message.len() < 2000, "{} bytes", message.len());
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
}

/// Asserts that a model is refused whether it is looked at or loaded, for the same reason.
fn assert_refused(path: &Path, variant: &str, words: &[&str]) {
    let seen = ModelLoader::new().inspect(path).expect_err(words[0]);
    assert_named(&seen, variant, words);
    assert_eq!(
        load(path).expect_err(words[0]).to_string(),
        seen.to_string()
    );
}

/// Writes a file of a directory anew; the old one may still be mapped.
fn replace(directory: &Path, name: &str, contents: impl AsRef<[u8]>) -> String {
    let path = directory.join(name);
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, contents).unwrap();
    path.display().to_string()
}

/// JSON that is nested a hundred thousand levels deep.
fn deep(open: &str) -> String {
    open.repeat(100_000)
}

#[test]
fn configurations_that_lie() {
    let lies = [
        ("hidden_size", json!(0), "InvalidConfig"),
        ("hidden_size", json!(-64), "InvalidConfig"),
        ("hidden_size", json!(1e300), "InvalidConfig"),
        ("hidden_size", json!(u64::MAX), "InvalidConfig"),
        ("num_attention_heads", json!(0), "InvalidConfig"),
        ("num_attention_heads", json!(3), "InvalidConfig"),
        ("num_attention_heads", json!(128), "InvalidConfig"),
        ("num_key_value_heads", json!(0), "InvalidConfig"),
        ("num_key_value_heads", json!(3), "InvalidConfig"),
        ("num_key_value_heads", json!(-1), "InvalidConfig"),
        ("head_dim", json!(7), "InvalidConfig"),
        ("num_hidden_layers", json!(1 << 30), "InvalidConfig"),
        ("intermediate_size", json!("64"), "InvalidConfig"),
        ("vocab_size", json!([208]), "InvalidConfig"),
        ("vocab_size", Value::Null, "InvalidConfig"),
        (
            "max_position_embeddings",
            json!(1u64 << 40),
            "InvalidConfig",
        ),
        ("rms_norm_eps", json!(-1), "InvalidConfig"),
        ("rope_theta", json!(0), "InvalidConfig"),
        (
            "rope_scaling",
            json!({"type": "yarn", "factor": -4}),
            "InvalidConfig",
        ),
        ("layer_types", json!(["full_attention"]), "InvalidConfig"),
        ("eos_token_id", json!(-1), "InvalidConfig"),
        ("tie_word_embeddings", json!("no"), "InvalidConfig"),
        (
            "quantization_config",
            json!({"quant_method": "x"}),
            "Unsupported",
        ),
        ("model_type", json!("\u{0}"), "Unsupported"),
    ];
    for (layout, _) in LAYOUTS {
        let model = copy_of(fixture(layout));
        let path = model.path().join(CONFIG);
        let whole = std::fs::read(&path).unwrap();
        for (key, value, variant) in &lies {
            if layout.starts_with("mlx") && *key == "quantization_config" {
                continue;
            }
            edit_json(&path, key, value.clone());
            let word = match *key {
                "rope_scaling" => "factor",
                "model_type" => "architecture",
                "layer_types" if layout.starts_with("mlx") => "layer",
                key => key,
            };
            assert_refused(model.path(), variant, &[path.to_str().unwrap(), word]);
            std::fs::write(&path, &whole).unwrap();
        }
        load(model.path()).unwrap();
    }
}

#[test]
fn configurations_that_do_not_fit_the_tensors() {
    for (layout, file) in LAYOUTS {
        for (key, value, tensor) in [
            ("vocab_size", json!(100), "model.embed_tokens.weight"),
            ("vocab_size", json!(1 << 24), "model.embed_tokens.weight"),
            (
                "intermediate_size",
                json!(32),
                "model.layers.0.mlp.gate_proj",
            ),
            ("num_hidden_layers", json!(4096), "model.layers.2."),
            ("tie_word_embeddings", json!(false), "lm_head.weight"),
        ] {
            let model = copy_of(fixture(layout));
            edit_json(&model.path().join(CONFIG), key, value);
            let error = ModelLoader::new().inspect(model.path());
            if key.starts_with("tie") && file == PICKLED {
                // Has the head beside the embedding.
                error.unwrap();
                continue;
            }
            let directory = model.path().to_str().unwrap();
            let error = error.expect_err(key);
            let variant = match error {
                Error::TensorMismatch { .. } => "TensorMismatch",
                _ => "MissingTensor",
            };
            assert_refused(model.path(), variant, &[directory, tensor, "expected"]);
        }
    }
}

#[test]
fn weights_cut_where_a_part_ends() {
    for (layout, file) in LAYOUTS {
        let model = copy_of(fixture(layout));
        let whole = std::fs::read(model.path().join(file)).unwrap();
        let mut lengths = vec![0, 1, 4, 7, 8, 9, 30, whole.len() / 2];
        if file == PICKLED {
            // Before, in and behind each header of the archive.
            let headers = whole.windows(4).enumerate();
            let headers = headers.filter(|(_, bytes)| bytes.starts_with(b"PK"));
            lengths.extend(headers.flat_map(|(at, _)| [at, at + 4, at + 22]));
            assert!(lengths.len() > 100, "{}", lengths.len());
            lengths.retain(|&length| length < whole.len());
        } else {
            let header = usize::from(whole[8]) + 256 * usize::from(whole[9]);
            lengths.extend([7 + header, 8 + header, 9 + header]);
        }
        lengths.push(whole.len() - 1);
        for length in lengths {
            let path = replace(model.path(), file, &whole[..length]);
            assert_refused(model.path(), "InvalidFormat", &[&path]);
        }
    }
}

#[cfg(unix)]
fn pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

/// Directories, pipes and empty files where files are expected, and JSON that is too much.
#[test]
fn files_that_are_something_else() {
    let files = [
        ("models/qwen2_tied", CONFIG),
        ("models/qwen2_tied", WEIGHTS),
        ("models/qwen2_tied_sharded", INDEX),
        ("mlx/q4", CONFIG),
        ("mlx/q4", WEIGHTS),
        ("models/qwen2_tied_pickle", PICKLED),
        ("models/qwen2_tied", "tokenizer.json"),
        (TINY_CODER, "generation_config.json"),
        (TINY_CODER, "tokenizer_config.json"),
        (TINY_CODER, "chat_template.jinja"),
    ];
    for (layout, file) in files {
        let source = if layout == TINY_CODER {
            layout.into()
        } else {
            fixture(layout)
        };
        let model = copy_of(source);
        let path = model.path().join(file);
        let text = !matches!(file, WEIGHTS | PICKLED);
        let refused = |words: &str| {
            let error = load(model.path()).expect_err(file);
            assert_named(&error, "InvalidFormat", &[path.to_str().unwrap(), words]);
        };
        if file != "chat_template.jinja" {
            replace(model.path(), file, b"");
            refused("");
            replace(model.path(), file, deep("["));
            refused("");
            replace(model.path(), file, deep("{\"a\":"));
            refused("");
        }
        if text && file != "tokenizer.json" {
            replace(model.path(), file, format!("\"{}\"", "x".repeat(17 << 20)));
            refused("longer than");
        }
        let _ = std::fs::remove_file(&path);
        std::fs::create_dir(&path).unwrap();
        refused("a directory");
        std::fs::remove_dir(&path).unwrap();
        #[cfg(unix)]
        {
            pipe(&path);
            refused("not a regular file");
        }
    }
}

/// The Hugging Face cache is made of links, and what a link leads to is read like any file.
#[cfg(unix)]
#[test]
fn links_lead_to_files() {
    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("snapshots/revision");
    std::fs::create_dir_all(&snapshot).unwrap();
    let source = fixture("models/qwen2_tied_sharded").canonicalize().unwrap();
    std::fs::create_dir(cache.path().join("blobs")).unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        let blob = cache.path().join("blobs").join(entry.file_name());
        std::fs::copy(entry.path(), &blob).unwrap();
        let target = Path::new("../../blobs").join(entry.file_name());
        std::os::unix::fs::symlink(target, snapshot.join(entry.file_name())).unwrap();
    }
    load(&snapshot).unwrap();
    let config = snapshot.join(CONFIG);
    let link = |target: &Path| {
        std::fs::remove_file(&config).unwrap();
        std::os::unix::fs::symlink(target, &config).unwrap();
    };
    link(
        &fixture("models/qwen2_tied")
            .join(CONFIG)
            .canonicalize()
            .unwrap(),
    );
    load(&snapshot).unwrap();
    // One that leads to itself, and one to nowhere.
    link(&config);
    let error = load(&snapshot).unwrap_err();
    assert_named(&error, "Io", &[config.to_str().unwrap()]);
    link(Path::new("nowhere"));
    let error = load(&snapshot).unwrap_err();
    assert_named(&error, "FileNotFound", &[config.to_str().unwrap()]);
}
