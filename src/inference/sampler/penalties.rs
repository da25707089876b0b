//! What makes tokens more or less likely before the temperature: biases and penalties.

use std::collections::BTreeMap;

use super::SamplingOptions;
use super::dry::{self, Breakers};
use crate::{Error, Result};

/// Memory that is kept from token to token.
#[derive(Debug, Clone, Default)]
pub(super) struct Scratch {
    /// The changed logits.
    logits: Vec<f32>,
    /// A number per token of the vocabulary; all 0 between two uses.
    pub(super) tally: Vec<u32>,
    /// A number per token of the history.
    pub(super) lengths: Vec<usize>,
}

/// The logits with bias and penalties; `logits` itself where all of them are off.
///
/// Masked tokens stay masked, what is not a number stays so, and no penalty makes an infinity.
///
/// # Errors
///
/// [`Error::InvalidOption`] for a biased or penalised id outside the vocabulary.
pub(super) fn apply<'a>(
    options: &SamplingOptions,
    breakers: &Breakers,
    logits: &'a [f32],
    history: &[u32],
    scratch: &'a mut Scratch,
) -> Result<&'a [f32]> {
    if !is_on(options) {
        return Ok(logits);
    }
    let penalises = penalises(options);
    let dry = options.dry_multiplier > 0.0;
    let size = logits.len();
    let is_outside = |id: &&u32| **id as usize >= size;
    let outside = |name, id| {
        let expected = format!("ids below the vocabulary size of {size}");
        Err(Error::option(name, format!("token id {id}"), expected))
    };
    if let Some(id) = options.logit_bias.keys().find(is_outside) {
        return outside("logit_bias", id);
    }
    if (penalises || dry)
        && let Some(id) = history.iter().find(is_outside)
    {
        return outside("history", id);
    }
    scratch.logits.clear();
    scratch.logits.extend_from_slice(logits);
    scratch.tally.resize(size, 0);
    bias(&options.logit_bias, &mut scratch.logits);
    if penalises {
        let window = last(history, options.penalty_last_n);
        penalise(options, window, &mut scratch.tally, &mut scratch.logits);
    }
    if dry {
        let window = last(history, options.dry_penalty_last_n);
        let lengths = &mut scratch.lengths;
        dry::repetitions(options, breakers, window, lengths, &mut scratch.tally);
        dry::penalise(options, window, &mut scratch.tally, &mut scratch.logits);
    }
    Ok(&scratch.logits)
}

/// Whether anything is changed.
pub(super) fn is_on(options: &SamplingOptions) -> bool {
    !options.logit_bias.is_empty() || penalises(options) || options.dry_multiplier > 0.0
}

fn penalises(options: &SamplingOptions) -> bool {
    [
        (options.repetition_penalty, 1.0),
        (options.presence_penalty, 0.0),
        (options.frequency_penalty, 0.0),
    ]
    .into_iter()
    .any(|(value, off)| (value - off).abs() > 0.0)
}

/// The last `count` tokens; all for 0.
fn last(history: &[u32], count: usize) -> &[u32] {
    match count {
        0 => history,
        _ => &history[history.len().saturating_sub(count)..],
    }
}

fn bias(biases: &BTreeMap<u32, f32>, logits: &mut [f32]) {
    for (&id, &bias) in biases {
        let logit = &mut logits[id as usize];
        if bias > f32::NEG_INFINITY {
            change(logit, |x| x + f64::from(bias));
        } else if logit.is_finite() {
            *logit = bias;
        }
    }
}

fn penalise(options: &SamplingOptions, window: &[u32], tally: &mut [u32], logits: &mut [f32]) {
    for &id in window {
        tally[id as usize] += 1;
    }
    for &id in window {
        let count = std::mem::take(&mut tally[id as usize]);
        if count > 0 {
            let by = options.frequency_penalty * f64::from(count) + options.presence_penalty;
            change(&mut logits[id as usize], |x| {
                if x < 0.0 {
                    x * options.repetition_penalty - by
                } else {
                    x / options.repetition_penalty - by
                }
            });
        }
    }
}

