//! A row of a data set as token ids.

use std::sync::Arc;

use super::{PreferencePair, Sample};
use crate::models::Fingerprint;
use crate::models::fingerprint::Hasher;

/// What the rows of a data set are; all are of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// One sample a row, to imitate.
    Sample,
    /// Two answers a row, of which one is preferred.
    Pair,
}

/// A row of a data set. Cloning is cheap and shares the tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A text to imitate.
    Sample(Arc<Sample>),
    /// Two answers of which one is preferred.
    Pair(Arc<PreferencePair>),
}

impl Row {
    /// The kind.
    #[must_use]
    pub fn kind(&self) -> RowKind {
        match self {
            Self::Sample(_) => RowKind::Sample,
            Self::Pair(_) => RowKind::Pair,
        }
    }

    /// The samples: one, or the chosen one and then the rejected one.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        let (first, second) = match self {
            Self::Sample(sample) => (&**sample, None),
            Self::Pair(pair) => (&pair.chosen, Some(&pair.rejected)),
        };
        std::iter::once(first).chain(second)
    }

    /// The number of tokens; of a pair, those of the longer sample.
    #[must_use]
    pub fn length(&self) -> usize {
        let lengths = self.samples().map(|sample| sample.input_ids.len());
        lengths.max().unwrap_or(0)
    }

    /// The number of tokens of all samples.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.samples().map(|sample| sample.input_ids.len()).sum()
    }

    /// The number of scored tokens of all samples.
    #[must_use]
    pub fn target_tokens(&self) -> usize {
        self.samples().map(Sample::target_tokens).sum()
    }

    /// Checks that each sample has a token to score; the error is the reason why not.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Sample(sample) => sample.check(),
            Self::Pair(pair) => [("chosen", &pair.chosen), ("rejected", &pair.rejected)]
                .iter()
                .try_for_each(|(name, sample)| {
                    let check = sample.check();
                    check.map_err(|reason| format!("`{name}`: {reason}"))
                }),
        }
    }

    /// What tells the row from others: of its ids and scored ranges.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let mut hasher = Hasher::new();
        for sample in self.samples() {
            let ids = sample.input_ids.iter().flat_map(|id| id.to_le_bytes());
            hasher.update(&ids.collect::<Vec<_>>());
            let ends = sample
                .scored
                .iter()
                .flat_map(|range| [range.start, range.end]);
            let ends = ends.flat_map(|end| (end as u64).to_le_bytes());
            hasher.update(&ends.collect::<Vec<_>>());
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_as_long_as_its_longer_sample() {
        let pair = Row::Pair(Arc::new(PreferencePair {
            chosen: Sample::new(vec![1, 2, 3], 1),
            rejected: Sample::new(vec![1, 2, 4, 5], 2),
        }));
        assert_eq!(
            (pair.length(), pair.tokens(), pair.target_tokens()),
            (4, 7, 4)
        );
        assert_eq!(pair.kind(), RowKind::Pair);
        let lengths = pair.samples().map(|sample| sample.input_ids.len());
        assert_eq!(lengths.collect::<Vec<_>>(), [3, 4]);
        let bad = Row::Pair(Arc::new(PreferencePair {
            chosen: Sample::new(vec![1, 2, 3], 1),
            rejected: Sample::new(vec![1, 2], 2),
        }));
        assert!(bad.check().unwrap_err().starts_with("`rejected`: no token"));
    }
}
