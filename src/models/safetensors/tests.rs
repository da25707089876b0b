use std::collections::HashMap;
use std::path::PathBuf;

use super::*;
use crate::models::ModelConfig;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/models").join(name)
}

fn save(path: &Path, tensors: &[(&str, Tensor)]) {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let tensors = tensors.iter().map(|(name, tensor)| (*name, tensor));
    safetensors::serialize_to_file(tensors, Some(metadata), path).unwrap();
}

fn ones(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::ones(shape, dtype, &Device::Cpu).unwrap()
}

/// A directory with the given shards, each of them one tensor, and an index.
fn sharded(shards: &[(&str, &str)], index: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (file, tensor) in shards {
        save(&dir.path().join(file), &[(tensor, ones(&[2], DType::F32))]);
    }
    std::fs::write(dir.path().join(INDEX_FILE), index).unwrap();
    dir
}

fn spec(name: &str, shape: &[usize]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        shape: shape.to_vec(),
    }
}

#[test]
fn fixtures_have_the_tensors_of_their_configurations() {
    for name in [
        "qwen2_tied",
        "qwen2_tied_sharded",
        "qwen2_untied_gqa",
        "qwen2_sliding",
        "qwen2_yarn",
        "qwen2_bf16",
        "qwen2_untied_f16",
        "qwen3",
        "llama_plain",
        "mistral_sliding",
    ] {
        let dir = fixture(name);
        let config = ModelConfig::from_file(&dir.join("config.json")).unwrap();
        let checkpoint = SafetensorsCheckpoint::open(&dir).unwrap();
        checkpoint.validate(&config.tensors()).unwrap();
        assert_eq!(checkpoint.names().count(), config.tensors().len(), "{name}");
    }
}

#[test]
fn the_default_model_has_as_many_parameters_as_its_configuration_says() {
    let dir = root().join("assets/tiny-coder");
    let config = ModelConfig::from_file(&dir.join("config.json")).unwrap();
    let checkpoint = SafetensorsCheckpoint::open(&dir).unwrap();
    let elements = |name| -> usize { checkpoint.shape(name).unwrap().iter().product() };
    let stored: usize = checkpoint.names().map(elements).sum();
    assert_eq!(config.parameter_count(), stored);
}

#[test]
fn shards_load_like_a_single_file() {
    let single = SafetensorsCheckpoint::open(&fixture("qwen2_tied")).unwrap();
    let shards = SafetensorsCheckpoint::open(&fixture("qwen2_tied_sharded")).unwrap();
    assert!(single.names().eq(shards.names()));
    for name in single.names() {
        let load = |checkpoint: &SafetensorsCheckpoint| {
            let tensor = checkpoint.load(name, None, &Device::Cpu).unwrap();
            tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(load(&single), load(&shards), "{name}");
    }
}

#[test]
fn loads_and_converts() {
    let file = tempfile::NamedTempFile::new().unwrap();
    save(
        file.path(),
        &[
            ("half", ones(&[2, 3], DType::BF16)),
            ("packed", ones(&[4], DType::U32)),
        ],
    );
    let checkpoint = SafetensorsCheckpoint::open_file(file.path()).unwrap();
    assert!(checkpoint.contains("half") && !checkpoint.contains("other"));
    assert_eq!(checkpoint.dtype("half"), Some(DType::BF16));
    assert_eq!(checkpoint.metadata()["format"], "pt");
    let tensor = checkpoint
        .load("half", Some(DType::F32), &Device::Cpu)
        .unwrap();
    assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[1.0; 3]; 2]);
    let tensor = checkpoint.load("packed", None, &Device::Cpu).unwrap();
    assert_eq!(tensor.to_vec1::<u32>().unwrap(), [1; 4]);
    let error = checkpoint.load("other", None, &Device::Cpu).unwrap_err();
    assert!(matches!(error, Error::MissingTensor { .. }));
}

