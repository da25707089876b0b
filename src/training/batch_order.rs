//! Which rows make up each batch.

use std::cmp::Reverse;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::packing::first_fit;
use crate::{Error, Result};

/// Batches in each group of rows that is sorted by length.
const BATCHES_TO_SORT: usize = 50;

/// The stream of random numbers that packs are formed with; epochs have those from 0 on.
const PACKING_STREAM: u64 = u64::MAX;

/// How rows are put together to batches.
///
/// In JSON it is `plain`, `length_buckets` or `packed`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batching {
    /// `batch_size` rows as they come in the epoch. The default.
    #[default]
    Plain,
    /// `batch_size` rows of similar length, so that there is little to pad. As `group_by_length` of
    /// transformers: rows are sorted within groups of 50 batches (of fewer where there are less than
    /// 200); then the batches are shuffled, so that the long ones do not come together. Without
    /// `shuffle` all rows are sorted, the longest first.
    LengthBuckets,
    /// `batch_size` packs, each of rows that have at most `max_seq_length` tokens together. Packs are
    /// formed once: each row goes into the first one that has room. For
    /// [`BatchLayout::Packed`](super::BatchLayout::Packed).
    Packed,
}

/// How a run goes through the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOrderOptions {
    /// Rows of a batch; packs, where rows are packed. At least 1, by default 4.
    pub batch_size: usize,
    /// What the order is drawn with. By default 0.
    pub seed: u64,
    /// Whether each epoch has an order of its own, instead of the order of the rows. On by default.
    pub shuffle: bool,
    /// How rows are put together. By default [`Batching::Plain`].
    pub batching: Batching,
    /// The most tokens of a pack; only packing uses it. By default 2048.
    pub max_seq_length: usize,
}

impl Default for BatchOrderOptions {
    fn default() -> Self {
        Self {
            batch_size: 4,
            seed: 0,
            shuffle: true,
            batching: Batching::Plain,
            max_seq_length: 2048,
        }
    }
}

/// Which rows of a data set each batch of a training run has.
///
/// A batch follows from its number and the settings alone, so a resumed run sees the same batches
/// as one that was never interrupted. Every row comes once per epoch, and all epochs have the same
/// number of batches; one batch of each may be smaller.
///
/// # Example
///
/// ```
/// use metal_candle::training::{BatchOrder, BatchOrderOptions};
///
/// let options = BatchOrderOptions {
///     batch_size: 2,
///     shuffle: false,
///     ..BatchOrderOptions::default()
/// };
/// let mut order = BatchOrder::new(&[7, 9, 8, 7, 3], options)?;
/// assert_eq!(order.batches_per_epoch(), 3);
/// assert_eq!(order.indices(2), [4]);
/// assert_eq!(order.indices(3), [0, 1]);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct BatchOrder {
    lengths: Vec<usize>,
    options: BatchOrderOptions,
    /// The rows of each pack, where rows are packed.
    packs: Option<Vec<Vec<usize>>>,
    /// The order of the items, rows or packs, in `epoch`; kept to make it once per epoch.
    items: Vec<usize>,
    /// Where the rows of each batch of `epoch` are, counted in batches: `batches[n]` is the place of
    /// the batch `n` in `items`.
    batches: Vec<usize>,
    epoch: usize,
}

impl BatchOrder {
    /// The order of rows of the given lengths in tokens.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if there are no rows, if `batch_size` is 0, or where rows are packed
    /// if one is longer than `max_seq_length`.
    pub fn new(lengths: &[usize], options: BatchOrderOptions) -> Result<Self> {
        for (name, value) in [("rows", lengths.len()), ("batch_size", options.batch_size)] {
            if value == 0 {
                return Err(Error::option(name, value, "at least 1"));
            }
        }
        let mut order = Self {
            lengths: lengths.to_vec(),
            options,
            packs: None,
            items: Vec::new(),
            batches: Vec::new(),
            epoch: 0,
        };
        if options.batching == Batching::Packed {
            order.packs = Some(order.pack()?);
        }
        order.start_epoch(0);
        Ok(order)
    }

    /// The number of batches in which every row comes once.
    #[must_use]
    pub fn batches_per_epoch(&self) -> usize {
        self.batches.len()
    }

    /// The part of the packs that tokens of rows fill, above 0 and at most 1; `None` where rows are
    /// not packed.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a ratio to look at")]
    pub fn pack_efficiency(&self) -> Option<f64> {
        let packs = self.packs.as_ref()?.len() as f64;
        let tokens = self.lengths.iter().sum::<usize>() as f64;
        Some(tokens / (packs * self.options.max_seq_length as f64))
    }

