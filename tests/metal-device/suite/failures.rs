//! A device that fails: whatever happens on it arrives as an error of the call that needed it.

use super::{TINY, exclusive, greedy, model, trainer};
use metal_candle::backend::DeviceKind;
use metal_candle::{ErrorKind, Generator, ModelLoader, Result};
use objc2::software::counters::ALLOCATED;
use objc2::software::{counters, settings};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering::Relaxed;

/// Asserts that each command buffer of `work` that fails makes it fail, and gives how many there are.
fn assert_each_failure_arrives(mut work: impl FnMut() -> Result<()>) -> u64 {
    work().unwrap();
    let before = counters().command_buffers;
    work().unwrap();
    let count = counters().command_buffers - before;
    for number in 1..=count {
        let failing = counters().command_buffers + number;
        settings().fail = Some(failing);
        let error = work().expect_err(&format!("command buffer {number} of {count}"));
        assert_eq!(error.kind(), ErrorKind::Backend);
        let message = error.to_string();
        let reason = format!("command buffer {failing} failed");
        assert!(message.contains(&reason), "no `{reason}` in: {message}");
        settings().fail = None;
    }
    work().unwrap();
    count
}

#[test]
fn every_command_buffer_of_a_generation_may_fail() {
    let _device = exclusive();
    let model = model(TINY);
    let mut generator = Generator::new(&model);
    let prompt: Vec<u32> = (0..20).collect();
    let count = assert_each_failure_arrives(|| {
        // The logits of the last prompt are known, and would spare the device a run's prefill.
        generator.truncate(0);
        let on_chunk = |_: &_| ControlFlow::Continue(());
        let generation = generator.generate_from_ids(&prompt, &greedy(3), on_chunk)?;
        assert_eq!(generation.tokens.len(), 3);
        assert_eq!(generation.cached_tokens, 0);
        Ok(())
    });
    assert!(count > 3, "{count} command buffers");
}

#[test]
fn every_command_buffer_of_a_training_run_may_fail() {
    let _device = exclusive();
    let model = model(TINY);
    let count = assert_each_failure_arrives(|| {
        let mut trainer = trainer(&model, 1)?;
        trainer.step()?;
        trainer
            .adapter()
            .unwrap()
            .save(tempfile::tempdir().unwrap().path())
    });
    assert!(count > 3, "{count} command buffers");
}

/// A step that fails can be taken again, and the run is the one that never failed.
#[test]
fn a_step_that_fails_changes_nothing() {
    let _device = exclusive();
    let model = model(TINY);
    let mut undisturbed = trainer(&model, 6).unwrap();
    let expected: Vec<f64> = (0..6).map(|_| undisturbed.step().unwrap().loss).collect();
    let mut trainer = trainer(&model, 6).unwrap();
    for (number, loss) in (1..).zip(expected) {
        settings().fail = Some(counters().command_buffers + number);
        trainer.step().unwrap_err();
        settings().fail = None;
        settings().memory = Some(0);
        assert_eq!(trainer.step().unwrap_err().kind(), ErrorKind::Backend);
        settings().memory = None;
        assert_eq!(trainer.step().unwrap().loss.to_bits(), loss.to_bits());
    }
}

#[test]
fn a_lost_device_is_an_error_ever_after() {
    let _device = exclusive();
    let model = model(TINY);
    let mut generator = Generator::new(&model);
    settings().lost_after = Some(counters().command_buffers + 1);
    for _ in 0..2 {
        let on_chunk = |_: &_| ControlFlow::Continue(());
        let result = generator.generate_from_ids(&[1, 2], &greedy(2), on_chunk);
        let message = result.unwrap_err().to_string();
        assert!(message.contains("the device was lost"), "{message}");
    }
}

#[test]
fn memory_that_is_short_is_an_error_and_not_the_end() {
    let _device = exclusive();
    let load = || {
        ModelLoader::new()
            .with_device(DeviceKind::Metal)
            .load("assets/tiny-coder")
            .map(drop)
    };
    settings().memory = Some(ALLOCATED.load(Relaxed) + (1 << 20));
    let error = load().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert!(error.to_string().contains("Buffer"), "{error}");
    settings().memory = None;
    load().unwrap();
}

#[test]
fn a_device_that_came_back_serves_the_next_model() {
    let _device = exclusive();
    let model_before = model(TINY);
    let generate = |model: &_| {
        let on_chunk = |_: &_| ControlFlow::Continue(());
        Generator::new(model).generate_from_ids(&[1, 2], &greedy(2), on_chunk)
    };
    settings().lost_after = Some(counters().command_buffers);
    generate(&model_before).unwrap_err();
    assert!(
        DeviceKind::Metal
            .open()
            .is_ok_and(|device| device.synchronize().is_ok())
    );
    settings().lost_after = None;
    let tokens = generate(&model(TINY)).unwrap().tokens;
    assert_eq!(generate(&model_before).unwrap().tokens, tokens);
}
