//! The one error type of the library.
//!
//! Every variant carries what a caller needs to act on it: where the problem is, what was found and
//! what would have been right. [`Error::kind`] gives the coarse class that the C API reports as a
//! status code.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, where, and what would be right.
///
/// # Example
///
/// ```
/// use metal_candle::{Error, ErrorKind, ModelLoader};
///
/// let error = ModelLoader::new().load("no/such/model").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// assert!(error.to_string().contains("no/such/model"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory that is needed does not exist.
    #[error("{}: no such file or directory; expected {expected}", path.display())]
    FileNotFound {
        /// The path that was looked for.
        path: PathBuf,
        /// What should be there.
        expected: String,
    },
    /// The operating system refused to read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason the operating system gives.
        source: std::io::Error,
    },
    /// A model could not be downloaded.
    #[error("{url}: {reason}")]
    Download {
        /// The address that was asked, on the hub itself; never one with a secret in it.
        url: String,
        /// What went wrong and what was expected.
        reason: String,
    },
    /// A file is not what its name says: truncated, not JSON, not safetensors.
    #[error("{}: {reason}", path.display())]
    InvalidFormat {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what was expected.
        reason: String,
    },
    /// A key of a configuration file has a value that makes no sense.
    #[error("{}: `{key}` is {found}; expected {expected}", path.display())]
    InvalidConfig {
        /// The configuration file.
        path: PathBuf,
        /// The key, dotted where nested.
        key: String,
        /// The value found, or `missing`.
        found: String,
        /// The values that are allowed.
        expected: String,
    },
    /// The input is well-formed but asks for something this library does not do.
    #[error("{}: {what} `{found}` is not supported; supported: {supported}", path.display())]
    Unsupported {
        /// The file that asks for it.
        path: PathBuf,
        /// The kind of thing, such as `architecture`.
        what: &'static str,
        /// What was asked for.
        found: String,
        /// What can be asked for.
        supported: String,
    },
    /// A checkpoint lacks a tensor that the configuration calls for.
    #[error("{}: tensor `{name}` is missing; expected shape {expected:?}", path.display())]
    MissingTensor {
        /// The checkpoint file or directory.
        path: PathBuf,
        /// The name of the tensor.
        name: String,
        /// The shape it must have.
        expected: Vec<usize>,
    },
    /// A tensor has another shape or dtype than the configuration calls for.
    #[error("{}: tensor `{name}` has {property} {found}; expected {expected}", path.display())]
    TensorMismatch {
        /// The checkpoint file.
        path: PathBuf,
        /// The name of the tensor.
        name: String,
        /// `shape` or `dtype`.
        property: &'static str,
        /// What the file has.
        found: String,
        /// What is needed.
        expected: String,
    },
    /// An option given by the caller is out of its range.
    #[error("option `{name}` is {found}; expected {expected}")]
    InvalidOption {
        /// The name of the option.
        name: &'static str,
        /// The value given.
        found: String,
        /// The values that are allowed.
        expected: String,
    },
    /// A row of a data set cannot be used.
    #[error("{}:{line}: {reason}", path.display())]
    InvalidRow {
        /// The data file.
        path: PathBuf,
        /// The line in it, from 1.
        line: usize,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A data set has no row that can be used.
    #[error("{}: the data set is empty; expected at least one row", path.display())]
    EmptyDataset {
        /// The data file or directory.
        path: PathBuf,
    },
    /// The tokenizer cannot encode or decode, or there is none.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// What is wrong.
        reason: String,
    },
    /// A conversation does not have the shape that is needed, or the chat template refused it.
    #[error("chat template: {reason}")]
    ChatTemplate {
        /// What is wrong and what was expected; where the template refused, its own words.
        reason: String,
    },
    /// A device was asked for that this machine or build does not have.
    #[error("device `{device}` is not available: {reason}")]
    DeviceUnavailable {
        /// The device asked for.
        device: String,
        /// Why it cannot be had.
        reason: String,
    },
    /// The tokens do not fit into the context of the model.
    #[error("{needed} tokens do not fit into the context of {capacity} tokens")]
    ContextFull {
        /// Tokens that must fit.
        needed: usize,
        /// Tokens that can fit.
        capacity: usize,
    },
    /// A computation gave NaN or an infinity where a number is needed.
    #[error("{what} is not finite at step {step}{}; {hint}", circumstances(rows, checkpoint.as_deref()))]
    NonFinite {
        /// The quantity, such as `loss`.
        what: &'static str,
        /// The training step or generated token, from 0.
        step: usize,
        /// The training rows of the step, as file and line; empty where it is none of training.
        rows: Vec<String>,
        /// The last checkpoint of the run, if there is one.
        checkpoint: Option<PathBuf>,
        /// What usually helps.
        hint: &'static str,
    },
    /// A checkpoint or adapter was made with other settings than the ones it is used with.
    #[error("{}: `{field}` is {found}; expected {expected}", path.display())]
    Incompatible {
        /// The checkpoint or adapter.
        path: PathBuf,
        /// The setting that differs.
        field: String,
        /// The value in the checkpoint.
        found: String,
        /// The value it is used with.
        expected: String,
    },
    /// Something needs more memory than it may have.
    #[error("{what} takes {needed} bytes of memory, and the budget is {budget}; {hint}")]
    MemoryBudget {
        /// What was to be in memory.
        what: String,
        /// The bytes that it takes.
        needed: u64,
        /// The bytes that it may take.
        budget: u64,
        /// What would take less.
        hint: &'static str,
    },
    /// A callback of the host program asked to stop.
    #[error("cancelled by the caller")]
    Cancelled,
    /// The tensor backend failed, for example for lack of memory.
    #[error("tensor backend: {0}")]
    Backend(#[from] candle_core::Error),
}

