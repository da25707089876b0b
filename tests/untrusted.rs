//! Model directories and files that lie: each lie is an error that names the file and what is wrong in it,
//! whatever the format, in little time and memory.

mod common;
#[path = "untrusted/gguf.rs"]
mod gguf;

use common::{TINY_CODER, copy_of, edit_json, fixture, read_json};
use metal_candle::backend::DeviceKind;
use metal_candle::{Error, Model, ModelLoader, Result};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use tempfile::TempDir;

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

/// A safetensors file with this header and so many bytes of data.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), &vec![0; data]].concat()
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
        ("num_attention_heads", json!(64), "InvalidConfig"),
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
fn safetensors_headers_that_lie() {
    let entry = |name: &str, dtype: &str, shape: &str, start: u64, end: u64| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let a = entry("a", "F32", "[2]", 0, 8);
    let half = 1u64 << 63;
    let huge = format!("[{half}, {half}]");
    let cases = [
        (
            format!("{{{a},{}}}", entry("b", "F32", "[2]", 4, 12)),
            12,
            "`b`",
        ),
        (
            format!("{{{a},{}}}", entry("b", "F32", "[2]", 9, 17)),
            17,
            "`b`",
        ),
        (
            format!("{{{a},{}}}", entry("b", "F32", "[2]", 16, 8)),
            16,
            "`b`",
        ),
        (
            format!("{{{a},{}}}", entry("b", "F32", "[3]", 8, 16)),
            16,
            "`b`",
        ),
        (
            format!("{{{a},{}}}", entry("b", "F32", "[-1]", 8, 16)),
            16,
            "`b`",
        ),
        (
            format!("{{{a},{}}}", entry("b", "F7", "[2]", 8, 16)),
            16,
            "`b`",
        ),
        (
            format!("{{{a},{}}}", entry("b", "F4", "[3]", 8, 9)),
            9,
            "`b`",
        ),
        (
            format!("{{{a},{}}}", entry("b", "F32", &huge, 8, 16)),
            16,
            "`b`",
        ),
        (
            format!(
                "{{{a},{}}}",
                entry("b", "U8", "[0, 4294967296, 4294967296]", 8, 8)
            ),
            8,
            "`b`",
        ),
        (
            format!(
                "{{{a},{}}}",
                entry("b", "U8", &format!("[{half}]"), 8, half + 8)
            ),
            8,
            "`b`",
        ),
        (
            format!(
                "{{{a},{}}}",
                entry("b", "U8", &format!("[{}1]", "1,".repeat(99_999)), 8, 9)
            ),
            9,
            "`b` has 100000 dimensions",
        ),
        (format!("{{{a},{a}}}"), 8, "`a` is there twice"),
        (format!("{{{a}}}"), 7, "truncated"),
        (format!("{{{a}}}"), 9, "where its tensors end"),
        (
            r#"{"a":{"dtype":"F32"}}"#.to_owned(),
            0,
            "`a`: missing field",
        ),
        (r#"{"__metadata__":{"a":1}}"#.to_owned(), 0, "string"),
        ("[]".to_owned(), 0, "object"),
        (deep("{\"a\":"), 0, "`a`"),
        (deep("["), 0, "object"),
    ];
    let single = copy_of(fixture("models/qwen2_tied"));
    let sharded = copy_of(fixture("models/qwen2_tied_sharded"));
    let mlx = copy_of(fixture("mlx/q4"));
    for (model, file) in [(&single, WEIGHTS), (&sharded, SHARD), (&mlx, WEIGHTS)] {
        for (header, data, words) in &cases {
            let path = replace(model.path(), file, safetensors(header, *data));
            assert_refused(model.path(), "InvalidFormat", &[&path, words]);
        }
        for length in [u64::MAX, 1 << 63, 1 << 40, 100_000_001, 100, 3] {
            let path = replace(
                model.path(),
                file,
                [&length.to_le_bytes()[..], b"{}  "].concat(),
            );
            assert_refused(model.path(), "InvalidFormat", &[&path, "header"]);
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
            let headers = whole.windows(4).enumerate().filter(|(_, bytes)| {
                matches!(
                    bytes,
                    b"PK\x01\x02" | b"PK\x03\x04" | b"PK\x05\x06" | b"PK\x06\x06"
                )
            });
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

#[test]
fn indices_that_lie() {
    let cases = [
        (
            json!({"weight_map": {"a": INDEX}}),
            "InvalidFormat",
            vec![INDEX],
        ),
        (
            json!({"weight_map": {"a": "folder"}}),
            "InvalidFormat",
            vec!["folder", "a directory"],
        ),
        (
            json!({"weight_map": {"a": ".."}}),
            "InvalidConfig",
            vec![INDEX, "`weight_map.a`"],
        ),
        (
            json!({"weight_map": {"a": "../x"}}),
            "InvalidConfig",
            vec![INDEX, "`weight_map.a`"],
        ),
        (
            json!({"weight_map": {"a": "/etc/passwd"}}),
            "InvalidConfig",
            vec![INDEX, "/etc/passwd"],
        ),
        (
            json!({"weight_map": {"a": "folder/x"}}),
            "InvalidConfig",
            vec![INDEX, "`weight_map.a`"],
        ),
        (
            json!({"weight_map": {"a": 1}}),
            "InvalidConfig",
            vec![INDEX, "`weight_map.a`"],
        ),
        (
            json!({"weight_map": {"a": ""}}),
            "InvalidConfig",
            vec![INDEX, "`weight_map.a`"],
        ),
        (
            json!({"weight_map": []}),
            "InvalidConfig",
            vec![INDEX, "`weight_map`"],
        ),
        (
            json!({"weight_map": {}}),
            "InvalidConfig",
            vec![INDEX, "`weight_map`"],
        ),
        (
            json!([]),
            "InvalidFormat",
            vec![INDEX, "expected an object"],
        ),
        (
            json!({"weight_map": {"a": "none"}}),
            "FileNotFound",
            vec!["none"],
        ),
        (
            json!({"weight_map": {"a": "empty"}}),
            "InvalidFormat",
            vec!["empty", "is empty"],
        ),
        (
            json!({"weight_map": {"a": CONFIG}}),
            "InvalidFormat",
            vec![CONFIG],
        ),
        (
            json!({"weight_map": {"absent": SHARD}}),
            "MissingTensor",
            vec![SHARD, "`absent`"],
        ),
        #[cfg(unix)]
        (
            json!({"weight_map": {"a": "link"}}),
            "InvalidFormat",
            vec!["link", "links to"],
        ),
        #[cfg(unix)]
        (
            json!({"weight_map": {"a": "pipe"}}),
            "InvalidFormat",
            vec!["pipe", "not a regular file"],
        ),
    ];
    let model = copy_of(fixture("models/qwen2_tied_sharded"));
    let directory = model.path();
    std::fs::create_dir(directory.join("folder")).unwrap();
    std::fs::write(directory.join("empty"), b"").unwrap();
    let other = Path::new("tests/fixtures/models/qwen2_tied/model.safetensors");
    #[cfg(unix)]
    {
        let target = other.canonicalize().unwrap();
        std::os::unix::fs::symlink(target, directory.join("link")).unwrap();
        pipe(&directory.join("pipe"));
    }
    for (index, variant, words) in cases {
        replace(directory, INDEX, index.to_string());
        assert_refused(directory, variant, &words);
    }
    replace(directory, INDEX, deep("{\"weight_map\":"));
    assert_refused(directory, "InvalidFormat", &[INDEX, "recursion limit"]);

    // Many names of one shard, and many shards.
    let names = |shard: &dyn Fn(usize) -> String| {
        let names = (0..100_000).map(|i| (format!("t{i:05}"), json!(shard(i))));
        json!({"weight_map": names.collect::<serde_json::Map<_, _>>()}).to_string()
    };
    replace(directory, INDEX, names(&|_| SHARD.to_owned()));
    assert_refused(directory, "MissingTensor", &[SHARD, "`t00000`"]);
    replace(directory, INDEX, names(&|i| format!("{i:05}.safetensors")));
    assert_refused(directory, "FileNotFound", &["00000.safetensors"]);
    // A tensor in two shards.
    std::fs::copy(other, directory.join("again")).unwrap();
    let norm = "model.norm.weight";
    let first =
        read_json(&fixture("models/qwen2_tied_sharded").join(INDEX))["weight_map"][norm].clone();
    let index = json!({"weight_map": {norm: "again", "b": first}});
    replace(directory, INDEX, index.to_string());
    assert_refused(directory, "InvalidFormat", &["again", "is also in"]);
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

/// A byte-level tokenizer of these tokens, of which the first two may be merged.
fn tokenizer(vocabulary: &Value) -> Value {
    let mut json = read_json(&Path::new(TINY_CODER).join("tokenizer.json"));
    json["added_tokens"] = json!([]);
    json["model"]["vocab"] = vocabulary.clone();
    json["model"]["merges"] = json!([]);
    json
}

#[test]
fn tokenizers_that_lie() {
    let model = copy_of(fixture("models/qwen2_tied"));
    let many: serde_json::Map<_, _> = (0..300).map(|i| (format!("t{i}"), json!(i))).collect();
    let with = |key: &str, value: Value| {
        let mut json = tokenizer(&json!({"a": 0, "b": 1, "ab": 2}));
        json["model"][key] = value;
        json
    };
    let regex = |pattern: &str| {
        let mut json = tokenizer(&json!({"a": 0}));
        json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": pattern},
            "behavior": "Isolated", "invert": false});
        json
    };
    for (json, variant, words) in [
        (
            tokenizer(&json!(many)),
            "InvalidConfig",
            ["config.json", "`vocab_size` is 208", "300"],
        ),
        (
            tokenizer(&json!({"a": 208})),
            "InvalidConfig",
            ["config.json", "`vocab_size` is 208", "which is 208"],
        ),
        (
            tokenizer(&json!({"a": u32::MAX})),
            "InvalidConfig",
            ["config.json", "`vocab_size` is 208", "which is 4294967295"],
        ),
        (
            tokenizer(&json!({"a": -1})),
            "InvalidFormat",
            ["tokenizer.json", "tokenizer", ""],
        ),
        (
            tokenizer(&json!({"a": 1u64 << 40})),
            "InvalidFormat",
            ["tokenizer.json", "tokenizer", ""],
        ),
        (
            tokenizer(&json!([])),
            "InvalidFormat",
            ["tokenizer.json", "tokenizer", ""],
        ),
        (
            with("merges", json!([["a", "x"]])),
            "InvalidFormat",
            ["tokenizer.json", "x", ""],
        ),
        (
            with("merges", json!([["b", "a"]])),
            "InvalidFormat",
            ["tokenizer.json", "ba", ""],
        ),
        (
            with("merges", json!(["a"])),
            "InvalidFormat",
            ["tokenizer.json", "", ""],
        ),
        (
            with("type", json!("Other")),
            "InvalidFormat",
            ["tokenizer.json", "", ""],
        ),
        (regex("("), "InvalidFormat", ["tokenizer.json", "", ""]),
    ] {
        replace(model.path(), "tokenizer.json", json.to_string());
        let error = load(model.path()).expect_err(words[1]);
        assert_named(&error, variant, &words);
    }
    // The embedding may have rows that no token has.
    replace(
        model.path(),
        "tokenizer.json",
        with("merges", json!([["a", "b"]])).to_string(),
    );
    let loaded = load(model.path()).unwrap();
    assert_eq!(
        loaded.tokenizer().unwrap().encode("ab", false).unwrap(),
        [2]
    );
}

/// Parts of MLX's matrices that are not those of the settings.
#[test]
fn quantized_parts_that_lie() {
    let name = "model.layers.0.mlp.up_proj";
    let device = candle_core::Device::Cpu;
    type Tensors = HashMap<String, candle_core::Tensor>;
    let cases: [(&dyn Fn(&mut Tensors), &str, &str); 5] = [
        (
            &|all| drop(all.remove(&format!("{name}.biases"))),
            "MissingTensor",
            "biases",
        ),
        (
            &|all| drop(all.remove(&format!("{name}.scales"))),
            "TensorMismatch",
            "up_proj.weight",
        ),
        (
            &|all| drop(all.remove(&format!("{name}.weight"))),
            "MissingTensor",
            "up_proj.weight",
        ),
        (
            &|all| {
                let codes = all.get_mut(&format!("{name}.weight")).unwrap();
                *codes = codes.to_dtype(candle_core::DType::I64).unwrap();
            },
            "TensorMismatch",
            "dtype I64; expected U32",
        ),
        (
            &|all| {
                let scales = all.get_mut(&format!("{name}.scales")).unwrap();
                *scales = scales.narrow(0, 0, 1).unwrap();
            },
            "TensorMismatch",
            "scales` has shape [1, ",
        ),
    ];
    for (change, variant, words) in cases {
        let model: TempDir = copy_of(fixture("mlx/q4"));
        let path = model.path().join(WEIGHTS);
        let mut tensors = candle_core::safetensors::load(&path, &device).unwrap();
        change(&mut tensors);
        let new = model.path().join("new");
        candle_core::safetensors::save(&tensors, &new).unwrap();
        std::fs::rename(new, &path).unwrap();
        assert_refused(model.path(), variant, &[path.to_str().unwrap(), words]);
    }
    for (key, value) in [
        ("bits", json!(0)),
        ("bits", json!(-4)),
        ("group_size", json!(1u64 << 60)),
    ] {
        let model = copy_of(fixture("mlx/q4"));
        let path = model.path().join(CONFIG);
        let mut settings = read_json(&path)["quantization"].clone();
        settings[key] = value;
        edit_json(&path, "quantization", settings);
        assert_refused(
            model.path(),
            "InvalidConfig",
            &[path.to_str().unwrap(), &format!("`{key}`")],
        );
    }
}
