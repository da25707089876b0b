//! Training data: rows of a JSON Lines file as token ids.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::Sample;
use super::row::{self, MAX_LINE_BYTES};
use crate::models::Tokenizer;
use crate::{Error, Result};

/// The path shown in errors on samples that do not come from a file.
const IN_MEMORY: &str = "<samples>";

/// How rows become samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatasetOptions {
    /// The most tokens of a sample; longer rows lose their end. At least 2, by default 2048.
    pub max_seq_length: usize,
    /// Whether only the completion is scored and not the prompt. On by default.
    pub mask_prompt: bool,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        Self {
            max_seq_length: 2048,
            mask_prompt: true,
        }
    }
}

/// Samples to train or evaluate on; never empty, and each has at least one scored token.
///
/// # Example
///
/// ```no_run
/// use std::path::Path;
///
/// use metal_candle::models::Tokenizer;
/// use metal_candle::training::{Dataset, DatasetOptions};
///
/// if let Some(tokenizer) = Tokenizer::from_dir(Path::new("model"))? {
///     let path = Path::new("train.jsonl");
///     let dataset = Dataset::from_jsonl(path, &tokenizer, &DatasetOptions::default())?;
///     assert!(dataset.target_tokens() < dataset.tokens());
/// }
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    samples: Vec<Sample>,
    truncated: usize,
    path: PathBuf,
}

