//! Axes: their ranges, where they have ticks, and how numbers are written.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

/// An axis of a panel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    /// Within the range, ascending, evenly spaced.
    ticks: Vec<f64>,
}

impl Axis {
    /// The steps from `first` to `last`, with ticks at whole numbers.
    pub fn steps(first: f64, last: f64) -> Self {
        if last > first {
            Self::new(first, last, 8, 1.0)
        } else {
            // Room beside the one step.
            Self::new((first - 1.0).max(0.0), last + 1.0, 8, 1.0)
        }
    }

    /// Around all of these values, with room above and below, and from 0 where that is near.
    pub fn around(values: impl IntoIterator<Item = f64>, ticks: usize) -> Self {
        let (low, high) = values
            .into_iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        if low > high {
            return Self::new(0.0, 1.0, ticks, 0.0);
        }
        let spread = if high > low {
            high - low
        } else if high == 0.0 {
            1.0
        } else {
            0.2 * high.abs()
        };
        let room = 0.06 * spread;
        let from_zero = low >= 0.0 && low < 0.5 * spread;
        let low = if from_zero { 0.0 } else { low - room };
        Self::new(low, high + room, ticks, 0.0)
    }

    /// About `count` ticks, at multiples of 1, 2 or 5 times a power of ten and at least `least` apart.
    fn new(low: f64, high: f64, count: usize, least: f64) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a handful")]
        let rough = ((high - low) / count as f64).max(f64::MIN_POSITIVE);
        let power = 10_f64.powf(rough.log10().floor());
        let spacing = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * power)
            .find(|spacing| *spacing >= 0.99 * rough)
            .unwrap_or(rough)
            .max(least);
        let first = (low / spacing - 1e-9).ceil();
        let ticks = (0..=2 * count)
            .map(|n| (first + f64::from(u32::try_from(n).unwrap_or(0))) * spacing)
            .take_while(|tick| *tick <= high + 1e-9 * spacing)
            .map(|tick| tick.clamp(low, high))
            .collect();
        Self { low, high, ticks }
    }

    /// The upper end.
    pub fn high(&self) -> f64 {
        self.high
    }

    /// The label of a tick, with as many digits as tell it from its neighbours.
    pub fn label(&self, tick: f64) -> String {
        let largest = self.low.abs().max(self.high.abs());
        if !(1e-2..1e7).contains(&largest) {
            return number(tick);
        }
        let spacing = match self.ticks[..] {
            [first, second, ..] => second - first,
            _ => largest,
        };
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 10"
        )]
        let decimals = (1e-9 - spacing.log10().floor()).clamp(0.0, 10.0) as usize;
        grouped(tick, decimals)
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    /// What lies outside is drawn on the edge.
    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let part = (value.clamp(self.low, self.high) - self.low) / (self.high - self.low);
        #[allow(clippy::cast_possible_truncation, reason = "between two coordinates")]
        let offset = (part * f64::from(to - from)).round() as i32;
        from + offset
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            vec![]
        } else {
            self.ticks.clone()
        }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.label(*value)
    }
}

/// A number as a reader likes it: four digits, and an exponent only where it is very large or small.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if (1e-2..1e7).contains(&size) {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 5"
        )]
        let decimals = (3.0 - size.log10().floor()).clamp(0.0, 5.0) as usize;
        grouped(value, decimals)
    } else {
        let text = format!("{value:.3e}");
        match text.split_once('e') {
            Some((digits, exponent)) if digits.contains('.') => {
                let digits = digits.trim_end_matches('0').trim_end_matches('.');
                format!("{digits}e{exponent}")
            }
            _ => text,
        }
    }
}

/// With commas between thousands: `20,000`.
fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let is_zero = text.chars().all(|c| matches!(c, '0' | '.'));
    let sign = if value < 0.0 && !is_zero { "-" } else { "" };
    format!("{sign}{grouped}{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(|tick| axis.label(*tick)).collect()
    }

    #[test]
    fn steps_have_whole_ticks() {
        let check = |first: f64, last: f64, expected: &[&str]| {
            assert_eq!(
                labels(&Axis::steps(first, last)),
                expected,
                "{first} {last}"
            );
        };
        check(1.0, 1.0, &["0", "1", "2"]);
        check(0.0, 0.0, &["0", "1"]);
        check(1.0, 3.0, &["1", "2", "3"]);
        check(0.0, 10.0, &["0", "2", "4", "6", "8", "10"]);
        check(
            1.0,
            100_000.0,
            &["20,000", "40,000", "60,000", "80,000", "100,000"],
        );
        check(7000.0, 7003.0, &["7,000", "7,001", "7,002", "7,003"]);
    }

    #[test]
    fn ranges_hold_all_values_and_their_labels_differ() {
        for values in [
            vec![2.0],
            vec![0.0],
            vec![-3.0, -3.0],
            vec![1e-300, 2e-300],
            vec![1e-5, 2e-4],
            vec![0.1, 2.5, 12.0],
            vec![2.001, 2.002],
            vec![1e12, 5e12],
            vec![-0.7, 0.3],
            vec![1e300, -1e300],
            vec![0.712_345_67, 0.712_345_68],
        ] {
            let axis = Axis::around(values.iter().copied(), 5);
            for value in &values {
                assert!(
                    axis.low <= *value && *value <= axis.high,
                    "{axis:?} {value}"
                );
            }
            assert!((2..=11).contains(&axis.ticks.len()), "{axis:?}");
            let inside = |tick: &f64| axis.low <= *tick && *tick <= axis.high;
            assert!(axis.ticks.iter().all(inside), "{axis:?}");
            let mut labels = labels(&axis);
            assert!(labels.iter().all(|label| label.len() <= 12), "{labels:?}");
            labels.dedup();
            assert_eq!(labels.len(), axis.ticks.len(), "{axis:?}");
        }
        assert_eq!(labels(&Axis::around([], 5)).first().unwrap(), "0.0");
    }

    #[test]
    fn losses_near_zero_begin_at_zero() {
        assert!(Axis::around([0.4, 3.0], 5).low.abs() < 1e-12);
        assert!(Axis::around([2.9, 3.0], 5).low > 2.0);
    }

    #[test]
    fn numbers_are_readable() {
        for (value, text) in [
            (0.0, "0"),
            (1e-4, "1e-4"),
            (1.5e-4, "1.5e-4"),
            (1.0 / 3.0, "0.3333"),
            (2.5, "2.500"),
            (-2.5, "-2.500"),
            (1234.5, "1,234"),
            (123_456.0, "123,456"),
            (2.5e9, "2.5e9"),
            (1e-10, "1e-10"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(grouped(-0.001, 1), "0.0");
    }
}