#[test]
fn validation_tells_missing_shape_and_dtype_apart() {
    let file = tempfile::NamedTempFile::new().unwrap();
    save(
        file.path(),
        &[
            ("a", ones(&[2, 3], DType::F16)),
            ("b", ones(&[4], DType::I64)),
        ],
    );
    let checkpoint = SafetensorsCheckpoint::open_file(file.path()).unwrap();
    checkpoint.validate(&[spec("a", &[2, 3])]).unwrap();
    let message = |expected| checkpoint.validate(&[expected]).unwrap_err().to_string();
    assert!(message(spec("c", &[7])).ends_with("tensor `c` is missing; expected shape [7]"));
    assert!(message(spec("a", &[3, 2])).ends_with("tensor `a` has shape [2, 3]; expected [3, 2]"));
    assert!(
        message(spec("b", &[4])).ends_with("tensor `b` has dtype I64; expected F32, F16 or BF16")
    );
}

#[test]
fn broken_files_are_invalid_formats() {
    let whole = std::fs::read(fixture("qwen2_tied").join(SINGLE_FILE)).unwrap();
    let longer = [&whole[..], b"x"].concat();
    let tensor = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let header = format!("{{{tensor},{tensor}}}");
    let twice = [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        &[0; 4],
    ]
    .concat();
    let file = tempfile::NamedTempFile::new().unwrap();
    for (bytes, found) in [
        (&b""[..], "empty"),
        (b"abc", "truncated"),
        (b"not a safetensors file at all", "header too large"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x04\0\0\0\0\0\0\0nope", "not a valid safetensors file"),
        (&whole[..100], "truncated"),
        (&whole[..whole.len() - 1], "truncated"),
        (&longer, "where its tensors end"),
        (&twice, "`a` is there twice"),
    ] {
        std::fs::write(file.path(), bytes).unwrap();
        let error = SafetensorsCheckpoint::open_file(file.path()).unwrap_err();
        assert!(matches!(error, Error::InvalidFormat { .. }), "{error}");
        assert!(error.to_string().contains(found), "{found}: {error}");
    }
}

#[test]
fn no_weights_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let error = SafetensorsCheckpoint::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::FileNotFound { .. }));
    assert!(error.to_string().contains(INDEX_FILE));
}

#[test]
fn an_index_must_match_its_shards() {
    let open = |shards: &[(&str, &str)], index: &str| {
        SafetensorsCheckpoint::open(sharded(shards, index).path())
    };
    let both = r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
    let good = open(&[("1.safetensors", "a"), ("2.safetensors", "b")], both).unwrap();
    assert!(good.names().eq(["a", "b"]));

    let error = open(&[("1.safetensors", "a")], both).unwrap_err();
    assert!(matches!(error, Error::FileNotFound { .. }), "{error}");
    assert!(error.to_string().contains("2.safetensors"));

    let error = open(&[("1.safetensors", "a"), ("2.safetensors", "x")], both).unwrap_err();
    assert!(
        matches!(&error, Error::MissingTensor { name, .. } if name == "b"),
        "{error}"
    );

    let error = open(&[("1.safetensors", "a"), ("2.safetensors", "a")], both).unwrap_err();
    assert!(matches!(error, Error::InvalidFormat { .. }), "{error}");
    assert!(error.to_string().contains("`a` is also in"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_may_lead_only_into_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let open = |snapshot: &str, target: &str| {
        let dir = cache.path().join(snapshot);
        let target = cache.path().join(target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        save(&target, &[("a", ones(&[2], DType::F32))]);
        std::os::unix::fs::symlink(&target, dir.join("1.safetensors")).unwrap();
        let index = r#"{"weight_map": {"a": "1.safetensors"}}"#;
        std::fs::write(dir.join(INDEX_FILE), index).unwrap();
        SafetensorsCheckpoint::open(&dir)
    };
    assert!(open("snapshots/revision", "blobs/123").is_ok());
    let error = open("model", "elsewhere/123").unwrap_err();
    assert!(matches!(error, Error::InvalidFormat { .. }), "{error}");
    assert!(error.to_string().contains("elsewhere"), "{error}");
}
