//! Folders of training, validation and test data.

use std::path::Path;

use super::{Dataset, DatasetOptions};
use crate::models::Model;
use crate::{Error, Result};

/// The data sets of a folder as mlx-lm reads it: `train.jsonl`, `valid.jsonl` (or, as the Hugging Face
/// hub calls it, `validation.jsonl`) and `test.jsonl`.
///
/// # Example
///
/// ```
/// use metal_candle::ModelLoader;
/// use metal_candle::training::{DataFolder, DatasetOptions};
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// let folder = DataFolder::open("assets/sql".as_ref(), &model, &DatasetOptions::default())?;
/// assert_eq!(folder.train.len(), 1000);
/// assert!(folder.validation.is_some());
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DataFolder {
    /// The rows to train on.
    pub train: Dataset,
    /// The rows to evaluate on while training, if there are any.
    pub validation: Option<Dataset>,
    /// The rows to evaluate on at the end, if there are any.
    pub test: Option<Dataset>,
}

impl DataFolder {
    /// Reads all files that the folder has. Only `train.jsonl` must be there.
    ///
    /// # Errors
    ///
    /// [`Error::FileNotFound`] that says what was looked for where there is no `train.jsonl`, and
    /// those of [`Dataset::from_jsonl`].
    pub fn open(folder: &Path, model: &Model, options: &DatasetOptions) -> Result<Self> {
        let find = |names: &[&str]| {
            let mut paths = names.iter().map(|name| folder.join(name));
            let path = paths.find(|path| path.exists());
            path.map(|path| Dataset::from_jsonl(&path, model, options))
                .transpose()
        };
        let Some(train) = find(&["train.jsonl"])? else {
            return Err(Error::FileNotFound {
                path: folder.join("train.jsonl"),
                expected: "a folder with train.jsonl and, if wanted, valid.jsonl (or \
                           validation.jsonl) and test.jsonl"
                    .to_owned(),
            });
        };
        Ok(Self {
            train,
            validation: find(&["valid.jsonl", "validation.jsonl"])?,
            test: find(&["test.jsonl"])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::tiny_coder;
    use super::*;

    #[test]
    fn a_folder_has_up_to_three_files() {
        let folder = tempfile::tempdir().unwrap();
        let open = || DataFolder::open(folder.path(), tiny_coder(), &DatasetOptions::default());
        let write = |name: &str, rows: usize| {
            let rows = "{\"text\": \"a b\"}\n".repeat(rows);
            std::fs::write(folder.path().join(name), rows).unwrap();
        };
        write("valid.jsonl", 2);
        let error = open().unwrap_err();
        assert!(matches!(error, Error::FileNotFound { .. }), "{error}");
        let words = "train.jsonl: no such file or directory; expected a folder with train.jsonl";
        assert!(error.to_string().contains(words), "{error}");
        write("train.jsonl", 1);
        write("validation.jsonl", 9);
        let lengths = |data: &DataFolder| {
            let length = |data: &Option<Dataset>| data.as_ref().map(Dataset::len);
            (
                data.train.len(),
                length(&data.validation),
                length(&data.test),
            )
        };
        assert_eq!(lengths(&open().unwrap()), (1, Some(2), None));
        std::fs::remove_file(folder.path().join("valid.jsonl")).unwrap();
        write("test.jsonl", 4);
        assert_eq!(lengths(&open().unwrap()), (1, Some(9), Some(4)));
        write("test.jsonl", 0);
        let error = open().unwrap_err().to_string();
        assert!(
            error.contains("test.jsonl: the data set is empty"),
            "{error}"
        );
    }
}
