//! Which tokens may be drawn: top-k, top-p, min-p, typical-p and XTC.
//!
//! All but typical-p keep, or cut off, a beginning of the ranking of the tokens. So a lower bound of
//! what they keep is found first, chunks of the vocabulary that are all below it are skipped, and the
//! few tokens left are put in order by quickselect. Nothing sorts the vocabulary.

use super::SamplingOptions;
use super::ranked::{CHUNK, Ranked, crossing, sum};
use super::scale::{LOWEST, Scale};

/// Whether there is a filter to apply to a vocabulary of this size.
pub(super) fn is_on(options: &SamplingOptions, size: usize) -> bool {
    limits(options, size)
        || options.top_p < 1.0
        || options.min_p > 0.0
        || options.typical_p < 1.0
        || options.xtc_probability > 0.0
}

fn limits(options: &SamplingOptions, size: usize) -> bool {
    (1..size).contains(&options.top_k)
}

/// Fills `kept` with the tokens that top-k, top-p, min-p and typical-p leave, at least one, in any
/// order. `maxima` are those of the chunks of `logits`.
pub(super) fn keep(
    options: &SamplingOptions,
    logits: &[f32],
    maxima: &[f32],
    scale: Scale,
    kept: &mut Vec<Ranked>,
) {
    let min_p = lower_bound(options.min_p);
    if limits(options, logits.len()) {
        let bound = scale.exponent(nth_highest(maxima, options.top_k));
        collect(logits, maxima, scale, bound, kept);
        if options.top_k < kept.len() {
            kept.select_nth_unstable(options.top_k);
            kept.truncate(options.top_k);
        }
        if options.top_p < 1.0 {
            keep_nucleus(options.top_p * scale.mass(kept), scale, kept);
        }
    } else if options.top_p < 1.0 {
        let total = sum(logits, |logit| scale.weight(*logit));
        let bound = nucleus_bound(options.top_p, total, logits.len());
        let target = options.top_p * total;
        // Half of the exponent mostly is enough, and has few tokens.
        collect(logits, maxima, scale, 0.5 * bound, kept);
        if scale.mass(kept) < target {
            collect(logits, maxima, scale, bound, kept);
        }
        keep_nucleus(target, scale, kept);
    } else {
        collect(logits, maxima, scale, min_p, kept);
    }
    if options.min_p > 0.0 {
        kept.retain(|token| scale.exponent(token.logit()) >= min_p);
    }
    if options.typical_p < 1.0 {
        keep_typical(options.typical_p, logits, scale, kept);
    }
}

/// Removes the top choices of XTC: what is ranked before the least likely token of at least
/// `threshold`.
pub(super) fn exclude_top_choices(threshold: f64, scale: Scale, kept: &mut Vec<Ranked>) {
    let least = threshold * scale.mass(kept);
    let is_top = |token: &&Ranked| f64::from(scale.weight_of(**token)) >= least;
    if let Some(last) = kept.iter().filter(is_top).max().copied() {
        kept.retain(|token| *token >= last);
    }
}

/// The lowest exponent whose weight is at least `weight`.
#[allow(clippy::cast_possible_truncation)] // Rounding to f32 is meant.
fn lower_bound(weight: f64) -> f32 {
    weight.log2() as f32
}

/// An exponent above which the tokens have more than `top_p` of the mass.
///
/// All tokens below weigh less than their number times its weight. Half of that leaves room for
/// rounding.
#[allow(clippy::cast_precision_loss)] // A bound need not be exact.
fn nucleus_bound(top_p: f64, mass: f64, size: usize) -> f32 {
    lower_bound(0.5 * (1.0 - top_p) * mass / size as f64)
}

/// A lower bound of the `count`th highest logit: that many chunks have one as high.
fn nth_highest(maxima: &[f32], count: usize) -> f32 {
    if count > maxima.len() {
        return f32::NEG_INFINITY;
    }
    let mut maxima = maxima.to_vec();
    *maxima
        .select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a))
        .1
}

/// Fills `kept` with the tokens whose exponent is at least `bound` and that may be drawn at all.
fn collect(logits: &[f32], maxima: &[f32], scale: Scale, bound: f32, kept: &mut Vec<Ranked>) {
    let bound = bound.max(LOWEST);
    kept.clear();
    let first_ids = (0u32..).step_by(CHUNK);
    for ((first, chunk), &max) in first_ids.zip(logits.chunks(CHUNK)).zip(maxima) {
        if scale.exponent(max) >= bound {
            kept.extend(
                (first..)
                    .zip(chunk)
                    .filter(|&(_, &logit)| scale.exponent(logit) >= bound)
                    .map(|(id, &logit)| Ranked::new(id, logit)),
            );
        }
    }
}

