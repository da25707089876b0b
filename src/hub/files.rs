//! Which files of a repository a model is made of.

use std::collections::BTreeSet;
use std::path::Path;

use super::name;
use crate::error::{Error, Result};
use crate::models::json::{self, Object};
use crate::models::shard_index::shard_names;

const CONFIG: &str = "config.json";
/// What belongs to a model where it is there.
const OPTIONAL: [&str; 6] = [
    "additional_chat_templates/tool_use.jinja",
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];
/// The weights, the first that is there.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// How the names end of a GGUF file that is the first of several, before the number of them.
const FIRST_PART: &str = "-00001-of-";
/// How the names of weights end that are a list of files.
const INDEX_SUFFIX: &str = ".index.json";

/// The files of a model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) files: Vec<String>,
    /// The one that lists further ones, if there is one.
    pub(super) index: Option<String>,
}

/// All names that [`select`] may look for.
pub(super) fn candidates(gguf: Option<&str>) -> Vec<String> {
    if let Some(gguf) = gguf {
        return gguf_parts(gguf);
    }
    let names = [CONFIG].into_iter().chain(OPTIONAL).chain(WEIGHTS);
    names.map(str::to_owned).collect()
}

/// All files of a model that begins with this GGUF file: several where its name says so.
fn gguf_parts(first: &str) -> Vec<String> {
    let split = first
        .strip_suffix(".gguf")
        .and_then(|name| name.rsplit_once(FIRST_PART))
        .filter(|(_, count)| count.len() == 5)
        .and_then(|(stem, count)| Some((stem, count.parse::<u32>().ok()?)));
    let Some((stem, count)) = split.filter(|(_, count)| *count > 0) else {
        return vec![first.to_owned()];
    };
    let part = |number| format!("{stem}-{number:05}-of-{count:05}.gguf");
    (1..=count).map(part).collect()
}

/// Chooses the files of a model out of those that there are; `gguf` is the file that was asked for, which
/// holds configuration and tokenizer itself.
///
/// # Errors
///
/// The name of a file that is needed and not there.
pub(super) fn select(
    gguf: Option<&str>,
    present: &BTreeSet<&str>,
) -> std::result::Result<Selection, String> {
    let has = |file: &&str| present.contains(file);
    if let Some(gguf) = gguf {
        let files = gguf_parts(gguf);
        return match files.iter().find(|file| !has(&file.as_str())) {
            Some(lacking) => Err(lacking.clone()),
            None => Ok(Selection { files, index: None }),
        };
    }
    let weights = WEIGHTS.into_iter().find(has).ok_or(WEIGHTS[0])?;
    if !has(&CONFIG) {
        return Err(CONFIG.to_owned());
    }
    let small = [CONFIG].into_iter().chain(OPTIONAL).filter(has);
    Ok(Selection {
        files: small.chain([weights]).map(str::to_owned).collect(),
        index: weights.ends_with(INDEX_SUFFIX).then(|| weights.to_owned()),
    })
}

/// The files that an index lists.
///
/// # Errors
///
/// Those of reading it, and [`Error::InvalidConfig`] or [`Error::InvalidFormat`] if it names something
/// that is no file of the repository.
pub(super) fn shards(index: &Path) -> Result<Vec<String>> {
    let value = json::read(index, "the list of the shards of the model")?;
    let names = shard_names(&Object::new(&value, index)?)?;
    let names: BTreeSet<&str> = names.into_values().collect();
    if let Some(odd) = names.iter().find(|file| !name::is_file(file)) {
        let reason =
            format!("it names the file {odd:?}; expected letters, digits, `-`, `_` and `.`");
        return Err(Error::format(index, reason));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(gguf: Option<&str>, files: &[&str]) -> std::result::Result<Vec<String>, String> {
        let selection = select(gguf, &files.iter().copied().collect());
        selection.map(|selection| selection.files)
    }

    #[test]
    fn safetensors_come_before_pickles_and_one_file_before_many() {
        let names = candidates(None);
        let all: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .chain(["README.md", "onnx/model.onnx", "a.gguf"])
            .collect();
        let files = chosen(None, &all).unwrap();
        assert_eq!(files.len(), OPTIONAL.len() + 2);
        assert_eq!(files.last().unwrap(), "model.safetensors");
        for weights in WEIGHTS {
            let files = chosen(None, &["config.json", weights, "a.gguf"]).unwrap();
            assert_eq!(files, ["config.json", weights]);
        }
        assert_eq!(chosen(Some("a.gguf"), &all).unwrap(), ["a.gguf"]);
    }

    #[test]
    fn the_first_of_several_gguf_files_stands_for_all() {
        let parts = ["Q8/m-00001-of-00002.gguf", "Q8/m-00002-of-00002.gguf"];
        assert_eq!(candidates(Some(parts[0])), parts);
        assert_eq!(chosen(Some(parts[0]), &parts).unwrap(), parts);
        assert_eq!(chosen(Some(parts[0]), &parts[..1]).unwrap_err(), parts[1]);
        for single in [
            "m-00001-of-2.gguf",
            "m-00002-of-00002.gguf",
            "m-00001-of-00002",
        ] {
            assert_eq!(candidates(Some(single)), [single]);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            chosen(None, &["model.safetensors"]).unwrap_err(),
            "config.json"
        );
        assert_eq!(
            chosen(None, &["config.json", "a.gguf"]).unwrap_err(),
            "model.safetensors"
        );
        assert_eq!(
            chosen(Some("b.gguf"), &["config.json", "a.gguf"]).unwrap_err(),
            "b.gguf"
        );
    }

    #[test]
    fn an_index_names_each_file_once_and_none_outside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors.index.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            shards(&path)
        };
        let index = r#"{"weight_map": {"a": "2.bin", "b": "1.bin", "c": "2.bin"}}"#;
        assert_eq!(read(index).unwrap(), ["1.bin", "2.bin"]);
        for odd in ["../1", "/1", "1?x", "1 2", "%2e%2e"] {
            let error = read(&format!(r#"{{"weight_map": {{"a": "{odd}"}}}}"#)).unwrap_err();
            assert!(error.to_string().contains(odd), "{error}");
        }
    }
}