    /// The rows of a batch; batches are counted from 0 through all epochs.
    ///
    /// Any number may be asked for at any time. It is fastest in ascending order, because the order
    /// of the current epoch is kept. Rows of packs come by length, so that those of equal length
    /// share a [`BatchSegment`](super::BatchSegment).
    pub fn indices(&mut self, batch_number: usize) -> Vec<usize> {
        let epoch = batch_number / self.batches_per_epoch();
        if epoch != self.epoch {
            self.start_epoch(epoch);
        }
        let place = self.batches[batch_number % self.batches_per_epoch()];
        let size = self.options.batch_size;
        let items = self.items.iter().skip(place * size).take(size).copied();
        let Some(packs) = &self.packs else {
            return items.collect();
        };
        let mut rows: Vec<_> = items.flat_map(|pack| &packs[pack]).copied().collect();
        rows.sort_by_key(|&row| Reverse(self.lengths[row]));
        rows
    }

    fn pack(&self) -> Result<Vec<Vec<usize>>> {
        let capacity = self.options.max_seq_length;
        let longest = self.lengths.iter().copied().max().unwrap_or(0).max(1);
        if longest > capacity {
            return Err(Error::option(
                "max_seq_length",
                capacity,
                format!("at least {longest}, the tokens of the longest row that is packed"),
            ));
        }
        let mut rows: Vec<usize> = (0..self.lengths.len()).collect();
        if self.options.shuffle {
            rows.shuffle(&mut self.rng(PACKING_STREAM));
        }
        Ok(first_fit(rows, &self.lengths, capacity))
    }

    fn start_epoch(&mut self, epoch: usize) {
        let BatchOrderOptions {
            batch_size,
            shuffle,
            batching,
            ..
        } = self.options;
        let count = self.packs.as_ref().map_or(self.lengths.len(), Vec::len);
        let mut rng = self.rng(epoch as u64);
        self.epoch = epoch;
        self.items = (0..count).collect();
        self.batches = (0..count.div_ceil(batch_size)).collect();
        if shuffle {
            self.items.shuffle(&mut rng);
        }
        if batching == Batching::LengthBuckets {
            // Of few rows a group as large would be all of them, and each epoch the same.
            let batches = (count / batch_size / 4).clamp(1, BATCHES_TO_SORT);
            let group = if shuffle {
                batch_size.saturating_mul(batches)
            } else {
                count
            };
            for group in self.items.chunks_mut(group) {
                group.sort_by_key(|&row| Reverse(self.lengths[row]));
            }
            if shuffle {
                self.batches.shuffle(&mut rng);
            }
        }
    }

    /// One stream of the generator per purpose: independent of all others.
    fn rng(&self, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed);
        rng.set_stream(stream);
        rng
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    const ALL: [Batching; 3] = [Batching::Plain, Batching::LengthBuckets, Batching::Packed];