/// Keeps the most likely tokens, until their weights reach `target`.
fn keep_nucleus(target: f64, scale: Scale, kept: &mut Vec<Ranked>) {
    let last = crossing(kept, |token| scale.weight_of(*token), target);
    kept.truncate(last + 1);
}

/// Keeps the tokens whose information is closest to the entropy, until their mass reaches
/// `typical_p`, and all that are as close as the last of them.
///
/// With `log p = x - log Z` the entropy is `log Z - E[x]`, so the distance of `-log p` from it is
/// that of the exponent `x` from its mean.
#[allow(clippy::cast_possible_truncation)] // Rounding to f32 is meant.
fn keep_typical(typical_p: f64, logits: &[f32], scale: Scale, kept: &mut Vec<Ranked>) {
    let mass = scale.mass(kept);
    let weighted = sum(kept, |token| {
        scale.weight_of(*token) * scale.exponent(token.logit())
    });
    let mean = (weighted / mass) as f32;
    let logit = |token: Ranked| logits[token.id() as usize];
    // Ranked by closeness meanwhile.
    for token in kept.iter_mut() {
        let distance = (scale.exponent(token.logit()) - mean).abs();
        *token = Ranked::new(token.id(), -distance);
    }
    let weight = |token: &Ranked| scale.weight(logit(*token));
    let last = crossing(kept, weight, typical_p * mass);
    let farthest = kept.get(last).map_or(0.0, |token| token.logit());
    kept.retain(|token| token.logit() >= farthest);
    for token in kept.iter_mut() {
        *token = Ranked::new(token.id(), logit(*token));
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::LN_2;

    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::inference::sampler::ranked::chunk_maxima;

    /// The ids that the filters keep, with XTC, in ascending order.
    fn kept(options: &SamplingOptions, logits: &[f32]) -> Vec<u32> {
        let (mut maxima, mut kept) = (vec![], vec![]);
        assert!(chunk_maxima(logits, &mut maxima));
        let highest = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scale = Scale::new(highest, options.temperature);
        keep(options, logits, &maxima, scale, &mut kept);
        if options.xtc_probability > 0.0 {
            exclude_top_choices(options.xtc_threshold, scale, &mut kept);
        }
        let mut ids: Vec<u32> = kept.into_iter().map(Ranked::id).collect();
        ids.sort_unstable();
        ids
    }

    /// The same by the definitions: probabilities in `f64`, each step with a full sort.
    fn by_definition(options: &SamplingOptions, logits: &[f32]) -> Vec<u32> {
        type Token = (u32, f64);
        let normalised = |tokens: &[Token]| -> Vec<f64> {
            let total: f64 = tokens.iter().map(|(_, x)| x.exp()).sum();
            tokens.iter().map(|(_, x)| x.exp() / total).collect()
        };
        let reaching = |p: &[f64], mass: f64| {
            let mut sum = 0.0;
            let crossing = p.iter().position(|p| {
                sum += p;
                sum >= mass
            });
            crossing.map_or(p.len(), |index| index + 1)
        };
        let mut tokens: Vec<Token> = (0..)
            .zip(logits)
            .map(|(id, &x)| (id, f64::from(x) / options.temperature))
            .collect();
        tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let highest = tokens[0].1;
        tokens.retain(|token| (token.1 - highest) / LN_2 >= f64::from(LOWEST));
        if options.top_k > 0 {
            tokens.truncate(options.top_k);
        }
        if options.top_p < 1.0 {
            let count = reaching(&normalised(&tokens), options.top_p);
            tokens.truncate(count);
        }
        let p = normalised(&tokens);
        let count = p.iter().filter(|&x| *x >= options.min_p * p[0]).count();
        tokens.truncate(count);
        if options.typical_p < 1.0 {
            let p = normalised(&tokens);
            let entropy: f64 = p.iter().map(|p| -p * p.ln()).sum();
            let mut sorted: Vec<(f64, f64)> =
                p.iter().map(|p| ((-p.ln() - entropy).abs(), *p)).collect();
            sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
            let p_sorted: Vec<f64> = sorted.iter().map(|x| x.1).collect();
            let farthest = sorted[reaching(&p_sorted, options.typical_p) - 1].0;
            let mut p = p.iter();
            tokens.retain(|_| (-p.next().unwrap().ln() - entropy).abs() <= farthest + 1e-12);
        }
        if options.xtc_probability > 0.0 {
            let p = normalised(&tokens);
            let top = p.iter().filter(|&p| *p >= options.xtc_threshold).count();
            tokens.drain(..top.saturating_sub(1));
        }
        let mut ids: Vec<u32> = tokens.iter().map(|token| token.0).collect();
        ids.sort_unstable();
        ids
    }

    /// Random logits on a grid, so that there are ties, with some masked tokens.
    fn logits(rng: &mut ChaCha8Rng, count: usize, spread: f32, grid: f32) -> Vec<f32> {
        (0..count)
            .map(|_| {
                // Nearly normal, as those of a model.
                let normal: f32 = (0..6).map(|_| rng.random::<f32>() - 0.5).sum();
                if rng.random_bool(0.02) {
                    f32::NEG_INFINITY
                } else {
                    (normal * spread / grid).round() * grid + 5.0
                }
            })
            .collect()
    }

    #[test]
    fn the_kept_tokens_are_those_of_a_full_sort() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut sizes = [0usize; 2];
        for round in 0..600 {
            let count = [1, 5, 64, 65, 300, 3000][round % 6];
            let spread = [0.0, 0.5, 4.0, 20.0][rng.random_range(0..4)];
            let grid = [0.001, 0.25, 2.0][rng.random_range(0..3)];
            let mut logits = logits(&mut rng, count, spread, grid);
            logits[count / 2] = 5.5;
            let mut on = |share: f64| rng.random_bool(share);
            let (top_k, top_p, min_p) = (on(0.4), on(0.5), on(0.4));
            let (typical_p, xtc) = (on(0.3), on(0.3));
            let off = SamplingOptions::default();
            let options = SamplingOptions {
                temperature: rng.random_range(0.3..2.0),
                top_k: rng.random_range(1..2 * count + 1) * usize::from(top_k),
                top_p: if top_p { rng.random() } else { off.top_p },
                min_p: if min_p {
                    rng.random_range(0.0..0.3)
                } else {
                    0.0
                },
                typical_p: if typical_p { rng.random() } else { 1.0 },
                xtc_probability: f64::from(u8::from(xtc)),
                xtc_threshold: rng.random_range(0.0..0.5),
                ..off
            };
            let kept = kept(&options, &logits);
            assert_eq!(kept, by_definition(&options, &logits), "{options:?}");
            sizes[usize::from(kept.len() > 64)] += 1;
        }
        assert!(sizes[1] > 60, "{sizes:?}: large sets are to be tested too");
    }

    #[test]
    fn ties_go_to_the_lowest_ids() {
        let flat = [2.0; 200];
        let options = |top_k, top_p| SamplingOptions {
            temperature: 1.0,
            top_k,
            top_p,
            ..SamplingOptions::default()
        };
        let first = |count| (0..count).collect::<Vec<u32>>();
        assert_eq!(kept(&options(130, 1.0), &flat), first(130));
        assert_eq!(kept(&options(0, 0.5), &flat), first(100));
        assert_eq!(kept(&options(100, 0.5), &flat), first(50));
        assert_eq!(kept(&options(0, 0.999_999), &flat), first(200));
        assert_eq!(kept(&options(0, 1e-9), &flat), first(1));
    }

    #[test]
    fn xtc_leaves_the_least_likely_top_choice_and_the_rest() {
        let logits = [0.5f32, 0.05, 0.3, 0.15].map(f32::ln);
        let xtc = |xtc_threshold| SamplingOptions {
            temperature: 1.0,
            xtc_probability: 1.0,
            xtc_threshold,
            ..SamplingOptions::default()
        };
        assert_eq!(kept(&xtc(0.1), &logits), [1, 3]);
        assert_eq!(kept(&xtc(0.2), &logits), [1, 2, 3]);
        assert_eq!(kept(&xtc(0.4), &logits), [0, 1, 2, 3]);
        assert_eq!(kept(&xtc(0.0), &logits), [1]);
    }

    #[test]
    fn typical_p_can_leave_out_the_most_likely_token() {
        let logits = [0.4f32, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1].map(f32::ln);
        let options = SamplingOptions {
            temperature: 1.0,
            typical_p: 0.3,
            ..SamplingOptions::default()
        };
        // All that are as close as the last one stay.
        assert_eq!(kept(&options, &logits), [1, 2, 3, 4, 5, 6]);
    }
}
