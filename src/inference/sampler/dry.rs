//! DRY ("don't repeat yourself"), a penalty on tokens that would go on with a repetition.
//!
//! By p-e-w, 2024 (text-generation-webui, pull request 5677). Where the end of the history, `n`
//! tokens long, occurred before, followed by token `t`, then `t` loses
//! `multiplier · base^(n - allowed_length)`, for the longest such `n` that is at least
//! `allowed_length`. The `n` tokens have no sequence breaker among them, nor is `t` one.

use super::SamplingOptions;
use super::penalties::change;
use crate::models::Tokenizer;

/// The tokens over which no repetition goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Breakers {
    /// By token id; tokens beyond the end are none.
    is_breaker: Vec<bool>,
}

impl Breakers {
    /// The tokens whose text contains one of `texts`.
    ///
    pub fn new(texts: &[String], tokenizer: &Tokenizer) -> Self {
        let contains = |token: &String| texts.iter().any(|text| token.contains(text.as_str()));
        let tokens = tokenizer.token_texts().iter();
        Self {
            is_breaker: tokens.map(contains).collect(),
        }
    }

    fn contains(&self, id: u32) -> bool {
        self.is_breaker.get(id as usize) == Some(&true)
    }
}

/// Writes to `tally`, by token, how many tokens the longest repetition has that the token would go
/// on with; nothing for tokens without a penalty.
pub(super) fn repetitions(
    options: &SamplingOptions,
    breakers: &Breakers,
    window: &[u32],
    lengths: &mut Vec<usize>,
    tally: &mut [u32],
) {
    let since_breaker = window.iter().rev();
    let longest = since_breaker
        .take_while(|&&id| !breakers.contains(id))
        .count();
    let shortest = options.dry_allowed_length.max(1);
    if longest < shortest {
        return;
    }
    suffix_matches(window, lengths);
    // Token `end` comes after the first `end` ones.
    for (end, &length) in lengths.iter().enumerate() {
        let (next, length) = (window[end], length.min(longest));
        if length >= shortest && !breakers.contains(next) {
            let tally = &mut tally[next as usize];
            *tally = (*tally).max(u32::try_from(length).unwrap_or(u32::MAX));
        }
    }
}

/// Subtracts the penalties on the repetitions in `tally`, all of whose tokens are in `window`, and
/// sets it to 0.
pub(super) fn penalise(
    options: &SamplingOptions,
    window: &[u32],
    tally: &mut [u32],
    logits: &mut [f32],
) {
    let allowed = u32::try_from(options.dry_allowed_length).unwrap_or(u32::MAX);
    for &id in window {
        let length = std::mem::take(&mut tally[id as usize]);
        if length > 0 {
            let beyond = f64::from(length.saturating_sub(allowed));
            let penalty = options.dry_multiplier * options.dry_base.powf(beyond);
            change(&mut logits[id as usize], |x| x - penalty);
        }
    }
}

