//! Tokens in the order of their likelihood, and where a sum of their weights is reached.

/// Partial sums that are kept side by side, so that the compiler vectorises.
const LANES: usize = 8;

/// Numbers that are added in `f32` before they go to an `f64`, and tokens that share a maximum.
pub(super) const CHUNK: usize = 64;

/// A token and its logit in one integer. The order of the integers is the ranking: the most likely
/// token first, the lowest id first on ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ranked(u64);

impl Ranked {
    /// The logit must not be NaN.
    #[inline]
    pub fn new(id: u32, logit: f32) -> Self {
        // Adding 0 makes -0 a tie with 0.
        let order = descending((logit + 0.0).to_bits());
        Self(u64::from(order) << 32 | u64::from(id))
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // The low half is the id.
    pub fn id(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // The high half has 32 bits.
    pub fn logit(self) -> f32 {
        f32::from_bits(descending((self.0 >> 32) as u32))
    }
}

/// Maps the bits of numbers so that the higher number has the lower bits; its own inverse.
///
/// The bits of negative numbers rise with the distance from 0 already, and have the sign bit set.
#[inline]
fn descending(bits: u32) -> u32 {
    if bits >> 31 == 0 {
        bits ^ 0x7fff_ffff
    } else {
        bits
    }
}

/// The sum of the values of all items.
pub(in crate::inference) fn sum<T>(items: &[T], value: impl Fn(&T) -> f32) -> f64 {
    let mut totals = [0f64; LANES];
    for chunk in items.chunks(CHUNK) {
        let mut lanes = [0f32; LANES];
        let (groups, rest) = chunk.as_chunks::<LANES>();
        for group in groups {
            for (lane, item) in lanes.iter_mut().zip(group) {
                *lane += value(item);
            }
        }
        for (lane, item) in lanes.iter_mut().zip(rest) {
            *lane += value(item);
        }
        for (total, lane) in totals.iter_mut().zip(lanes) {
            *total += f64::from(lane);
        }
    }
    totals.iter().sum()
}

/// Writes the maximum of each chunk of logits to `maxima`; says whether all of them are numbers or
/// negative infinity.
pub(super) fn chunk_maxima(logits: &[f32], maxima: &mut Vec<f32>) -> bool {
    maxima.clear();
    let mut wrong = [0u32; LANES];
    for chunk in logits.chunks(CHUNK) {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let mut compare = |group: &[f32]| {
            for ((max, wrong), &x) in lanes.iter_mut().zip(&mut wrong).zip(group) {
                *max = if x > *max { x } else { *max };
                *wrong |= u32::from(x.is_nan() || x == f32::INFINITY);
            }
        };
        let (groups, rest) = chunk.as_chunks::<LANES>();
        for group in groups {
            compare(group);
        }
        compare(rest);
        maxima.push(lanes.into_iter().fold(f32::NEG_INFINITY, f32::max));
    }
    wrong == [0; LANES]
}

/// The index of the item, in ascending order, at which the sum of the weights up to and with it
/// reaches `target`; that of the last item where rounding keeps it from being reached. The items up
/// to it are then the lowest ones, in any order.
///
/// A quickselect by weight: halves are put in order of each other, and only a few items are sorted.
/// There must be at least one.
pub(super) fn crossing<T: Ord>(items: &mut [T], weight: impl Fn(&T) -> f32, target: f64) -> usize {
    let (mut start, mut end) = (0, items.len());
    let mut before = 0.0;
    while end - start > CHUNK {
        let half = (end - start) / 2;
        items[start..end].select_nth_unstable(half);
        let middle = start + half;
        let through = before + sum(&items[start..middle], &weight);
        if through >= target {
            end = middle;
        } else {
            start = middle;
            before = through;
        }
    }
    items[start..end].sort_unstable();
    for (index, item) in items.iter().enumerate().take(end).skip(start) {
        before += f64::from(weight(item));
        if before >= target {
            return index;
        }
    }
    end.saturating_sub(1)
}

/// The index at which the sum of the weights, in their order, goes beyond `share` of the total.
///
/// Never one with a weight of 0, but for 0 where all weights are.
pub(super) fn draw(weights: &[f32], share: f64) -> usize {
    // Where rounding keeps the sum from being reached: the last chunk, the last index that has one.
    let (mut start, mut rest) = (0, 0.0);
    let mut after = share * sum(weights, |w| *w);
    for (index, chunk) in weights.chunks(CHUNK).enumerate() {
        let mass = sum(chunk, |w| *w);
        if mass > 0.0 {
            (start, rest) = (index * CHUNK, after);
            after -= mass;
            if after < 0.0 {
                break;
            }
        }
    }
    let mut found = start;
    for (index, &weight) in weights.iter().enumerate().skip(start).take(CHUNK) {
        if weight > 0.0 {
            found = index;
            rest -= f64::from(weight);
            if rest < 0.0 {
                break;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn the_order_is_the_ranking() {
        let infinity = f32::INFINITY;
        let ranked = [
            (9, f32::MAX),
            (8, 1.0),
            (7, f32::MIN_POSITIVE),
            (1, -0.0),
            (2, 0.0),
            (3, -0.0),
            (0, -f32::MIN_POSITIVE),
            (4, -2.0),
            (5, -2.0),
            (u32::MAX, f32::MIN),
            (6, -infinity),
        ]
        .map(|(id, logit)| (Ranked::new(id, logit), id, logit));
        assert!(ranked.is_sorted());
        for (token, id, logit) in ranked {
            assert_eq!(token.id(), id);
            assert_eq!(token.logit().to_bits(), (logit + 0.0).to_bits());
        }
    }

    #[test]
    fn maxima_are_those_of_the_chunks_and_wrong_numbers_are_seen() {
        let mut logits: Vec<f32> = (0..200u16).map(|i| -f32::from(i * 37 % 201)).collect();
        logits[3] = f32::NEG_INFINITY;
        let mut maxima = vec![];
        assert!(chunk_maxima(&logits, &mut maxima));
        let expected: Vec<f32> = logits
            .chunks(CHUNK)
            .map(|chunk| chunk.iter().copied().fold(f32::NEG_INFINITY, f32::max))
            .collect();
        assert_eq!(maxima, expected);
        for wrong in [f32::NAN, -f32::NAN, f32::INFINITY] {
            for place in 0..logits.len() {
                let right = std::mem::replace(&mut logits[place], wrong);
                assert!(!chunk_maxima(&logits, &mut maxima), "{wrong} {place}");
                logits[place] = right;
            }
        }
    }

    #[test]
    fn a_crossing_is_where_a_full_sort_has_it() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for count in [1, 2, 63, 64, 65, 129, 1000, 3001] {
            for levels in [1, 7, 1_000_000] {
                // Whole numbers, so that sums do not depend on the order.
                let mut items: Vec<(u32, u16)> = (0..count)
                    .map(|_| (rng.random_range(0..levels), rng.random_range(1..100)))
                    .collect();
                let mut sorted = items.clone();
                sorted.sort_unstable();
                let total: f64 = items.iter().map(|item| f64::from(item.1)).sum();
                for share in [0.0, 1e-9, 0.1, 0.5, 0.999, 1.0] {
                    let target = (share * total).round();
                    let mut sum = 0.0;
                    let expected = sorted.iter().position(|item| {
                        sum += f64::from(item.1);
                        sum >= target
                    });
                    let found = crossing(&mut items, |item| f32::from(item.1), target);
                    assert_eq!(Some(found), expected, "{count} {levels} {share}");
                    items[..=found].sort_unstable();
                    assert_eq!(items[..=found], sorted[..=found]);
                }
                let beyond = crossing(&mut items, |item| f32::from(item.1), 2.0 * total);
                assert_eq!(beyond, items.len() - 1);
            }
        }
    }

    #[test]
    fn a_draw_is_where_a_running_sum_has_it() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for count in [1usize, 64, 65, 500] {
            let mut weights: Vec<f32> = (0..count)
                .map(|_| f32::from(rng.random_range(0..4u8)))
                .collect();
            weights[count / 2] = 1.0;
            weights[count - 1] = 0.0;
            if count == 1 {
                weights[0] = 1.0;
            }
            let total: f32 = weights.iter().sum();
            for step in 0..100u8 {
                let share = f64::from(step) / 100.0;
                let mut sum = 0.0;
                let expected = weights.iter().position(|&weight| {
                    sum += f64::from(weight);
                    sum > share * f64::from(total)
                });
                assert_eq!(Some(draw(&weights, share)), expected, "{count} {share}");
            }
            let last = weights.iter().rposition(|&weight| weight > 0.0);
            assert_eq!(Some(draw(&weights, 1.0)), last);
        }
        assert_eq!(draw(&[0.0; 100], 0.5), 0);
        assert_eq!(draw(&[], 0.5), 0);
    }
}