impl Dataset {
    /// Reads a JSON Lines file: UTF-8, one object a line, blank lines ignored.
    ///
    /// `{"text": "..."}` scores the whole text. `{"prompt": "...", "completion": "..."}` scores the
    /// completion; prompt and completion are encoded apart, so that the boundary between them is
    /// the same as in generation. Other keys are ignored. The end-of-sequence token, if the
    /// tokenizer has one, is appended unless the row ends with it already.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRow`] with the line for a row that cannot be used, which includes one that
    /// has no scored token within `max_seq_length`; [`Error::EmptyDataset`] if there is no row;
    /// [`Error::FileNotFound`], [`Error::Io`] or, for a directory, [`Error::InvalidFormat`] if the
    /// file cannot be read; [`Error::InvalidOption`] if `max_seq_length` is below 2.
    pub fn from_jsonl(
        path: &Path,
        tokenizer: &Tokenizer,
        options: &DatasetOptions,
    ) -> Result<Self> {
        if options.max_seq_length < 2 {
            let found = options.max_seq_length;
            return Err(Error::option("max_seq_length", found, "at least 2"));
        }
        let io_error = |source| Error::io(path, "a .jsonl file with one row a line", source);
        if std::fs::metadata(path).map_err(io_error)?.is_dir() {
            let reason = "is a directory; expected the name of a .jsonl file";
            return Err(Error::format(path, reason));
        }
        let mut reader = BufReader::new(File::open(path).map_err(io_error)?);
        let mut samples = Vec::new();
        let mut truncated = 0;
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            // Never reads more than one byte beyond the limit into memory.
            let mut limited = reader.by_ref().take(MAX_LINE_BYTES + 1);
            let count = limited.read_until(b'\n', &mut bytes).map_err(io_error)?;
            if count == 0 {
                break;
            }
            let sample = row::parse(&bytes, line == 1)
                .and_then(|row| row.map(|row| row.encode(tokenizer, options)).transpose());
            match sample {
                Ok(Some((sample, was_cut))) => {
                    samples.push(sample);
                    truncated += usize::from(was_cut);
                }
                Ok(None) => {}
                Err(reason) => {
                    let path = path.to_owned();
                    return Err(Error::InvalidRow { path, line, reason });
                }
            }
        }
        Self::non_empty(samples, truncated, path)
    }

    /// Takes samples that are encoded already.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRow`] with the number of the sample, from 1, if it has no scored token;
    /// [`Error::EmptyDataset`] if there is no sample.
    pub fn from_samples(samples: Vec<Sample>) -> Result<Self> {
        let path = Path::new(IN_MEMORY);
        for (index, sample) in samples.iter().enumerate() {
            sample.check().map_err(|reason| Error::InvalidRow {
                path: path.to_owned(),
                line: index + 1,
                reason,
            })?;
        }
        Self::non_empty(samples, 0, path)
    }

    fn non_empty(samples: Vec<Sample>, truncated: usize, path: &Path) -> Result<Self> {
        let path = path.to_owned();
        if samples.is_empty() {
            return Err(Error::EmptyDataset { path });
        }
        Ok(Self {
            samples,
            truncated,
            path,
        })
    }

    /// The number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is no sample; never so for a data set that could be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The samples in the order of the file.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The number of rows that were cut to `max_seq_length`.
    #[must_use]
    pub fn truncated(&self) -> usize {
        self.truncated
    }

    /// The file the samples come from, or `<samples>`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of tokens in all samples.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.samples.iter().map(|s| s.input_ids.len()).sum()
    }

    /// The number of scored tokens in all samples.
    #[must_use]
    pub fn target_tokens(&self) -> usize {
        self.samples.iter().map(Sample::target_tokens).sum()
    }

    /// A hash of all ids and scored ranges: 64-bit FNV-1a, the same on every platform.
    ///
    /// It tells whether a resumed run sees the data it began with.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut update = |bytes: &[u8]| {
            for &byte in bytes {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        for sample in &self.samples {
            // The length tells where one sample ends and the next begins.
            update(&(sample.input_ids.len() as u64).to_le_bytes());
            update(&(sample.scored.len() as u64).to_le_bytes());
            for range in &sample.scored {
                update(&(range.start as u64).to_le_bytes());
                update(&(range.end as u64).to_le_bytes());
            }
            for id in &sample.input_ids {
                update(&id.to_le_bytes());
            }
        }
        hash
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of ranges")]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-coder");
        Tokenizer::from_dir(&dir).unwrap().unwrap()
    }

    fn load(content: &[u8], options: DatasetOptions) -> Result<Dataset> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, content).unwrap();
        Dataset::from_jsonl(&path, &tokenizer(), &options)
    }

    fn load_default(content: &str) -> Result<Dataset> {
        load(content.as_bytes(), DatasetOptions::default())
    }

    fn row_error(content: &str) -> String {
        let error = load_default(content).unwrap_err();
        assert!(matches!(error, Error::InvalidRow { .. }));
        error.to_string()
    }

    #[test]
    fn both_row_shapes_end_with_eos() {
        let tokenizer = tokenizer();
        let eos = tokenizer.eos_token_id().unwrap();
        let dataset = load_default(concat!(
            "{\"text\": \"let x = 1;\", \"id\": 7}\n",
            "{\"prompt\": \"fn ma\", \"completion\": \"in() {}\"}\n",
        ))
        .unwrap();
        let text = &dataset.samples()[0];
        let expected = tokenizer.encode("let x = 1;", true).unwrap();
        assert_eq!(text.input_ids, [&expected[..], &[eos]].concat());
        assert_eq!(text.target_tokens(), expected.len());
        let pair = &dataset.samples()[1];
        let prompt = tokenizer.encode("fn ma", true).unwrap();
        let completion = tokenizer.encode("in() {}", false).unwrap();
        assert_eq!(pair.input_ids, [&prompt[..], &completion, &[eos]].concat());
        assert_eq!(pair.scored, [prompt.len()..pair.input_ids.len()]);
        assert_eq!(pair.target_tokens(), completion.len() + 1);
        assert_eq!(
            dataset.tokens(),
            text.input_ids.len() + pair.input_ids.len()
        );
        assert_eq!(
            dataset.target_tokens(),
            text.target_tokens() + pair.target_tokens()
        );
        assert_eq!(
            (dataset.len(), dataset.truncated(), dataset.is_empty()),
            (2, 0, false)
        );
    }

    #[test]
    fn eos_in_the_row_is_not_doubled() {
        let dataset = load_default("{\"text\": \"x = 1<|endoftext|>\"}").unwrap();
        let plain = load_default("{\"text\": \"x = 1\"}").unwrap();
        assert_eq!(dataset.samples(), plain.samples());
    }

    #[test]
    fn the_prompt_is_scored_without_the_mask() {
        let options = DatasetOptions {
            mask_prompt: false,
            ..DatasetOptions::default()
        };
        let dataset = load(br#"{"prompt": "a", "completion": "b"}"#, options).unwrap();
        assert_eq!(dataset.target_tokens(), dataset.tokens() - 1);
    }

    #[test]
    fn long_rows_lose_their_end() {
        let row = br#"{"text": "a b c d e f g h"}"#;
        let whole = load(row, DatasetOptions::default()).unwrap();
        let options = DatasetOptions {
            max_seq_length: 4,
            ..DatasetOptions::default()
        };
        let cut = load(row, options).unwrap();
        assert_eq!(cut.truncated(), 1);
        assert_eq!(
            cut.samples()[0].input_ids,
            whole.samples()[0].input_ids[..4]
        );
        let row = br#"{"prompt": "a b c d e f g h", "completion": "i"}"#;
        let error = load(row, options).unwrap_err().to_string();
        assert!(error.contains("rows.jsonl:1: no token is left"), "{error}");
        let options = DatasetOptions {
            max_seq_length: 1,
            ..options
        };
        assert!(matches!(
            load(row, options),
            Err(Error::InvalidOption { .. })
        ));
    }

    #[test]
    fn bom_line_breaks_and_blank_lines_are_tolerated() {
        let rows = "{\"text\": \"one two\"}\n{\"text\": \"three\"}\n";
        let other = "\u{FEFF}\r\n{\"text\": \"one two\"}\r\n \t\r\n\n{\"text\": \"three\"}";
        let (rows, other) = (load_default(rows).unwrap(), load_default(other).unwrap());
        assert_eq!(rows.samples(), other.samples());
    }

    #[test]
    fn bad_rows_are_named_by_line() {
        let error = row_error("{\"text\": \"good\"}\n\n{\"text\": 3}\n");
        assert!(
            error.contains("rows.jsonl:3: `text` is a number"),
            "{error}"
        );
        let long = "x".repeat(usize::try_from(MAX_LINE_BYTES).unwrap() + 5);
        let error = row_error(&format!("\n{long}"));
        assert!(
            error.contains("rows.jsonl:2: the line is longer"),
            "{error}"
        );
    }

    #[test]
    fn files_that_are_no_data_are_named() {
        for content in ["", "\n \n", "\u{FEFF}"] {
            assert!(matches!(
                load_default(content),
                Err(Error::EmptyDataset { .. })
            ));
        }
        let dir = tempfile::tempdir().unwrap();
        let open = |path: &Path| {
            Dataset::from_jsonl(path, &tokenizer(), &DatasetOptions::default()).unwrap_err()
        };
        assert!(
            open(dir.path())
                .to_string()
                .contains("is a directory; expected the name")
        );
        let missing = open(&dir.path().join("none.jsonl"));
        assert!(matches!(missing, Error::FileNotFound { .. }));
    }

    #[test]
    fn samples_are_checked() {
        let sample = |input_ids: &[u32], prompt_len| Sample::new(input_ids.to_vec(), prompt_len);
        let dataset = Dataset::from_samples(vec![sample(&[1, 2], 0), sample(&[3, 4, 5], 2)]);
        assert_eq!(dataset.unwrap().target_tokens(), 2);
        let bad = Dataset::from_samples(vec![sample(&[1, 2], 0), sample(&[1, 2], 2)]);
        assert!(matches!(bad, Err(Error::InvalidRow { line: 2, .. })));
        assert!(Dataset::from_samples(vec![sample(&[1], 0)]).is_err());
        assert!(matches!(
            Dataset::from_samples(vec![]),
            Err(Error::EmptyDataset { .. })
        ));
    }

    #[test]
    fn the_fingerprint_sees_every_change() {
        let fingerprint = |rows: &[(&[u32], usize)]| {
            let samples = rows
                .iter()
                .map(|(ids, prompt_len)| Sample::new(ids.to_vec(), *prompt_len));
            Dataset::from_samples(samples.collect())
                .unwrap()
                .fingerprint()
        };
        let base = fingerprint(&[(&[1, 2, 3, 4], 0)]);
        // A fixed value: a change here breaks the resuming of runs begun before.
        assert_eq!(base, 0x7ab5_b346_30c7_6001);
        assert_ne!(base, fingerprint(&[(&[1, 2, 3, 4], 2)]));
        assert_ne!(base, fingerprint(&[(&[1, 2, 3, 5], 0)]));
        assert_ne!(base, fingerprint(&[(&[1, 2], 0), (&[3, 4], 0)]));
    }
}
