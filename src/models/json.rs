//! JSON files read with a size bound, and typed access to their values.
//!
//! Values are taken by hand instead of being derived, so that every error names the file, the
//! dotted key, the value found and what was expected.

use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::backend::mapped_file::open_regular_file;
use crate::error::{Error, Result};

/// The longest JSON file that is read, in bytes. The largest configuration and index files known
/// have a few MiB.
pub(crate) const MAX_JSON_BYTES: u64 = 16 << 20;

/// The longest value that an error message quotes, in characters.
const MAX_QUOTED_CHARS: usize = 80;

/// Reads a whole file of at most `limit` bytes; `expected` says what the file should be.
///
/// # Errors
///
/// [`Error::FileNotFound`], [`Error::Io`], or [`Error::InvalidFormat`] if the file is longer than
/// the limit or not a regular file.
pub(crate) fn read_bounded(path: &Path, expected: &str, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular_file(path, expected)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::io(path, expected, source))?;
    if bytes.len() as u64 > limit {
        return Err(Error::format(
            path,
            format!("the file is longer than {limit} bytes; expected {expected}"),
        ));
    }
    Ok(bytes)
}

/// Reads a JSON file of at most [`MAX_JSON_BYTES`].
///
/// # Errors
///
/// Those of [`read_bounded`] and [`parse`].
pub(crate) fn read(path: &Path, expected: &str) -> Result<Value> {
    parse(&read_bounded(path, expected, MAX_JSON_BYTES)?, path)
}

