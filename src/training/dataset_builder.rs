//! Reads lines to the end and puts their rows together.

use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;

use super::dataset::{Contents, Dataset};
use super::lines::Line;
use super::record::RowResult;
use super::row_encoder::{Encoded, RowEncoder};
use super::row_store::{RowInfo, RowStore};
use super::skipped_rows::SkippedRows;
use super::{BadRow, Row, RowKind};
use crate::backend::threads;
use crate::models::fingerprint::Hasher;
use crate::{Error, Result};

/// Lines that are encoded at once, which bounds the memory beside the rows themselves.
const MAX_CHUNK_LINES: usize = 4096;
const MAX_CHUNK_BYTES: usize = 8 << 20;

/// A data set that is being read.
pub(super) struct DatasetBuilder {
    path: PathBuf,
    on_bad_row: BadRow,
    kind: Option<RowKind>,
    infos: Vec<RowInfo>,
    truncated: usize,
    skipped: SkippedRows,
    max_token_id: u32,
    hasher: Hasher,
}

impl DatasetBuilder {
    /// `path` is for errors.
    pub(super) fn new(path: impl Into<PathBuf>, on_bad_row: BadRow) -> Self {
        Self {
            path: path.into(),
            on_bad_row,
            kind: None,
            infos: Vec::new(),
            truncated: 0,
            skipped: SkippedRows::default(),
            max_token_id: 0,
            hasher: Hasher::new(),
        }
    }

    /// Encodes all lines, in parallel, and hands their rows to `store`, in order.
    pub(super) fn read(
        &mut self,
        lines: impl Iterator<Item = Result<Line>>,
        encode: impl Fn(&Line) -> RowResult<Option<Encoded>> + Sync,
        mut store: impl FnMut(&Line, Row),
    ) -> Result<()> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        let mut lines = lines.fuse();
        loop {
            let line = lines.next();
            let is_last = !matches!(line, Some(Ok(_)));
            let failure = match line {
                Some(Ok(line)) => {
                    bytes += line.bytes.len();
                    chunk.push(line);
                    None
                }
                Some(Err(error)) => Some(error),
                None => None,
            };
            if is_last || chunk.len() == MAX_CHUNK_LINES || bytes >= MAX_CHUNK_BYTES {
                let encoded: Vec<_> = threads::run(|| chunk.par_iter().map(&encode).collect());
                for (line, encoded) in chunk.iter().zip(encoded) {
                    if let Some(row) = self.push(line.number, encoded)? {
                        store(line, row);
                    }
                }
                chunk.clear();
                bytes = 0;
            }
            match failure {
                Some(error) => return Err(error),
                None if is_last => return Ok(()),
                None => {}
            }
        }
    }

    /// Counts a row and gives it back, or deals with a line that has none.
    pub(super) fn push(
        &mut self,
        line: usize,
        encoded: RowResult<Option<Encoded>>,
    ) -> Result<Option<Row>> {
        let (row, was_cut) = match (encoded, self.on_bad_row) {
            (Ok(Some(encoded)), _) => encoded,
            (Ok(None), _) => return Ok(None),
            (Err(reason), BadRow::Stop) => return Err(self.bad(line, reason)),
            (Err(reason), BadRow::Skip) => {
                self.skipped.push(line, reason);
                return Ok(None);
            }
        };
        // Never skipped: which rows are the odd ones is not for the first row to decide.
        if *self.kind.get_or_insert(row.kind()) != row.kind() {
            let reason = "preference rows and others are mixed; expected a file for each";
            return Err(self.bad(line, reason.to_owned()));
        }
        let info = RowInfo::new(line, &row);
        self.hasher.update(info.fingerprint.to_string().as_bytes());
        self.infos.push(info);
        self.truncated += usize::from(was_cut);
        let ids = row.samples().flat_map(|sample| &sample.input_ids);
        self.max_token_id = ids.copied().fold(self.max_token_id, u32::max);
        Ok(Some(row))
    }

    /// The data set of the rows that were stored.
    pub(super) fn finish(self, store: RowStore) -> Result<Dataset> {
        let Some(kind) = self.kind else {
            // The reason for there being no row, where there is one.
            return Err(match self.skipped.first.first() {
                Some(row) => self.bad(row.line, row.reason.clone()),
                None => Error::EmptyDataset { path: self.path },
            });
        };
        Ok(Dataset {
            contents: Arc::new(Contents {
                path: self.path,
                kind,
                infos: self.infos,
                store,
                truncated: self.truncated,
                skipped: self.skipped,
                max_token_id: self.max_token_id,
                fingerprint: self.hasher.finish(),
            }),
        })
    }

    /// The error for a bad row.
    fn bad(&self, line: usize, reason: String) -> Error {
        let path = self.path.clone();
        Error::InvalidRow { path, line, reason }
    }
}

/// Encodes with an encoder; the first line may begin with a byte order mark.
pub(super) fn encode_with(
    encoder: &RowEncoder,
) -> impl Fn(&Line) -> RowResult<Option<Encoded>> + Sync + '_ {
    |line| encoder.encode(&line.bytes, line.offset == 0)
}
