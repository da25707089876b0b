//! The generation settings that come with a model, `generation_config.json`.

use std::path::Path;

use crate::error::Result;
use crate::models::json::{self, Object};

/// The special token ids of `generation_config.json`.
///
/// Chat models usually list more end-of-sequence ids here than in `config.json`; where both files
/// exist, generation stops at the ids of this one. Sampling settings of the file are not used:
/// sampling is up to the caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// The ids that end a text; empty if the file names none.
    pub eos_token_ids: Vec<u32>,
    /// The id that starts a text.
    pub bos_token_id: Option<u32>,
    /// The id that fills up shorter rows of a batch.
    pub pad_token_id: Option<u32>,
}

impl GenerationConfig {
    /// Reads the file at `path`, or gives `None` if there is no such file.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFormat`](crate::Error::InvalidFormat) if the file is not a JSON object,
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) if an id is not one, and
    /// [`Error::Io`](crate::Error::Io) if the file cannot be read.
    ///
    /// # Example
    ///
    /// ```
    /// use std::path::Path;
    /// use metal_candle::models::GenerationConfig;
    ///
    /// let path = Path::new("assets/tiny-coder/generation_config.json");
    /// let config = GenerationConfig::from_file(path)?.unwrap_or_default();
    /// assert_eq!(config.eos_token_ids, [6135]);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn from_file(path: &Path) -> Result<Option<Self>> {
        let Some(value) = json::read_if_exists(path, "the generation settings of the model")?
        else {
            return Ok(None);
        };
        let config = Object::new(&value, path)?;
        Ok(Some(Self {
            eos_token_ids: config.token_ids("eos_token_id")?,
            bos_token_id: config.token_id("bos_token_id")?,
            pad_token_id: config.token_id("pad_token_id")?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<GenerationConfig>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        GenerationConfig::from_file(file.path())
    }

    #[test]
    fn reads_one_or_many_ids() {
        let config = read(r#"{"eos_token_id": [5, 6], "bos_token_id": 1, "temperature": 0.7}"#);
        let config = config.unwrap().unwrap();
        assert_eq!(config.eos_token_ids, [5, 6]);
        assert_eq!(config.bos_token_id, Some(1));
        assert_eq!(config.pad_token_id, None);
        assert_eq!(read("{}").unwrap().unwrap(), GenerationConfig::default());
    }

    #[test]
    fn a_missing_file_is_none_and_a_bad_one_an_error() {
        assert_eq!(
            GenerationConfig::from_file(Path::new("no/such.json")).unwrap(),
            None
        );
        let error = read(r#"{"eos_token_id": "</s>"}"#).unwrap_err().to_string();
        assert!(error.contains("`eos_token_id` is \"</s>\""), "{error}");
        assert!(read("[]").is_err());
    }
}