/// Changes a finite logit to another finite one.
#[allow(clippy::cast_possible_truncation)] // Rounding to f32 is meant.
pub(super) fn change(logit: &mut f32, change: impl FnOnce(f64) -> f64) {
    if logit.is_finite() {
        *logit = change(f64::from(*logit)).clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(options: &SamplingOptions, logits: &[f32], history: &[u32]) -> Result<Vec<f32>> {
        let mut scratch = Scratch::default();
        let logits = apply(options, &Breakers::default(), logits, history, &mut scratch)?;
        let logits = logits.to_vec();
        assert!(scratch.tally.iter().all(|&count| count == 0));
        Ok(logits)
    }

    #[test]
    fn penalties_count_the_tokens_of_the_window() {
        let options = |penalty_last_n| SamplingOptions {
            repetition_penalty: 2.0,
            presence_penalty: 0.25,
            frequency_penalty: 0.5,
            penalty_last_n,
            ..SamplingOptions::default()
        };
        let logits = [4.0, -4.0, 4.0, 4.0];
        let history = [3, 1, 2, 1, 2, 1];
        for (window, expected) in [
            (0, [4.0, -9.75, 0.75, 1.25]),
            (6, [4.0, -9.75, 0.75, 1.25]),
            (99, [4.0, -9.75, 0.75, 1.25]),
            (5, [4.0, -9.75, 0.75, 4.0]),
            (2, [4.0, -8.75, 1.25, 4.0]),
            (1, [4.0, -8.75, 4.0, 4.0]),
        ] {
            let found = applied(&options(window), &logits, &history).unwrap();
            assert_eq!(found, expected, "{window}");
        }
        assert_eq!(applied(&options(0), &logits, &[]).unwrap(), logits);
    }

    #[test]
    fn each_penalty_acts_alone() {
        let off = SamplingOptions::default();
        for (options, expected) in [
            (
                SamplingOptions {
                    repetition_penalty: 0.5,
                    ..off.clone()
                },
                4.0,
            ),
            (
                SamplingOptions {
                    presence_penalty: -1.0,
                    ..off.clone()
                },
                3.0,
            ),
            (
                SamplingOptions {
                    frequency_penalty: 1.0,
                    ..off.clone()
                },
                0.0,
            ),
            (
                SamplingOptions {
                    logit_bias: BTreeMap::from([(1, 7.0)]),
                    ..off.clone()
                },
                9.0,
            ),
            (off, 2.0),
        ] {
            let found = applied(&options, &[2.0, 2.0], &[1, 1]).unwrap();
            assert_eq!(found, [2.0, expected], "{options:?}");
        }
    }

    #[test]
    fn masks_stay_and_wrong_numbers_are_not_hidden() {
        let infinity = f32::INFINITY;
        for bias in [5.0, -infinity] {
            let options = SamplingOptions {
                repetition_penalty: 1e-300,
                frequency_penalty: -1e300,
                dry_multiplier: 1e300,
                logit_bias: (0..4).map(|id| (id, bias)).collect(),
                ..SamplingOptions::default()
            };
            let logits = [-infinity, infinity, f32::NAN, 1.0];
            let found = applied(&options, &logits, &[0, 1, 2, 3, 3, 3]).unwrap();
            assert_eq!(found[..2], [-infinity, infinity]);
            assert!(found[2].is_nan());
            let expected = if bias > 0.0 { f32::MIN } else { -infinity };
            assert_eq!(found[3..], [expected]);
        }
    }

    #[test]
    fn ids_outside_the_vocabulary_are_named() {
        let options = |repetition_penalty, dry_multiplier| SamplingOptions {
            repetition_penalty,
            dry_multiplier,
            ..SamplingOptions::default()
        };
        for options in [options(1.1, 0.0), options(1.0, 0.8)] {
            let error = applied(&options, &[1.0; 5], &[4, 5]).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("`history` is token id 5"), "{error}");
            assert!(error.contains("vocabulary size of 5"), "{error}");
        }
        // Where no penalty looks at the history, it may hold anything.
        assert!(applied(&options(1.0, 0.0), &[1.0; 5], &[5]).is_ok());
    }
}