/// The rows and the checkpoint of a step that failed.
fn circumstances(rows: &[String], checkpoint: Option<&Path>) -> String {
    const SHOWN: usize = 8;
    let mut text = String::new();
    if !rows.is_empty() {
        let shown: Vec<_> = rows.iter().take(SHOWN).map(String::as_str).collect();
        text = format!(", of the rows {}", shown.join(", "));
        if rows.len() > SHOWN {
            let _ = write!(text, " and {} more", rows.len() - SHOWN);
        }
    }
    if let Some(checkpoint) = checkpoint {
        let _ = write!(
            text,
            "; the last good checkpoint is {}",
            checkpoint.display()
        );
    }
    text
}

/// The coarse class of an [`Error`], one per status code of the C API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file or directory is missing.
    NotFound,
    /// Reading, writing or downloading failed.
    Io,
    /// A file, configuration, tensor or row is malformed.
    InvalidFormat,
    /// An option or argument is out of range.
    InvalidArgument,
    /// Well-formed, but not supported.
    Unsupported,
    /// The tokenizer failed or is missing.
    Tokenizer,
    /// The device is not available.
    Device,
    /// The context is full.
    ContextFull,
    /// A number is not finite.
    NonFinite,
    /// A checkpoint does not fit what it is used with.
    Incompatible,
    /// The caller cancelled.
    Cancelled,
    /// The tensor backend failed.
    Backend,
    /// More memory is needed than there may be.
    OutOfMemory,
}

impl Error {
    /// The coarse class of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::FileNotFound { .. } => ErrorKind::NotFound,
            Self::Io { .. } | Self::Download { .. } => ErrorKind::Io,
            Self::InvalidFormat { .. }
            | Self::InvalidConfig { .. }
            | Self::MissingTensor { .. }
            | Self::TensorMismatch { .. }
            | Self::InvalidRow { .. }
            | Self::EmptyDataset { .. } => ErrorKind::InvalidFormat,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::InvalidOption { .. } | Self::ChatTemplate { .. } => ErrorKind::InvalidArgument,
            Self::Tokenizer { .. } => ErrorKind::Tokenizer,
            Self::DeviceUnavailable { .. } => ErrorKind::Device,
            Self::ContextFull { .. } => ErrorKind::ContextFull,
            Self::NonFinite { .. } => ErrorKind::NonFinite,
            Self::Incompatible { .. } => ErrorKind::Incompatible,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Backend(_) => ErrorKind::Backend,
            Self::MemoryBudget { .. } => ErrorKind::OutOfMemory,
        }
    }

    /// An I/O error on `path`; a missing file becomes [`Error::FileNotFound`].
    pub(crate) fn io(path: &Path, expected: &str, source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::NotFound {
            Self::FileNotFound {
                path: path.to_owned(),
                expected: expected.to_owned(),
            }
        } else {
            Self::Io {
                path: path.to_owned(),
                source,
            }
        }
    }

    /// A malformed file.
    pub(crate) fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::InvalidFormat {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    /// An option out of range.
    #[allow(clippy::needless_pass_by_value)] // By value, so that callers pass literals and numbers.
    pub(crate) fn option(
        name: &'static str,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::InvalidOption {
            name,
            found: found.to_string(),
            expected: expected.into(),
        }
    }
}