/// Reads a JSON file like [`read`], or gives `None` if it does not exist.
///
/// # Errors
///
/// Those of [`read`], except [`Error::FileNotFound`].
pub(crate) fn read_if_exists(path: &Path, expected: &str) -> Result<Option<Value>> {
    match read(path, expected) {
        Ok(value) => Ok(Some(value)),
        Err(Error::FileNotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Parses the text of the JSON file `path`.
///
/// # Errors
///
/// [`Error::InvalidFormat`] with the line and column of the first mistake.
pub(crate) fn parse(text: &[u8], path: &Path) -> Result<Value> {
    serde_json::from_slice(text).map_err(|error| {
        let problem = if error.is_eof() {
            "truncated JSON"
        } else {
            "not valid JSON"
        };
        Error::format(path, format!("{problem}: {error}"))
    })
}

/// A JSON object together with where it stands.
///
/// A key whose value is `null` counts as absent, as in the configuration classes of transformers.
#[derive(Debug, Clone)]
pub(crate) struct Object<'a> {
    path: &'a Path,
    /// The dotted key of this object with a trailing dot; empty for the whole file.
    prefix: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The whole file `path` as an object.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFormat`] if the value is not an object.
    pub(crate) fn new(value: &'a Value, path: &'a Path) -> Result<Self> {
        let fields = value.as_object().ok_or_else(|| {
            let found = quote(Some(value));
            Error::format(path, format!("the file holds {found}; expected an object"))
        })?;
        Ok(Self {
            path,
            prefix: String::new(),
            fields,
        })
    }

    /// The file that the object stands in.
    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// The keys and values, ordered by key.
    pub(crate) fn fields(&self) -> &'a Map<String, Value> {
        self.fields
    }

    /// The value of `key`, unless absent or `null`.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// The error that the value of `key` is not what was `expected`.
    pub(crate) fn invalid(&self, key: &str, expected: impl Into<String>) -> Error {
        Error::InvalidConfig {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            found: quote(self.fields.get(key)),
            expected: expected.into(),
        }
    }

    /// A nested object.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>> {
        self.typed(key, "an object", |value| {
            Some(Self {
                path: self.path,
                prefix: format!("{}{key}.", self.prefix),
                fields: value.as_object()?,
            })
        })
    }

    /// A list.
    pub(crate) fn list(&self, key: &str) -> Result<Option<&'a [Value]>> {
        self.typed(key, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// A string.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// `true` or `false`.
    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A whole number from 1 to `max`.
    pub(crate) fn size(&self, key: &str, max: usize) -> Result<Option<usize>> {
        self.typed(key, format!("a whole number from 1 to {max}"), |value| {
            let size = usize::try_from(value.as_u64()?).ok()?;
            (1..=max).contains(&size).then_some(size)
        })
    }

    /// A whole number from 1 to `max` that must be present.
    pub(crate) fn required_size(&self, key: &str, max: usize) -> Result<usize> {
        self.size(key, max)?
            .ok_or_else(|| self.invalid(key, format!("a whole number from 1 to {max}")))
    }

    /// A finite number above `bound`.
    pub(crate) fn number_above(&self, key: &str, bound: f64) -> Result<Option<f64>> {
        self.typed(key, format!("a number above {bound}"), |value| {
            value
                .as_f64()
                .filter(|number| number.is_finite() && *number > bound)
        })
    }

    /// One token id.
    pub(crate) fn token_id(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "a token id", as_token_id)
    }

    /// The token ids of a key that may be one id or a list of them; empty if absent.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let ids = self.typed(
            key,
            "a token id or a list of token ids",
            |value| match value.as_array() {
                Some(list) => list.iter().map(as_token_id).collect(),
                None => as_token_id(value).map(|id| vec![id]),
            },
        )?;
        Ok(ids.unwrap_or_default())
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: impl Into<String>,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.get(key)
            .map(|value| convert(value).ok_or_else(|| self.invalid(key, expected)))
            .transpose()
    }
}

fn as_token_id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

/// The value as an error message shows it: JSON, cut where it gets long.
pub(crate) fn quote(value: Option<&Value>) -> String {
    let Some(value) = value else {
        return "missing".to_owned();
    };
    let text = value.to_string();
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str, check: impl FnOnce(&Object) -> Error) -> String {
        let path = Path::new("dir/config.json");
        let value = parse(text.as_bytes(), path).unwrap();
        check(&Object::new(&value, path).unwrap()).to_string()
    }

    #[test]
    fn errors_name_file_key_value_and_expectation() {
        assert_eq!(
            message(r#"{"a": {"b": -1}}"#, |root| {
                let nested = root.object("a").unwrap().unwrap();
                nested.size("b", 8).unwrap_err()
            }),
            "dir/config.json: `a.b` is -1; expected a whole number from 1 to 8"
        );
        assert_eq!(
            message("{}", |root| root.required_size("n", 8).unwrap_err()),
            "dir/config.json: `n` is missing; expected a whole number from 1 to 8"
        );
        assert!(
            message(r#"{"n": null}"#, |root| root
                .required_size("n", 8)
                .unwrap_err())
            .contains("is null")
        );
    }

    #[test]
    fn sizes_are_whole_positive_and_bounded() {
        for bad in ["0", "-4", "1.5", "4.0", "9", "1e3", "\"4\"", "true", "[]"] {
            let text = format!(r#"{{"n": {bad}}}"#);
            let found = message(&text, |root| root.size("n", 8).unwrap_err());
            assert!(found.contains("`n` is"), "{bad}: {found}");
        }
    }

    #[test]
    fn token_ids_are_one_or_many() {
        let path = Path::new("c.json");
        let value = parse(
            br#"{"one": 3, "many": [1, 2], "none": null, "bad": [1, -2]}"#,
            path,
        );
        let value = value.unwrap();
        let root = Object::new(&value, path).unwrap();
        assert_eq!(root.token_ids("one").unwrap(), [3]);
        assert_eq!(root.token_ids("many").unwrap(), [1, 2]);
        assert!(root.token_ids("none").unwrap().is_empty());
        assert!(root.token_ids("absent").unwrap().is_empty());
        assert!(root.token_ids("bad").is_err());
    }

    #[test]
    fn syntax_errors_name_line_and_column() {
        let path = Path::new("c.json");
        let error = parse(b"{\n  \"a\": ?\n}", path).unwrap_err().to_string();
        assert!(error.contains("line 2 column 8"), "{error}");
        let error = parse(b"{\"a\": ", path).unwrap_err().to_string();
        assert!(error.contains("truncated"), "{error}");
        assert!(parse(b"\xff\xfe", path).is_err());
    }

    #[test]
    fn long_files_and_values_are_cut_off() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"12345").unwrap();
        assert!(read_bounded(file.path(), "digits", 5).is_ok());
        let error = read_bounded(file.path(), "digits", 4).unwrap_err();
        assert!(error.to_string().contains("longer than 4 bytes"));
        let quoted = quote(Some(&Value::String("ä".repeat(1000))));
        assert_eq!(quoted.chars().count(), MAX_QUOTED_CHARS + 3);
    }

    #[test]
    fn an_absent_file_is_optional_only_where_asked() {
        let path = Path::new("no/such.json");
        assert!(read_if_exists(path, "x").unwrap().is_none());
        assert!(matches!(
            read(path, "x").unwrap_err(),
            Error::FileNotFound { .. }
        ));
    }
}
