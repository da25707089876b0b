//! Nothing that the device made stays behind, per token or per step.

use super::{TINY, at_steps, at_tokens, exclusive, model};
use objc2::software::live;
use std::collections::BTreeMap;

type Live = BTreeMap<&'static str, usize>;

/// Command buffers come in runs of fifty encoders, so that a few more or less are in flight.
fn assert_steady(early: &Live, late: &Live) {
    for (kind, &count) in late {
        let before = early.get(kind).copied().unwrap_or_default();
        assert!(count <= before + 4, "{kind}: {before}, later {count}");
    }
}

#[test]
fn tokens_leave_nothing_behind() {
    let _device = exclusive();
    let seen = at_tokens(&model(TINY), &[1, 2, 3], 24, live);
    assert_steady(&seen[3], &seen[23]);
}

#[test]
fn steps_leave_nothing_behind() {
    let _device = exclusive();
    let seen = at_steps(&model(TINY), 12, live);
    assert_steady(&seen[2], &seen[11]);
}

#[test]
fn a_model_that_is_gone_leaves_nothing_behind() {
    let _device = exclusive();
    let run = || drop(at_tokens(&model(TINY), &[1, 2, 3], 2, || ()));
    // On a thread of its own, whose autorelease pool ends with it.
    let on_thread = || std::thread::scope(|scope| scope.spawn(run).join().unwrap());
    on_thread();
    let buffers = live()["MTLBuffer"];
    on_thread();
    assert_eq!(live()["MTLBuffer"], buffers);
}
