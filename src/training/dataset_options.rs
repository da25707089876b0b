//! How the rows of a data set are read.

use serde::{Deserialize, Serialize};

use super::FieldNames;
use crate::{Error, Result};

/// Which tokens of a row are scored. A preference row scores its answers alone, whatever the mask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossMask {
    /// None is left out: every token but the first is scored.
    None,
    /// All before the answer is left out: scored are the completion, the middle or the last message
    /// of the assistant, as with mlx-lm's `--mask-prompt`.
    Prompt,
    /// All that the assistant does not write is left out: scored are the completion, the middle or
    /// every message of the assistant, as with TRL's `assistant_only_loss`. The default.
    #[default]
    Assistant,
}

/// What happens where a row cannot be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadRow {
    /// The data set is an error that names the row. The default.
    #[default]
    Stop,
    /// The row is left out and reported by [`Dataset::skipped`](super::Dataset::skipped).
    Skip,
}

/// How the rows of a data set are read.
///
/// As JSON, an option that is left out has its default, and an unknown one is an error; masks are
/// `"none"`, `"prompt"` and `"assistant"`, bad rows `"stop"` and `"skip"`.
///
/// # Example
///
/// ```
/// use metal_candle::training::{DatasetOptions, LossMask};
///
/// let options = DatasetOptions { mask: LossMask::Prompt, ..DatasetOptions::default() };
/// assert_eq!(options.max_seq_length, 2048);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetOptions {
    /// The most tokens of a sample; longer ones lose their end. At least 2, by default 2048, as in
    /// mlx-lm.
    pub max_seq_length: usize,
    /// Which tokens are scored. By default what the assistant writes.
    pub mask: LossMask,
    /// What the keys of a row are called.
    pub fields: FieldNames,
    /// What happens where a row cannot be used. By default it is an error.
    pub on_bad_row: BadRow,
    /// The size in bytes up to which a file is kept in memory as tokens. Of a longer one only an
    /// index is kept, of some 50 bytes a row, and a row is read and encoded again each time it is
    /// asked for. By default 64 MiB.
    pub max_bytes_in_memory: u64,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        Self {
            max_seq_length: 2048,
            mask: LossMask::default(),
            fields: FieldNames::default(),
            on_bad_row: BadRow::default(),
            max_bytes_in_memory: 64 << 20,
        }
    }
}

impl DatasetOptions {
    /// Reads options from JSON.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that says what is wrong and where. Ranges are checked by
    /// [`DatasetOptions::validate`].
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::training::{BadRow, DatasetOptions};
    ///
    /// let json = r#"{"on_bad_row": "skip", "fields": {"text": "content"}}"#;
    /// assert_eq!(DatasetOptions::from_json(json)?.on_bad_row, BadRow::Skip);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| {
            let expected = "the options of a data set as a JSON object";
            Error::option("options", format!("not understood ({error})"), expected)
        })
    }

    /// Checks the ranges of all fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the field and its range.
    pub fn validate(&self) -> Result<()> {
        if self.max_seq_length < 2 {
            let found = self.max_seq_length;
            return Err(Error::option("max_seq_length", found, "at least 2"));
        }
        self.fields.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_all_and_names_what_is_wrong() {
        let mut options = DatasetOptions {
            max_seq_length: 7,
            mask: LossMask::None,
            on_bad_row: BadRow::Skip,
            max_bytes_in_memory: 9,
            ..DatasetOptions::default()
        };
        options.fields.set("text", "content").unwrap();
        let json = serde_json::to_string(&options).unwrap();
        assert!(json.contains(r#""mask":"none""#), "{json}");
        assert_eq!(DatasetOptions::from_json(&json).unwrap(), options);
        let default = DatasetOptions::default();
        assert_eq!(DatasetOptions::from_json("{}").unwrap(), default);
        for (json, expected) in [
            (r#"{"max_length": 1}"#, "max_length"),
            (r#"{"mask": "all"}"#, "all"),
            (r#"{"fields": {"texts": "x"}}"#, "texts"),
            ("[", "JSON"),
        ] {
            let error = DatasetOptions::from_json(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn options_out_of_range_are_named() {
        for (json, expected) in [
            (r#"{"max_seq_length": 1}"#, "`max_seq_length` is 1"),
            (r#"{"fields": {"text": "tools"}}"#, "`fields` is `tools`"),
        ] {
            let options = DatasetOptions::from_json(json).unwrap();
            let error = options.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
