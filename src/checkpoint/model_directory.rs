//! Models in the format of Hugging Face's transformers.
//!
//! A directory with `config.json`, `model.safetensors` or the shards that
//! `model.safetensors.index.json` lists, and the files of the tokenizer.

use super::atomic::Staged;
use super::peft::pretty;
use super::tensor_file::{Stored, write_tensors};
use super::text_files::write_text_files;
use crate::error::{Error, Result};
use crate::models::Model;
use crate::models::decoder::Place;
use candle_core::DType;
use serde_json::{Map, Value, json};
use std::path::Path;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The folder of templates beside `chat_template.jinja`.
const TEMPLATES: &str = "additional_chat_templates";
/// The files of a model beside its configuration and weights.
const COMPANIONS: [&str; 10] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];
/// How the names begin of files that must go with a model and that no program reads.
const NOTICES: [&str; 2] = ["LICENSE", "NOTICE"];
/// The bytes of tensors beyond which a model is written in several files.
const MAX_SHARD_SIZE: u64 = 5_000_000_000;
/// What transformers asks of the metadata of a file that it shall load.
const FORMAT: &str = "pt";

impl Model {
    /// Saves the model to `directory`, as transformers and [`ModelLoader`](crate::ModelLoader) load
    /// it; [`merge`](Model::merge) an adapter before, and it is in the weights.
    ///
    /// Written are the weights in the model's [dtype](Model::dtype), which on the CPU is `f32` unless
    /// another was asked for at load; `config.json` as the model was loaded with it, told of that dtype;
    /// and the files of the model's own directory that belong to the tokenizer, the chat template and the
    /// licence, or where it comes from a GGUF file or its directory is gone, such files made of what it
    /// has. Weights of more than 5 GB are written as shards of at most so much. Memory is needed for one
    /// tensor at a time.
    ///
    /// The directory appears whole or not at all. Where it exists, the model in it is replaced and
    /// files that are no part of a model stay; it may be the one that the model was loaded from.
    ///
    /// # Errors
    ///
    /// An error that names the file: [`Error::InvalidFormat`] where `directory` is a file;
    /// [`Error::Io`] where it cannot be written. [`Error::Backend`] when the device fails.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::{LoRAAdapter, ModelLoader};
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let adapter = LoRAAdapter::load("tests/fixtures/lora/nonzero_b", &model)?;
    /// # let directory = std::env::temp_dir().join(format!("model-{}", std::process::id()));
    /// model.merge(&adapter)?.save(&directory)?;
    /// let merged = ModelLoader::new().load(&directory)?;
    /// # std::fs::remove_dir_all(directory).ok();
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<()> {
        self.save_sharded(directory, MAX_SHARD_SIZE)
    }

    /// Saves the model as [`save`](Model::save) does, in files of at most `max_shard_size` bytes of
    /// tensors each. A tensor that is larger has a file for itself.
    ///
    /// The files are named as by transformers: `model.safetensors` where there is one, else
    /// `model-00001-of-00003.safetensors` and so on, with `model.safetensors.index.json`.
    ///
    /// # Errors
    ///
    /// Those of [`save`](Model::save); [`Error::InvalidOption`] where `max_shard_size` is 0.
    pub fn save_sharded(&self, directory: impl AsRef<Path>, max_shard_size: u64) -> Result<()> {
        let directory = directory.as_ref();
        if max_shard_size == 0 {
            return Err(Error::option("max_shard_size", 0, "1 byte or more"));
        }
        if directory.exists() && !directory.is_dir() {
            let reason = "is a file; expected the path of a directory";
            return Err(Error::format(directory, reason));
        }
        // First, since what is missing in the source should not take the time to write the weights.
        let config = config_json(self)?;
        let staged = Staged::new(directory)?;
        staged.write(CONFIG, &pretty(&config))?;
        match self.text_directory().filter(|source| source.is_dir()) {
            Some(source) => copy_companions(source, &staged)?,
            None => write_text_files(self, &staged)?,
        }
        write_weights(self, &staged, max_shard_size)?;
        staged.replace_keeping(|name| !is_part_of_model(name))?;
        tracing::info!(path = %directory.display(), "saved a model");
        Ok(())
    }
}