    fn lengths(rows: usize) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        (0..rows).map(|_| rng.random_range(2..=64)).collect()
    }

    fn options(batch_size: usize, batching: Batching) -> BatchOrderOptions {
        BatchOrderOptions {
            batch_size,
            seed: 42,
            batching,
            max_seq_length: 64,
            ..BatchOrderOptions::default()
        }
    }

    fn order(rows: usize, batch_size: usize, batching: Batching) -> BatchOrder {
        BatchOrder::new(&lengths(rows), options(batch_size, batching)).unwrap()
    }

    fn epoch(order: &mut BatchOrder, epoch: usize) -> Vec<Vec<usize>> {
        let count = order.batches_per_epoch();
        let numbers = epoch * count..(epoch + 1) * count;
        numbers.map(|number| order.indices(number)).collect()
    }

    #[test]
    fn every_epoch_has_every_row_once() {
        for batching in ALL {
            for (rows, batch_size) in [(10, 3), (10, 5), (1, 4), (3, 100), (7, 1), (999, 4)] {
                let mut order = order(rows, batch_size, batching);
                for number in 0..3 {
                    let mut seen = epoch(&mut order, number).concat();
                    seen.sort_unstable();
                    assert_eq!(seen, (0..rows).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn a_batch_follows_from_its_number_alone() {
        for batching in ALL {
            let mut forward = order(40, 3, batching);
            let count = 3 * forward.batches_per_epoch();
            let batches: Vec<_> = (0..count).map(|number| forward.indices(number)).collect();
            for number in (0..count).rev() {
                let mut fresh = order(40, 3, batching);
                assert_eq!(fresh.indices(number), batches[number]);
                assert_eq!(forward.indices(number), batches[number]);
            }
            assert_ne!(epoch(&mut forward, 0), epoch(&mut forward, 1));
        }
    }

    #[test]
    fn the_orders_are_those_of_earlier_versions() {
        // Fixed values: a change here breaks the resuming of runs begun before.
        for (batching, rows) in [
            (Batching::Plain, [7, 1, 5, 4, 6, 9, 3, 8, 2, 0]),
            (Batching::LengthBuckets, [7, 5, 1, 4, 9, 6, 8, 3, 2, 0]),
            (Batching::Packed, [7, 8, 5, 3, 4, 9, 2, 6, 0, 1]),
        ] {
            let found = epoch(&mut order(10, 3, batching), 0).concat();
            assert_eq!(found, rows, "{batching:?}");
        }
    }

    #[test]
    fn seeds_differ_and_the_order_of_rows_is_kept_without_shuffle() {
        for batching in ALL {
            let with_seed = |seed| {
                let options = BatchOrderOptions {
                    seed,
                    ..options(50, batching)
                };
                BatchOrder::new(&lengths(500), options).unwrap().indices(0)
            };
            assert_ne!(with_seed(1), with_seed(2));
        }
        let unshuffled = |batching| {
            let options = BatchOrderOptions {
                shuffle: false,
                ..options(4, batching)
            };
            BatchOrder::new(&[30, 40, 35, 10, 64], options).unwrap()
        };
        let mut plain = unshuffled(Batching::Plain);
        assert_eq!(epoch(&mut plain, 9), [&[0, 1, 2, 3][..], &[4]]);
        let mut buckets = unshuffled(Batching::LengthBuckets);
        assert_eq!(epoch(&mut buckets, 9), [&[4, 1, 2, 0][..], &[3]]);
        // The packs 0 and 3, 1, 2, 4.
        let mut packed = unshuffled(Batching::Packed);
        assert_eq!(epoch(&mut packed, 9), [[4, 1, 2, 0, 3]]);
    }

    #[test]
    fn buckets_have_rows_of_similar_length() {
        let lengths = lengths(4000);
        let padding = |batching| {
            let mut order = order(4000, 8, batching);
            let batches = epoch(&mut order, 1);
            let longest = |rows: &Vec<usize>| rows.iter().map(|&row| lengths[row]).max().unwrap();
            let wasted: usize = batches
                .iter()
                .map(|rows| {
                    let used: usize = rows.iter().map(|&row| lengths[row]).sum();
                    longest(rows) * rows.len() - used
                })
                .sum();
            let widths: Vec<_> = batches.iter().map(longest).collect();
            (wasted, widths)
        };
        let (plain, _) = padding(Batching::Plain);
        let (buckets, widths) = padding(Batching::LengthBuckets);
        assert!(buckets * 10 < plain, "{buckets} {plain}");
        // Long ones do not come together.
        assert!(!widths[..50].is_sorted_by(|a, b| a >= b));
        let halves = widths.split_at(widths.len() / 2);
        let sums = [halves.0, halves.1].map(|half| half.iter().sum::<usize>());
        assert!(sums[0].abs_diff(sums[1]) * 10 < sums[0], "{sums:?}");
    }

    #[test]
    fn packs_are_full_and_no_longer_than_asked() {
        let lengths = lengths(4000);
        let plain = order(9, 1, Batching::Plain);
        let mut order = order(4000, 1, Batching::Packed);
        let mut sizes = Vec::new();
        for rows in epoch(&mut order, 0) {
            let row_lengths: Vec<_> = rows.iter().map(|&row| lengths[row]).collect();
            assert!(row_lengths.is_sorted_by(|a, b| a >= b));
            sizes.push(row_lengths.iter().sum::<usize>());
        }
        assert!(sizes.iter().all(|size| (1..=64).contains(size)));
        let efficiency = order.pack_efficiency().unwrap();
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let expected = sizes.iter().sum::<usize>() as f64 / (64 * sizes.len()) as f64;
        assert!((efficiency - expected).abs() < 1e-12);
        assert!(efficiency > 0.9, "{efficiency}");
        assert_eq!(plain.pack_efficiency(), None);
        // The same packs in each epoch.
        let packs = |order: &mut BatchOrder, number| {
            let mut packs = epoch(order, number);
            packs.sort();
            packs
        };
        assert_eq!(packs(&mut order, 0), packs(&mut order, 5));
    }

    #[test]
    fn a_million_rows_are_packed_at_once() {
        let lengths = lengths(1_000_000);
        let order = BatchOrder::new(&lengths, options(1, Batching::Packed)).unwrap();
        assert!(order.pack_efficiency().unwrap() > 0.95);
    }

    #[test]
    fn extreme_numbers_do_not_panic() {
        for batching in ALL {
            let mut order = order(3, usize::MAX, batching);
            assert_eq!(order.indices(usize::MAX).len(), 3);
            assert!(BatchOrder::new(&[], options(1, batching)).is_err());
            assert!(BatchOrder::new(&[2], options(0, batching)).is_err());
        }
        let error = BatchOrder::new(&[65], options(1, Batching::Packed)).unwrap_err();
        assert!(error.to_string().contains("at least 65"), "{error}");
        let zero = BatchOrderOptions {
            max_seq_length: 0,
            ..options(1, Batching::Packed)
        };
        assert!(BatchOrder::new(&[0], zero).is_err());
    }
}
