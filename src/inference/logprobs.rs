//! Log-probabilities of tokens under the model.

use super::TokenLogprob;
use super::sampler::{Scale, sum};

/// The logarithm of the sum of the exponentials, by which logits become log-probabilities.
///
/// Relative to the highest logit, so that nothing overflows, and in lanes, because every token takes a
/// pass over the vocabulary. The logits are numbers or negative infinity.
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for part in logits.chunks(LANES) {
        for (lane, &logit) in lanes.iter_mut().zip(part) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let highest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let scale = Scale::new(highest, 1.0);
    f64::from(highest) + sum(logits, |&logit| scale.weight(logit)).ln()
}

/// The log-probability of a logit, given the logarithm of the sum of all.
#[allow(clippy::cast_possible_truncation, reason = "rounding is meant")]
pub(super) fn logprob(logit: f32, log_sum_exp: f64) -> f32 {
    (f64::from(logit) - log_sum_exp) as f32
}

/// The `count` most likely tokens, the most likely first, the lowest id on ties.
pub(super) fn top_logprobs(logits: &[f32], log_sum_exp: f64, count: usize) -> Vec<TokenLogprob> {
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    for (token, &logit) in (0..).zip(logits) {
        if top.len() == count && top.last().is_none_or(|&(_, least)| logit <= least) {
            continue;
        }
        let place = top.partition_point(|&(_, other)| other >= logit);
        top.insert(place, (token, logit));
        top.truncate(count);
    }
    let of = |(token, logit)| TokenLogprob {
        token,
        logprob: logprob(logit, log_sum_exp),
    };
    top.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_logarithms_of_the_softmax() {
        let logits = [1.0, 3.0, -2.0, 3.0, f32::NEG_INFINITY];
        let sum = log_sum_exp(&logits);
        let total: f64 = logits
            .iter()
            .map(|&x| f64::from(logprob(x, sum)).exp())
            .sum();
        assert!((total - 1.0).abs() < 1e-7);
        assert!((f64::from(logprob(1.0, sum)) - (1.0 - sum)).abs() < 1e-6);
        let shifted = logits.map(|x| x + 1e4);
        assert!((log_sum_exp(&shifted) - 1e4 - sum).abs() < 1e-3);
    }

    #[test]
    fn the_most_likely_come_first() {
        let logits = [1.0, 3.0, -2.0, 3.0, f32::NEG_INFINITY];
        let tokens = |count| -> Vec<u32> {
            let top = top_logprobs(&logits, 0.0, count);
            top.iter().map(|top| top.token).collect()
        };
        assert!(tokens(0).is_empty());
        assert_eq!(tokens(1), [1]);
        assert_eq!(tokens(3), [1, 3, 0]);
        assert_eq!(tokens(9), [1, 3, 0, 2, 4]);
    }
}