/// The configuration of the model, for weights that are in the model's dtype.
fn config_json(model: &Model) -> Result<Value> {
    let mut value = model.config_json().clone();
    if let Some(config) = value.as_object_mut() {
        describe_weights(config, dtype_name(model.dtype())?);
    }
    Ok(value)
}

/// Makes a configuration that of plain weights of one dtype; all other keys stay, in their order.
fn describe_weights(config: &mut Map<String, Value>, dtype: &str) {
    config.retain(|key, _| !matches!(key.as_str(), "quantization" | "quantization_config"));
    // The key of newer versions of transformers, which read the older one as well.
    if let Some(found) = config.get_mut("dtype") {
        *found = Value::from(dtype);
    }
    if config.contains_key("torch_dtype") || !config.contains_key("dtype") {
        config.insert("torch_dtype".to_owned(), Value::from(dtype));
    }
}

/// The name of a dtype in a configuration.
fn dtype_name(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("float32"),
        DType::F16 => Ok("float16"),
        DType::BF16 => Ok("bfloat16"),
        other => Err(Error::option("dtype", other.as_str(), "f32, f16 or bf16")),
    }
}

/// Whether a file of an older model would be taken for one of the new model.
fn is_part_of_model(name: &str) -> bool {
    let is_weights = name == WEIGHTS || name == INDEX || is_shard(name);
    is_weights || name == CONFIG || name == TEMPLATES || COMPANIONS.contains(&name)
}

fn shard_name(number: usize, count: usize) -> String {
    format!("model-{number:05}-of-{count:05}.safetensors")
}

