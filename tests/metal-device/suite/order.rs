//! Whatever order commands run in, and whoever else computes, the numbers are the same.

use super::{TINY, exclusive, greedy, model, trainer};
use metal_candle::{Generator, Model};
use objc2::software::{Order, settings};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

fn tokens(model: &Model, seed: u32) -> Vec<u32> {
    let prompt: Vec<u32> = (0..9).map(|place| (seed * 37 + place * 11) % 190).collect();
    Generator::new(model)
        .generate_from_ids(&prompt, &greedy(6), |_| ControlFlow::Continue(()))
        .unwrap()
        .tokens
}

fn losses(model: &Model) -> Vec<u64> {
    let mut trainer = trainer(model, 3).unwrap();
    (0..3)
        .map(|_| trainer.step().unwrap().loss.to_bits())
        .collect()
}

#[test]
fn the_order_of_commands_does_not_matter() {
    let _device = exclusive();
    let model = model(TINY);
    settings().order = Order::Encoded;
    let (expected_tokens, expected_losses) = (tokens(&model, 1), losses(&model));
    settings().order = Order::Reversed;
    for in_flight in [1, 2, 3, 4, 7] {
        settings().in_flight = in_flight;
        assert_eq!(tokens(&model, 1), expected_tokens, "{in_flight} in flight");
        assert_eq!(losses(&model), expected_losses, "{in_flight} in flight");
    }
}

/// Candle orders the commands of one thread only: another one that waits for the device makes it forget
/// what orders those of a step that takes several command buffers.
#[test]
fn threads_do_not_disturb_each_other() {
    let _device = exclusive();
    let (small, large) = (model(TINY), model("assets/tiny-coder"));
    let (expected_tokens, expected_losses) = (tokens(&large, 1), losses(&small));
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_done.load(Relaxed) {
                    assert_eq!(losses(&small), expected_losses);
                    drop(model(TINY));
                }
            });
        }
        let found: Vec<_> = (0..3).map(|_| tokens(&large, 1)).collect();
        is_done.store(true, Relaxed);
        assert!(found.iter().all(|found| *found == expected_tokens));
    });
}
