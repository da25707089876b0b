//! The order in which encoders run.

use crate::encoder::Recording;
use objc2::software::Order;
use std::sync::Arc;

/// Indices of the recordings in the order in which they run.
///
/// A recording that waits for a fence follows the last one before it that updates the fence. Metal
/// promises no more for buffers that it does not track, which all of candle's are: not even that command
/// buffers of a queue do not overlap.
pub(crate) fn schedule(recordings: &[&Recording], order: Order) -> Vec<usize> {
    let predecessors: Vec<Vec<usize>> = (0..recordings.len())
        .map(|index| predecessors(recordings, index))
        .collect();
    let mut remaining: Vec<usize> = (0..recordings.len()).collect();
    let mut sorted = Vec::with_capacity(recordings.len());
    while !remaining.is_empty() {
        let is_ready = |index: &usize| {
            let mut predecessors = predecessors[*index].iter();
            !predecessors.any(|before| remaining.contains(before))
        };
        let place = match order {
            Order::Encoded => remaining.iter().position(is_ready),
            Order::Reversed => remaining.iter().rposition(is_ready),
        };
        // The first that remains is always ready, because a recording follows only earlier ones.
        sorted.push(remaining.remove(place.unwrap_or(0)));
    }
    sorted
}

fn predecessors(recordings: &[&Recording], index: usize) -> Vec<usize> {
    let last_update = |fence| {
        recordings[..index].iter().rposition(|recording| {
            recording
                .updates
                .iter()
                .any(|updated| Arc::ptr_eq(updated, fence))
        })
    };
    recordings[index]
        .waits
        .iter()
        .filter_map(last_update)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Fence;

    fn recording(waits: &[&Arc<Fence>], updates: &[&Arc<Fence>]) -> Recording {
        Recording {
            waits: waits.iter().map(|&fence| Arc::clone(fence)).collect(),
            updates: updates.iter().map(|&fence| Arc::clone(fence)).collect(),
            ..Recording::default()
        }
    }

    #[test]
    fn without_fences_the_last_comes_first() {
        let recordings = [
            recording(&[], &[]),
            recording(&[], &[]),
            recording(&[], &[]),
        ];
        let recordings: Vec<_> = recordings.iter().collect();
        assert_eq!(schedule(&recordings, Order::Reversed), [2, 1, 0]);
        assert_eq!(schedule(&recordings, Order::Encoded), [0, 1, 2]);
    }

    #[test]
    fn a_fence_orders_and_a_later_update_does_not() {
        let (a, b) = (Arc::new(Fence), Arc::new(Fence));
        let recordings = [
            recording(&[], &[&a]),
            recording(&[&a], &[&b]),
            recording(&[&b], &[&a]),
            recording(&[], &[]),
        ];
        let recordings: Vec<_> = recordings.iter().collect();
        assert_eq!(schedule(&recordings, Order::Reversed), [3, 0, 1, 2]);
    }
}