fn is_shard(name: &str) -> bool {
    let numbers = name
        .strip_prefix("model-")
        .and_then(|name| name.strip_suffix(".safetensors"));
    let numbers = numbers.and_then(|numbers| numbers.split_once("-of-"));
    numbers.is_some_and(|(number, count)| {
        [number, count]
            .iter()
            .all(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
    })
}

/// Copies what makes the weights a model for text.
fn copy_companions(source: &Path, staged: &Staged) -> Result<()> {
    for name in file_names(source)? {
        let is_notice = NOTICES.iter().any(|notice| name.starts_with(notice));
        if is_notice || COMPANIONS.contains(&name.as_str()) {
            staged.copy(&source.join(&name), &name)?;
        }
    }
    let templates = source.join(TEMPLATES);
    if templates.is_dir() {
        for name in file_names(&templates)? {
            staged.copy(&templates.join(&name), &format!("{TEMPLATES}/{name}"))?;
        }
    }
    Ok(())
}

/// The names of the files in a directory, links to files included.
fn file_names(directory: &Path) -> Result<Vec<String>> {
    let unreadable = |e| Error::io(directory, "the directory that the model was loaded from", e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if let (Ok(name), true) = (entry.file_name().into_string(), entry.path().is_file()) {
            names.push(name);
        }
    }
    Ok(names)
}

fn write_weights(model: &Model, staged: &Staged, max_shard_size: u64) -> Result<()> {
    let decoder = model.decoder();
    let weight = |place: Place| Stored {
        name: place.name(),
        dtype: decoder.dtype(),
        dims: place.shape(model.config()),
        tensor: Box::new(move || decoder.weight_at(place)),
    };
    let weights = decoder.places().into_iter().map(weight);
    let shards = shards(weights.collect(), max_shard_size);
    if let [shard] = &shards[..] {
        return write_tensors(staged.create(WEIGHTS)?, shard, FORMAT);
    }
    let mut weight_map = Map::new();
    for (index, shard) in shards.iter().enumerate() {
        let file = shard_name(index + 1, shards.len());
        let names = shard.iter().map(|weight| weight.name.clone());
        weight_map.extend(names.map(|name| (name, Value::from(file.as_str()))));
        write_tensors(staged.create(&file)?, shard, FORMAT)?;
    }
    weight_map.sort_keys();
    let total: u64 = shards.iter().flatten().map(Stored::bytes).sum();
    let index = json!({
        "metadata": {"total_parameters": model.parameter_count(), "total_size": total},
        "weight_map": weight_map,
    });
    staged.write(INDEX, &pretty(&index))
}

/// The weights of each file: as many as fit, in their order.
fn shards(weights: Vec<Stored<'_>>, max_size: u64) -> Vec<Vec<Stored<'_>>> {
    let mut shards: Vec<Vec<Stored>> = vec![];
    let mut size = 0;
    for weight in weights {
        let more = weight.bytes();
        match shards.last_mut() {
            Some(shard) if size + more <= max_size => {
                shard.push(weight);
                size += more;
            }
            _ => {
                shards.push(vec![weight]);
                size = more;
            }
        }
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::DTypePolicy;
    use crate::backend::testing::device_kind;
    use crate::models::testing::model;

    #[test]
    fn weights_have_the_shapes_of_their_configuration() {
        for name in ["qwen2_tied", "qwen2_untied_gqa", "qwen3", "llama_plain"] {
            let model = model(name, device_kind(), DTypePolicy::F32);
            for place in model.decoder().places() {
                let weight = model.decoder().weight_at(place).unwrap();
                assert_eq!(weight.dims(), place.shape(model.config()), "{place:?}");
            }
        }
    }

    #[test]
    fn shards_are_as_full_as_they_may_be() {
        let split = |max_size| -> Vec<Vec<u64>> {
            let weight = |n: usize| Stored {
                name: String::new(),
                dtype: DType::F32,
                dims: vec![n],
                tensor: Box::new(|| Err(Error::Cancelled)),
            };
            let weights = [3, 1, 4, 9, 2, 2].map(weight).into();
            let counts = |shard: Vec<Stored>| shard.iter().map(|w| w.bytes() / 4).collect();
            shards(weights, max_size).into_iter().map(counts).collect()
        };
        assert_eq!(split(16), [vec![3, 1], vec![4], vec![9], vec![2, 2]]);
        assert_eq!(split(84), [[3, 1, 4, 9, 2, 2]]);
        assert_eq!(split(1), [[3], [1], [4], [9], [2], [2]]);
    }

    #[test]
    fn a_configuration_tells_the_dtype_under_the_keys_it_has() {
        let check = |dtypes: Value, expected: Value| {
            let config = |dtypes: Value| {
                let mut config = json!({"model_type": "qwen2", "hidden_size": 64});
                let fields = config.as_object_mut().unwrap();
                fields.extend(dtypes.as_object().unwrap().clone());
                config
            };
            let mut found = config(dtypes);
            found["quantization"] = json!({"bits": 4});
            found["quantization_config"] = json!({"bits": 4});
            describe_weights(found.as_object_mut().unwrap(), "float16");
            assert_eq!(found.to_string(), config(expected).to_string());
        };
        check(json!({}), json!({"torch_dtype": "float16"}));
        for key in ["dtype", "torch_dtype"] {
            check(json!({key: "bfloat16"}), json!({key: "float16"}));
        }
        check(
            json!({"dtype": "float32", "torch_dtype": "float32"}),
            json!({"dtype": "float16", "torch_dtype": "float16"}),
        );
    }

    #[test]
    fn only_names_of_a_model_are_its_parts() {
        for name in [
            "config.json",
            "model.safetensors",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "merges.txt",
        ] {
            assert!(is_part_of_model(name), "{name}");
        }
        for name in [
            "model-of-mine.safetensors",
            "model-1-of-x.safetensors",
            "model_old.safetensors",
            "adapter_model.safetensors",
            "LICENSE",
            "notes.txt",
        ] {
            assert!(!is_part_of_model(name), "{name}");
        }
    }
}
