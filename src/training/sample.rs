//! Token ids to learn from, and which of them are scored.

use std::ops::Range;

/// A text as token ids.
///
/// A token that is scored is a target: it is predicted from the tokens before it, and the loss is the
/// mean over all targets. The first token has nothing before it and is never scored.
///
/// # Example
///
/// ```
/// use metal_candle::training::Sample;
///
/// let sample = Sample::new(vec![5, 6, 7, 8], 2);
/// assert_eq!(sample.scored, [2..4]);
/// // Of a conversation, the two turns of the assistant.
/// let turns = Sample { input_ids: vec![5, 6, 7, 8, 9], scored: vec![1..2, 4..5] };
/// assert_eq!(turns.target_tokens(), 2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// All tokens.
    pub input_ids: Vec<u32>,
    /// The indices of the tokens that are scored: ranges that are not empty, ascend and do not
    /// overlap, from 1 to at most the number of tokens.
    pub scored: Vec<Range<usize>>,
}

impl Sample {
    /// A sample whose tokens after the first `prompt_len` are scored, except the very first.
    #[must_use]
    pub fn new(input_ids: Vec<u32>, prompt_len: usize) -> Self {
        let tokens = prompt_len.max(1)..input_ids.len();
        let scored = Some(tokens).filter(|tokens| !tokens.is_empty());
        Self {
            input_ids,
            scored: scored.into_iter().collect(),
        }
    }

    /// The number of tokens that are scored.
    #[must_use]
    pub fn target_tokens(&self) -> usize {
        self.scored.iter().map(ExactSizeIterator::len).sum()
    }

    /// Cuts the end off so that at most `max_seq_length` tokens are left; tells whether it did.
    pub(super) fn truncate(&mut self, max_seq_length: usize) -> bool {
        let is_longer = self.input_ids.len() > max_seq_length;
        if is_longer {
            self.input_ids.truncate(max_seq_length);
            self.scored.retain(|range| range.start < max_seq_length);
            if let Some(last) = self.scored.last_mut() {
                last.end = last.end.min(max_seq_length);
            }
        }
        is_longer
    }

    /// Checks that there are tokens and that the ranges are what they must be; the error is the
    /// reason why not.
    pub(super) fn check_ranges(&self) -> Result<(), String> {
        let tokens = self.input_ids.len();
        if tokens == 0 {
            return Err("the row has no tokens; expected at least 2".to_owned());
        }
        let mut least = 1;
        for range in &self.scored {
            if range.start < least || range.is_empty() || range.end > tokens {
                return Err(format!(
                    "`scored` has the range {range:?}; expected ranges that are not empty, from \
                     {least} to at most the {tokens} tokens of the row"
                ));
            }
            least = range.end;
        }
        Ok(())
    }

    /// As [`check_ranges`](Self::check_ranges), and that there is a token to score.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_ranges()?;
        match (self.input_ids.len(), self.target_tokens()) {
            (tokens @ ..2, _) => Err(format!(
                "the row has {tokens} token(s); expected at least 2"
            )),
            (tokens, 0) => Err(format!(
                "no token is left to score in the row's {tokens} tokens; shorten the prompt or \
                 raise max_seq_length"
            )),
            _ => Ok(()),
        }
    }
}

/// Two answers to one prompt, of which one is preferred.
///
/// Both samples begin with the prompt, which is not scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferencePair {
    /// The prompt and the better answer.
    pub chosen: Sample,
    /// The prompt and the worse answer.
    pub rejected: Sample,
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of ranges")]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_is_never_scored() {
        for (prompt_len, scored) in [
            (0, vec![1..4]),
            (1, vec![1..4]),
            (3, vec![3..4]),
            (4, vec![]),
            (9, vec![]),
        ] {
            let sample = Sample::new(vec![7; 4], prompt_len);
            assert_eq!(sample.scored, scored);
            let count: usize = scored.iter().map(ExactSizeIterator::len).sum();
            assert_eq!(sample.target_tokens(), count);
        }
        assert_eq!(Sample::new(vec![], 0).target_tokens(), 0);
    }

    #[test]
    fn what_is_cut_off_is_not_scored() {
        let sample = |scored| Sample {
            input_ids: (0..10).collect(),
            scored,
        };
        for (length, scored) in [
            (10, vec![1..3, 5..8]),
            (8, vec![1..3, 5..8]),
            (7, vec![1..3, 5..7]),
            (5, vec![1..3]),
            (2, vec![1..2]),
            (1, vec![]),
        ] {
            let mut cut = sample(vec![1..3, 5..8]);
            assert_eq!(cut.truncate(length), length < 10);
            assert_eq!((cut.input_ids.len(), cut.scored), (length, scored));
        }
    }

    #[test]
    fn ranges_are_checked() {
        let check = |tokens, scored: &[Range<usize>]| {
            let sample = Sample {
                input_ids: vec![0; tokens],
                scored: scored.to_vec(),
            };
            sample.check()
        };
        for scored in [&[1..2][..], &[1..2, 2..3], &[4..6], &[1..2, 5..6]] {
            assert_eq!(check(6, scored), Ok(()));
        }
        #[allow(clippy::reversed_empty_ranges, reason = "it is refused")]
        for scored in [
            &[0..2][..],
            &[2..2],
            &[3..2],
            &[4..7],
            &[1..3, 2..4],
            &[3..4, 1..2],
        ] {
            let reason = check(6, scored).unwrap_err();
            assert!(reason.starts_with("`scored` has the range"), "{reason}");
        }
        assert!(check(0, &[]).unwrap_err().contains("no tokens"));
        assert!(check(1, &[]).unwrap_err().contains("1 token(s)"));
        assert!(check(2, &[]).unwrap_err().contains("no token is left"));
    }
}
