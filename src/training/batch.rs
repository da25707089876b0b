//! Batches: samples laid out for the model.

use super::Sample;
use crate::{Error, Result};

/// How the samples of a batch are laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BatchLayout {
    /// One rectangle: shorter samples are padded with 0 on the right. A causal model never looks to
    /// the right, so the padding has no influence on the targets. The default.
    #[default]
    Padded,
    /// No padding: each sample is a segment of its own, except that consecutive samples of equal
    /// length share one.
    Packed,
}

/// A rectangle of tokens in a batch. Tokens of different rows never see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSegment {
    /// Number of samples.
    pub rows: usize,
    /// Tokens of each of them, padding included.
    pub width: usize,
}

/// Samples laid out as rectangles of token ids, with the targets to score.
///
/// # Example
///
/// ```
/// use metal_candle::training::{Batch, BatchLayout, Sample};
///
/// let (long, short) = (Sample::new(vec![5, 6, 7, 8], 2), Sample::new(vec![9, 10], 0));
/// let batch = Batch::new(&[&long, &short], BatchLayout::Padded)?;
/// assert_eq!(batch.input_ids, [5, 6, 7, 8, 9, 10, 0, 0]);
/// assert_eq!(batch.targets, [(1, 7), (2, 8), (4, 10)]);
/// let batch = Batch::new(&[&long, &short], BatchLayout::Packed)?;
/// assert_eq!(batch.input_ids, [5, 6, 7, 8, 9, 10]);
/// assert_eq!(batch.segments.len(), 2);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The token ids of all segments, one segment after the other and row after row.
    pub input_ids: Vec<u32>,
    /// The rectangles that `input_ids` is made of.
    pub segments: Vec<BatchSegment>,
    /// `(position, id)` of every target: the logits at the flat position in `input_ids` predict the
    /// token `id`. Positions ascend.
    pub targets: Vec<(u32, u32)>,
    /// The number of targets of each sample, in the order of the samples.
    pub row_targets: Vec<usize>,
}

impl Batch {
    /// Lays out samples.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if there is no sample, if one has no tokens or ranges that are not
    /// within them, or if positions exceed 32 bits.
    pub fn new(samples: &[&Sample], layout: BatchLayout) -> Result<Self> {
        for sample in samples {
            let check = sample.check_ranges();
            check.map_err(|reason| Error::option("samples", "not well-formed", reason))?;
        }
        let segments = segments(samples, layout);
        let size = segments.iter().try_fold(0_usize, |size, segment| {
            size.checked_add(segment.rows.checked_mul(segment.width)?)
        });
        let size = size.filter(|&size| size > 0 && u32::try_from(size).is_ok());
        let size = size.ok_or_else(|| {
            Error::option(
                "batch_size",
                samples.len(),
                "at least 1 row, and less than 2^32 tokens with padding",
            )
        })?;
        let mut batch = Self {
            input_ids: Vec::with_capacity(size),
            segments,
            targets: Vec::new(),
            row_targets: Vec::with_capacity(samples.len()),
        };
        let widths = batch.segments.iter();
        let widths = widths.flat_map(|segment| std::iter::repeat_n(segment.width, segment.rows));
        for (sample, width) in samples.iter().zip(widths) {
            let start = u32::try_from(batch.input_ids.len()).unwrap_or(u32::MAX);
            // The logits before a token predict it.
            let predictions = (start..).zip(sample.input_ids.iter().skip(1).copied());
            for range in &sample.scored {
                let scored = predictions.clone().skip(range.start - 1).take(range.len());
                batch.targets.extend(scored);
            }
            batch.row_targets.push(sample.target_tokens());
            batch.input_ids.extend(&sample.input_ids);
            let padding = width - sample.input_ids.len();
            batch.input_ids.extend(std::iter::repeat_n(0, padding));
        }
        Ok(batch)
    }

    /// The number of tokens that are scored.
    #[must_use]
    pub fn target_tokens(&self) -> usize {
        self.targets.len()
    }
}

fn segments(samples: &[&Sample], layout: BatchLayout) -> Vec<BatchSegment> {
    let lengths = samples.iter().map(|sample| sample.input_ids.len());
    match layout {
        BatchLayout::Padded => vec![BatchSegment {
            rows: samples.len(),
            width: lengths.max().unwrap_or(0),
        }],
        BatchLayout::Packed => {
            let equal = |a: &&Sample, b: &&Sample| a.input_ids.len() == b.input_ids.len();
            let segment = |samples: &[&Sample]| BatchSegment {
                rows: samples.len(),
                width: samples.first().map_or(0, |sample| sample.input_ids.len()),
            };
            samples.chunk_by(equal).map(segment).collect()
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of ranges")]
mod tests {
    use super::*;

    fn lay_out(samples: &[Sample], layout: BatchLayout) -> Batch {
        Batch::new(&samples.iter().collect::<Vec<_>>(), layout).unwrap()
    }

    fn samples() -> [Sample; 4] {
        [
            Sample::new(vec![1, 2], 0),
            Sample::new(vec![3, 4, 5, 6], 3),
            Sample {
                input_ids: vec![7, 8, 9, 10],
                scored: vec![1..2, 3..4],
            },
            Sample::new(vec![11, 12], 2),
        ]
    }

    #[test]
    fn a_rectangle_is_padded() {
        let batch = lay_out(&samples(), BatchLayout::Padded);
        assert_eq!(batch.segments, [BatchSegment { rows: 4, width: 4 }]);
        let ids = [1, 2, 0, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0];
        assert_eq!(batch.input_ids, ids);
        assert_eq!(batch.targets, [(0, 2), (6, 6), (8, 8), (10, 10)]);
        assert_eq!(batch.row_targets, [1, 1, 2, 0]);
        assert_eq!(batch.target_tokens(), 4);
    }

    #[test]
    fn packed_samples_have_no_padding() {
        let batch = lay_out(&samples(), BatchLayout::Packed);
        let segment = |rows, width| BatchSegment { rows, width };
        assert_eq!(
            batch.segments,
            [segment(1, 2), segment(2, 4), segment(1, 2)]
        );
        assert_eq!(batch.input_ids, (1..13).collect::<Vec<_>>());
        assert_eq!(batch.targets, [(0, 2), (4, 6), (6, 8), (8, 10)]);
        assert_eq!(batch.row_targets, [1, 1, 2, 0]);
    }

    #[test]
    fn each_target_is_the_token_after_its_position() {
        // In rows without padding between a position and its target.
        for layout in [BatchLayout::Padded, BatchLayout::Packed] {
            let batch = lay_out(&samples(), layout);
            for &(position, id) in &batch.targets {
                assert_eq!(batch.input_ids[position as usize + 1], id);
            }
        }
    }

    #[test]
    fn what_cannot_be_laid_out_is_told() {
        let empty = Sample::new(vec![], 0);
        let outside = Sample {
            input_ids: vec![1, 2],
            scored: vec![1..3],
        };
        for layout in [BatchLayout::Padded, BatchLayout::Packed] {
            assert!(Batch::new(&[], layout).is_err());
            assert!(Batch::new(&[&empty], layout).is_err());
            let error = Batch::new(&[&outside], layout).unwrap_err().to_string();
            assert!(error.contains("the range 1..3"), "{error}");
        }
    }
}
