//! Which shard of a checkpoint holds which tensor, `model.safetensors.index.json`.
//!
//! An index may come from anywhere, so the names in it are held to the directory that it is in.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use crate::error::{Error, Result};
use crate::models::json::Object;

/// The shard of every tensor that an index lists.
pub(crate) fn shard_names<'a>(index: &Object<'a>) -> Result<BTreeMap<&'a str, &'a str>> {
    let weight_map = index
        .object("weight_map")?
        .filter(|map| !map.fields().is_empty())
        .ok_or_else(|| index.invalid("weight_map", "the file of every tensor"))?;
    weight_map
        .fields()
        .iter()
        .map(|(name, value)| match value.as_str() {
            Some(shard) if is_file_name(shard) => Ok((name.as_str(), shard)),
            _ => Err(weight_map.invalid(
                name,
                "the name of a file in the same directory, without separators",
            )),
        })
        .collect()
}

/// Whether a name is that of a file in the same directory.
fn is_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    !name.contains(['/', '\\', ':', '\0'])
        && matches!(components.next(), Some(Component::Normal(_)))
        && components.next().is_none()
}

/// Refuses a shard that is a link to somewhere else.
///
/// The Hugging Face cache keeps the files of `snapshots/REVISION/` as links into `blobs/` beside
/// `snapshots/`; such links are allowed.
pub(crate) fn check_inside(dir: &Path, shard: &Path) -> Result<()> {
    let resolve = |path: &Path| {
        let resolved = path.canonicalize();
        resolved.map_err(|source| Error::io(path, "a shard that the index lists", source))
    };
    let target = resolve(shard)?;
    let dir = resolve(dir)?;
    let in_cache = dir
        .parent()
        .filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"))
        .and_then(Path::parent)
        .is_some_and(|cache| target.starts_with(cache.join("blobs")));
    if target.starts_with(&dir) || in_cache {
        return Ok(());
    }
    Err(Error::format(
        shard,
        format!(
            "this links to {}; expected a file inside the directory",
            target.display()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::json;

    #[test]
    fn shard_names_stay_in_the_directory() {
        let path = Path::new("index.json");
        let check = |text: &str| {
            let value = json::parse(text.as_bytes(), path)?;
            shard_names(&Object::new(&value, path)?).map(|names| names.len())
        };
        for name in [
            "../1.safetensors",
            "/etc/passwd",
            "a/b",
            "a/",
            "..",
            ".",
            "",
            "a\\b",
            "C:x",
        ] {
            let index = serde_json::json!({"weight_map": {"a": name}}).to_string();
            let error = check(&index).unwrap_err();
            assert!(
                matches!(error, Error::InvalidConfig { .. }),
                "{name}: {error}"
            );
            assert!(error.to_string().contains("`weight_map.a`"), "{error}");
        }
        for index in ["{}", r#"{"weight_map": {}}"#, r#"{"weight_map": {"a": 1}}"#] {
            let error = check(index).unwrap_err();
            assert!(
                matches!(error, Error::InvalidConfig { .. }),
                "{index}: {error}"
            );
        }
        let index = r#"{"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}"#;
        assert_eq!(check(index).unwrap(), 2);
    }
}
