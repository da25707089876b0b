//! Where the rows of a data set are kept.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::Row;
use super::lines::Line;
use super::row_encoder::RowEncoder;
use crate::models::Fingerprint;
use crate::{Error, Result};

/// What is known of a row without its tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowInfo {
    /// The line in the file, or the number in the list, from 1.
    pub line: usize,
    /// As [`Row::length`].
    pub length: u32,
    /// As [`Row::tokens`].
    pub tokens: u32,
    /// As [`Row::target_tokens`].
    pub target_tokens: u32,
    pub fingerprint: Fingerprint,
}

impl RowInfo {
    pub(super) fn new(line: usize, row: &Row) -> Self {
        // A row has at most some bytes of text for a token, so the numbers fit; of a sample that was
        // given as ids the memory ends before.
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            line,
            length: number(row.length()),
            tokens: number(row.tokens()),
            target_tokens: number(row.target_tokens()),
            fingerprint: row.fingerprint(),
        }
    }
}

/// The rows, in memory or in their file.
#[derive(Debug)]
pub(super) enum RowStore {
    Memory(Vec<Row>),
    File(RowFile),
}

impl RowStore {
    /// Takes a row in, which came from a line.
    pub(super) fn push(&mut self, line: &Line, row: Row) {
        match self {
            Self::Memory(rows) => rows.push(row),
            Self::File(file) => file.places.push(Place {
                offset: line.offset,
                bytes: u32::try_from(line.bytes.len()).unwrap_or(u32::MAX),
            }),
        }
    }
}

/// A file whose rows are encoded each time they are asked for.
#[derive(Debug)]
pub(super) struct RowFile {
    file: File,
    bytes: u64,
    places: Vec<Place>,
    encoder: Arc<RowEncoder>,
}

/// Where a row is in its file.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    bytes: u32,
}

impl RowFile {
    /// A file of so many bytes, of which no row is known yet.
    pub(super) fn new(file: File, bytes: u64, encoder: Arc<RowEncoder>) -> Self {
        Self {
            file,
            bytes,
            places: Vec::new(),
            encoder,
        }
    }

    /// The row `index`, of which `info` was found at opening; `path` is for errors.
    pub(super) fn row(&self, index: usize, info: &RowInfo, path: &Path) -> Result<Row> {
        let changed = || {
            let reason = format!(
                "line {} is not what it was when the data set was opened; open the data set again",
                info.line
            );
            Error::format(path, reason)
        };
        let io_error = |source: std::io::Error| match source.kind() {
            ErrorKind::UnexpectedEof => changed(),
            _ => Error::io(path, "a .jsonl file", source),
        };
        let place = self.places.get(index).ok_or_else(changed)?;
        let mut line = vec![0; place.bytes as usize];
        self.file
            .read_exact_at(&mut line, place.offset)
            .map_err(io_error)?;
        if self.file.metadata().map_err(io_error)?.len() != self.bytes {
            return Err(changed());
        }
        match self.encoder.encode(&line, place.offset == 0) {
            Ok(Some((row, _))) if row.fingerprint() == info.fingerprint => Ok(row),
            _ => Err(changed()),
        }
    }
}
