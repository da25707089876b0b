//! Rows that were left out because they cannot be used.

/// The most rows whose reasons are kept.
const MAX_REASONS: usize = 100;

/// A row that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedRow {
    /// The line in the file, or the number in the list, from 1.
    pub line: usize,
    /// Why it cannot be used.
    pub reason: String,
}

/// All that were left out: the first with their reasons, of the others the number.
#[derive(Debug, Default)]
pub(super) struct SkippedRows {
    pub first: Vec<SkippedRow>,
    pub count: usize,
}

impl SkippedRows {
    pub(super) fn push(&mut self, line: usize, reason: String) {
        self.count += 1;
        if self.first.len() < MAX_REASONS {
            self.first.push(SkippedRow { line, reason });
        }
    }
}
