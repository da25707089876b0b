//! Nothing that the device made stays behind, per token or per step.

use super::{TINY, exclusive, greedy, model, trainer};
use metal_candle::{Generator, TrainEvent};
use objc2::software::live;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

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
    let model = model(TINY);
    let mut seen = vec![];
    Generator::new(&model)
        .generate_from_ids(&[1, 2, 3], &greedy(24), |_| {
            seen.push(live());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_steady(&seen[3], &seen[23]);
}

#[test]
fn steps_leave_nothing_behind() {
    let _device = exclusive();
    let model = model(TINY);
    let mut seen = vec![];
    trainer(&model, 12)
        .unwrap()
        .train(|event| {
            if matches!(event, TrainEvent::Step(_)) {
                seen.push(live());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_steady(&seen[2], &seen[11]);
}

#[test]
fn a_model_that_is_gone_leaves_nothing_behind() {
    let _device = exclusive();
    let run = || {
        let model = model(TINY);
        Generator::new(&model)
            .generate_from_ids(&[1, 2, 3], &greedy(2), |_| ControlFlow::Continue(()))
            .unwrap();
    };
    // On a thread of its own, whose autorelease pool ends with it.
    let on_thread = || std::thread::scope(|scope| scope.spawn(run).join().unwrap());
    on_thread();
    let buffers = live()["MTLBuffer"];
    on_thread();
    assert_eq!(live()["MTLBuffer"], buffers);
}