/// Writes, for every `end` below the number of tokens, how many last tokens of all and of the first
/// `end` are the same.
///
/// The Z algorithm (Gusfield, 1997) on the reversed tokens: `left` to `right` is the match that
/// reaches farthest, inside which earlier results are copied. Linear time.
fn suffix_matches(tokens: &[u32], lengths: &mut Vec<usize>) {
    let count = tokens.len();
    let at = |place: usize| tokens[count - 1 - place];
    lengths.clear();
    lengths.resize(count, 0);
    let (mut left, mut right) = (0, 0);
    for start in 1..count {
        // The match at `place` of the reversed tokens is the one that ends before `count - place`.
        let mut length = if start < right {
            lengths[count - (start - left)].min(right - start)
        } else {
            0
        };
        while start + length < count && at(length) == at(start + length) {
            length += 1;
        }
        if start + length > right {
            (left, right) = (start, start + length);
        }
        lengths[count - start] = length;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const SIZE: usize = 12;

    fn options(allowed: usize) -> SamplingOptions {
        SamplingOptions {
            dry_multiplier: 0.8,
            dry_base: 1.5,
            dry_allowed_length: allowed,
            ..SamplingOptions::default()
        }
    }

    fn breakers(ids: &[u32]) -> Breakers {
        let is_breaker = (0..10).map(|id| ids.contains(&id)).collect();
        Breakers { is_breaker }
    }

    fn penalties(options: &SamplingOptions, breakers: &Breakers, window: &[u32]) -> Vec<f32> {
        let (mut lengths, mut tally) = (vec![], vec![0; SIZE]);
        let mut logits = vec![0.0; SIZE];
        repetitions(options, breakers, window, &mut lengths, &mut tally);
        penalise(options, window, &mut tally, &mut logits);
        assert_eq!(tally, [0; SIZE]);
        logits.into_iter().map(|x| 0.0 - x).collect()
    }

    /// By the definition: each place where the last token occurred before, extended backwards.
    fn by_definition(options: &SamplingOptions, breakers: &Breakers, window: &[u32]) -> Vec<f32> {
        let mut longest = BTreeMap::new();
        for end in 1..window.len() {
            let next = window[end];
            let pairs = window[..end].iter().rev().zip(window.iter().rev());
            let length = pairs
                .take_while(|(a, b)| a == b && !breakers.contains(**a))
                .count();
            if !breakers.contains(next) && length > 0 {
                let longest = longest.entry(next).or_insert(length);
                *longest = length.max(*longest);
            }
        }
        let mut penalties = vec![0.0; SIZE];
        for (id, length) in longest {
            if length >= options.dry_allowed_length {
                let beyond = i32::try_from(length - options.dry_allowed_length).unwrap();
                #[allow(clippy::cast_possible_truncation)]
                let penalty = (options.dry_multiplier * options.dry_base.powi(beyond)) as f32;
                penalties[id as usize] = penalty;
            }
        }
        penalties
    }

    fn assert_close(found: &[f32], expected: &[f32], window: &[u32]) {
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() <= 1e-6 * b.abs(), "{a} {b} after {window:?}");
        }
    }

    #[test]
    fn the_penalties_are_those_of_the_definition() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut penalised = 0;
        for round in 0..2000 {
            let ids = [2, 3, 12][round % 3];
            let count = rng.random_range(0..60);
            let mut window: Vec<u32> = (0..count).map(|_| rng.random_range(0..ids)).collect();
            if round % 4 == 0 {
                window = window.repeat(2);
            }
            let breakers = match round % 5 {
                0 => breakers(&[0]),
                1 => breakers(&[1, 5, 7]),
                _ => Breakers::default(),
            };
            for allowed in [0, 1, 2, 5] {
                let options = options(allowed);
                let expected = by_definition(&options, &breakers, &window);
                assert_close(&penalties(&options, &breakers, &window), &expected, &window);
                penalised += expected.iter().filter(|&&x| x > 0.0).count();
            }
        }
        assert!(penalised > 5000, "only {penalised} penalties");
    }

    #[test]
    fn the_token_that_would_go_on_is_penalised() {
        // After `1 2 3` came 4, after `2 3` came 5 and after `3` came 6.
        let window = [1, 2, 3, 4, 0, 2, 3, 5, 0, 3, 6, 1, 2, 3];
        let found = penalties(&options(2), &Breakers::default(), &window);
        let mut expected = vec![0.0; SIZE];
        (expected[4], expected[5]) = (0.8 * 1.5, 0.8);
        assert_close(&found, &expected, &window);
        // Not over a breaker, and not the breaker.
        let found = penalties(&options(2), &breakers(&[1, 5]), &window);
        (expected[4], expected[5]) = (0.8, 0.0);
        assert_close(&found, &expected, &window);
        // Not after a breaker.
        let found = penalties(&options(1), &breakers(&[3]), &window);
        assert_eq!(found, [0.0; SIZE]);
    }

    #[test]
    fn a_long_repetition_takes_linear_time_and_stays_finite() {
        let window = vec![7; 200_000];
        let found = penalties(&options(2), &Breakers::default(), &window);
        assert_eq!(found[7].to_bits(), f32::MAX.to_bits());
    }
}
