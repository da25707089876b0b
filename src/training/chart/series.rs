//! Points of a line: smoothed, thinned and cut to a range.

/// A line's points, (step, value), all finite.
pub(super) type Points = Vec<(f64, f64)>;

/// An exponential moving average, without the pull towards 0 that it would begin with.
///
/// It looks back over about a fortieth of the points, as far as noise of single batches needs.
pub(super) fn smoothed(points: &[(f64, f64)]) -> Points {
    #[allow(clippy::cast_precision_loss, reason = "a number of steps")]
    let span = (points.len() as f64 / 40.0).max(5.0);
    let decay = 1.0 - 2.0 / (span + 1.0);
    let (mut average, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|(step, value)| {
            average = decay * average + (1.0 - decay) * value;
            weight = decay * weight + (1.0 - decay);
            (*step, average / weight)
        })
        .collect()
}

/// At most about `limit` of the points, in order: the first, the last, and the lowest and the highest
/// of each stretch between, so that no spike is lost.
pub(super) fn thinned(points: &[(f64, f64)], limit: usize) -> Points {
    let [first, inner @ .., last] = points else {
        return points.to_vec();
    };
    if points.len() <= limit {
        return points.to_vec();
    }
    let stretch = inner.len().div_ceil((limit / 2).saturating_sub(1).max(1));
    let mut kept = vec![*first];
    for stretch in inner.chunks(stretch) {
        let by_value = |a: &(usize, &(f64, f64)), b: &(usize, &(f64, f64))| a.1.1.total_cmp(&b.1.1);
        let numbered = || stretch.iter().enumerate();
        let ends = (numbered().min_by(by_value), numbered().max_by(by_value));
        if let (Some((low, _)), Some((high, _))) = ends {
            kept.push(stretch[low.min(high)]);
            if low != high {
                kept.push(stretch[low.max(high)]);
            }
        }
    }
    kept.push(*last);
    kept
}

/// The value that lines are cut at where a few are so high that the others would all lie on the
/// ground, as in the first steps of a run that begins badly.
pub(super) fn ceiling(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
    if sorted.len() < 5 {
        return None;
    }
    // Nine of ten values, and the second highest of a few.
    let bulk = sorted[(sorted.len() * 9 / 10).min(sorted.len() - 2)];
    let spread = (bulk - lowest).max(0.05 * bulk.abs());
    (spread > 0.0 && highest > lowest + 20.0 * spread).then_some(lowest + 3.0 * spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(count: u32, value: impl Fn(u32) -> f64) -> Points {
        (0..count).map(|n| (f64::from(n), value(n))).collect()
    }

    #[test]
    fn smoothing_keeps_a_constant_and_calms_noise() {
        assert!(
            smoothed(&line(200, |_| 2.0))
                .iter()
                .all(|(_, value)| (value - 2.0).abs() < 1e-9)
        );
        let noisy = line(400, |n| if n % 2 == 0 { 1.0 } else { 3.0 });
        let smooth = smoothed(&noisy);
        assert!(smooth[100..].iter().all(|(_, y)| (y - 2.0).abs() < 0.2));
        assert!((smooth[0].1 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn thinning_keeps_ends_spikes_and_order() {
        let spikes = line(100_000, |n| match n {
            33_333 => 50.0,
            77_777 => -50.0,
            _ => f64::from(n % 7),
        });
        let thin = thinned(&spikes, 1000);
        assert!((500..=1000).contains(&thin.len()), "{}", thin.len());
        assert!(thin.is_sorted_by(|a, b| a.0 < b.0));
        for kept in [spikes[0], spikes[33_333], spikes[77_777], spikes[99_999]] {
            assert!(thin.contains(&kept), "{kept:?}");
        }
        for count in [0, 1, 2, 999, 1000] {
            let few = line(count, f64::from);
            assert_eq!(thinned(&few, 1000), few);
        }
        assert!(thinned(&line(1001, f64::from), 1000).len() <= 1000);
    }

    #[test]
    fn only_a_few_values_far_above_are_cut() {
        let falling = line(1000, |n| 5.0 * (-f64::from(n) / 100.0).exp() + 1.0);
        let values = |points: &Points| points.iter().map(|point| point.1).collect::<Vec<_>>();
        assert_eq!(ceiling(&values(&falling)), None);
        let mut bad = falling.clone();
        bad[0].1 = 1e6;
        let ceiling_of_bad = ceiling(&values(&bad)).unwrap();
        assert!((3.0..8.0).contains(&ceiling_of_bad), "{ceiling_of_bad}");
        assert!(ceiling(&[1e6, 2.0, 2.0, 2.0, 2.0, 2.0]).unwrap() < 3.0);
        assert_eq!(ceiling(&[2.0; 9]), None);
        assert_eq!(ceiling(&[1e6, 2.0]), None);
        assert_eq!(ceiling(&[]), None);
    }
}
