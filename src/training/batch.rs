//! Batches: which rows make up a step, and how they are laid out for the model.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::Sample;
use crate::{Error, Result};

/// Samples laid out as one rectangle of token ids, with the targets to score.
///
/// Shorter rows are padded on the right. A causal model never looks to the right, so the padding
/// has no influence on the targets.
///
/// # Example
///
/// ```
/// use metal_candle::training::{Batch, Sample};
///
/// let long = Sample { input_ids: vec![5, 6, 7, 8], prompt_len: 2 };
/// let short = Sample { input_ids: vec![9, 10], prompt_len: 0 };
/// let batch = Batch::new(&[&long, &short])?;
/// assert_eq!(batch.input_ids, [5, 6, 7, 8, 9, 10, 0, 0]);
/// assert_eq!(batch.targets, [(1, 7), (2, 8), (4, 10)]);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `rows * width` token ids, row after row, padded with 0.
    pub input_ids: Vec<u32>,
    /// Number of samples.
    pub rows: usize,
    /// Length of the longest sample in tokens.
    pub width: usize,
    /// `(position, id)` of every scored target: the logits at the flat position
    /// `row * width + column` predict the token `id`. Positions ascend.
    pub targets: Vec<(u32, u32)>,
}

impl Batch {
    /// Lays out samples, one per row.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if there is no sample or if positions exceed 32 bits.
    pub fn new(samples: &[&Sample]) -> Result<Self> {
        let rows = samples.len();
        let width = samples.iter().map(|s| s.input_ids.len()).max().unwrap_or(0);
        let size = rows.checked_mul(width).and_then(|n| u32::try_from(n).ok());
        if rows == 0 || size.is_none() {
            return Err(Error::option(
                "batch_size",
                rows,
                "at least 1 row, and less than 2^32 tokens with padding",
            ));
        }
        let mut input_ids = Vec::with_capacity(rows * width);
        let mut targets = Vec::new();
        let mut row_start = 0_u32;
        for sample in samples {
            // The logits before a token predict it.
            let predictions = (row_start..).zip(sample.input_ids.iter().skip(1).copied());
            targets.extend(predictions.skip(sample.first_target() - 1));
            input_ids.extend(&sample.input_ids);
            input_ids.resize(input_ids.len() + width - sample.input_ids.len(), 0);
            row_start = u32::try_from(input_ids.len()).unwrap_or(u32::MAX);
        }
        Ok(Self {
            input_ids,
            rows,
            width,
            targets,
        })
    }

    /// The number of tokens that are scored.
    #[must_use]
    pub fn target_tokens(&self) -> usize {
        self.targets.len()
    }
}

/// Which rows of a data set each batch of a training run has.
///
/// A batch follows from its number and the settings alone, so a resumed run sees the same batches
/// as one that was never interrupted. Every row comes once per epoch; the last batch of an epoch
/// may be smaller. Each epoch has its own permutation.
///
/// # Example
///
/// ```
/// use metal_candle::training::BatchOrder;
///
/// let mut order = BatchOrder::new(5, 2, 0, false)?;
/// assert_eq!(order.batches_per_epoch(), 3);
/// assert_eq!(order.indices(2), [4]);
/// assert_eq!(order.indices(3), [0, 1]);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct BatchOrder {
    rows: usize,
    batch_size: usize,
    seed: u64,
    shuffle: bool,
    /// The row order of `epoch`, to make it only once per epoch.
    permutation: Vec<usize>,
    epoch: usize,
}

impl BatchOrder {
    /// The order of `rows` rows in batches of `batch_size`, shuffled by `seed` or in file order.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if `rows` or `batch_size` is 0.
    pub fn new(rows: usize, batch_size: usize, seed: u64, shuffle: bool) -> Result<Self> {
        for (name, value) in [("rows", rows), ("batch_size", batch_size)] {
            if value == 0 {
                return Err(Error::option(name, value, "at least 1"));
            }
        }
        let mut order = Self {
            rows,
            batch_size,
            seed,
            shuffle,
            permutation: Vec::new(),
            epoch: 0,
        };
        order.start_epoch(0);
        Ok(order)
    }

    /// The number of batches in which every row comes once.
    #[must_use]
    pub fn batches_per_epoch(&self) -> usize {
        self.rows.div_ceil(self.batch_size)
    }

    /// The rows of a batch; batches are counted from 0 through all epochs.
    ///
    /// Any number may be asked for at any time. It is fastest in ascending order, because the
    /// permutation of the current epoch is kept.
    pub fn indices(&mut self, batch_number: usize) -> Vec<usize> {
        let epoch = batch_number / self.batches_per_epoch();
        if epoch != self.epoch {
            self.start_epoch(epoch);
        }
        let batch_in_epoch = batch_number % self.batches_per_epoch();
        let rows = self
            .permutation
            .iter()
            .skip(batch_in_epoch * self.batch_size);
        rows.take(self.batch_size).copied().collect()
    }

    fn start_epoch(&mut self, epoch: usize) {
        self.epoch = epoch;
        self.permutation = (0..self.rows).collect();
        if self.shuffle {
            // One stream of the generator per epoch: independent of the epochs before.
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(epoch as u64);
            self.permutation.shuffle(&mut rng);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(input_ids: &[u32], prompt_len: usize) -> Sample {
        Sample {
            input_ids: input_ids.to_vec(),
            prompt_len,
        }
    }

    #[test]
    fn lays_out_rows_and_targets() {
        let samples = [
            sample(&[1, 2], 0),
            sample(&[3, 4, 5, 6], 3),
            sample(&[7, 8, 9], 1),
        ];
        let batch = Batch::new(&samples.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!((batch.rows, batch.width), (3, 4));
        assert_eq!(batch.input_ids, [1, 2, 0, 0, 3, 4, 5, 6, 7, 8, 9, 0]);
        assert_eq!(batch.targets, [(0, 2), (6, 6), (8, 8), (9, 9)]);
        let expected: usize = samples.iter().map(Sample::target_tokens).sum();
        assert_eq!(batch.target_tokens(), expected);
    }

    #[test]
    fn a_sample_without_targets_adds_none() {
        let batch = Batch::new(&[&sample(&[1, 2], 9), &sample(&[], 0)]).unwrap();
        assert_eq!(batch.input_ids, [1, 2, 0, 0]);
        assert!(batch.targets.is_empty());
        assert!(Batch::new(&[]).is_err());
    }

    #[test]
    fn every_epoch_has_every_row_once() {
        for (rows, batch_size) in [(10, 3), (10, 5), (1, 4), (3, 100), (7, 1)] {
            let mut order = BatchOrder::new(rows, batch_size, 3, true).unwrap();
            let per_epoch = order.batches_per_epoch();
            for epoch in 0..3 {
                let mut seen: Vec<usize> = (0..per_epoch)
                    .flat_map(|batch| order.indices(epoch * per_epoch + batch))
                    .collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..rows).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_batch_follows_from_its_number_alone() {
        let mut forward = BatchOrder::new(10, 3, 42, true).unwrap();
        let batches: Vec<_> = (0..12).map(|number| forward.indices(number)).collect();
        for number in (0..12).rev() {
            let mut fresh = BatchOrder::new(10, 3, 42, true).unwrap();
            assert_eq!(fresh.indices(number), batches[number]);
            assert_eq!(forward.indices(number), batches[number]);
        }
        assert_ne!(batches[..4], batches[4..8]);
        // Fixed values: a change here breaks the resuming of runs begun before.
        assert_eq!(batches[..4].concat(), [7, 1, 5, 4, 6, 9, 3, 8, 2, 0]);
    }

    #[test]
    fn seeds_differ_and_file_order_is_kept_without_shuffle() {
        let mut a = BatchOrder::new(50, 50, 1, true).unwrap();
        let mut b = BatchOrder::new(50, 50, 2, true).unwrap();
        assert_ne!(a.indices(0), b.indices(0));
        let mut plain = BatchOrder::new(4, 4, 1, false).unwrap();
        assert_eq!(plain.indices(9), [0, 1, 2, 3]);
    }

    #[test]
    fn extreme_numbers_do_not_panic() {
        let mut order = BatchOrder::new(3, usize::MAX, 0, true).unwrap();
        assert_eq!(order.indices(usize::MAX).len(), 3);
        assert!(BatchOrder::new(0, 1, 0, true).is_err());
        assert!(BatchOrder::new(1, 0, 0, true).is_err());
    }
}
