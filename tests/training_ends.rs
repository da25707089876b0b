//! How a run can end, and what it leaves.

#![cfg(feature = "training")]

mod common;

use common::rows;
use common::training::{lora, options, reports, run, small, state, trace};
use metal_candle::checkpoint::{best, checkpoint_path, checkpoints, latest};
use metal_candle::training::{Sample, StopReason, TrainSummary};
use metal_candle::{Dataset, Error, LoRATrainer, Result, TrainEvent, TrainOptions};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

/// Texts that begin alike and go on differently.
fn texts(by: u32) -> Dataset {
    let row = |row: u32| {
        let ids = [1, 2, 3].into_iter();
        Sample::new(ids.chain((0..6).map(|i| (row + i * by) % 190)).collect(), 3)
    };
    Dataset::from_samples((0..4).map(row).collect()).unwrap()
}

/// A run that learns what the validation rows contradict.
fn contradicted(output: &Path) -> TrainOptions {
    TrainOptions {
        steps: 60,
        learning_rate: 2e-2,
        eval_every: 2,
        early_stopping_patience: 3,
        output_dir: Some(output.to_owned()),
        ..options(lora())
    }
}

/// Trains while it is told so, and gives all that it was told as JSON.
fn told(
    trainer: &mut LoRATrainer,
    mut goes_on: impl FnMut(&TrainEvent) -> bool,
) -> (Vec<Value>, Result<TrainSummary>) {
    let mut events = vec![];
    let summary = trainer.train(|event| {
        events.push(serde_json::to_value(event).unwrap());
        if goes_on(event) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    (events, summary)
}

fn names(events: &[Value]) -> Vec<&str> {
    let names = events.iter().map(|event| event["event"].as_str().unwrap());
    names.collect()
}

/// Asserts that the log has all that was told, and that there is a curve.
fn assert_written(output: &Path, events: &[Value]) {
    let text = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, events);
    let curve = std::fs::read_to_string(output.join("loss.svg")).unwrap();
    assert!(curve.starts_with("<svg") && curve.trim_end().ends_with("</svg>"));
}

/// Step and validation loss of each evaluation.
fn evaluations(events: &[Value]) -> Vec<(usize, f64)> {
    let of = |event: &&Value| event["event"] == "evaluation";
    let evaluations = events.iter().filter(of);
    evaluations
        .map(|event| {
            let step = usize::try_from(event["step"].as_u64().unwrap()).unwrap();
            (step, event["loss"].as_f64().unwrap())
        })
        .collect()
}

#[test]
fn a_run_that_no_longer_gets_better_stops_and_keeps_its_best() {
    let output = tempfile::tempdir().unwrap();
    let options = TrainOptions {
        save_every: 1,
        keep_checkpoints: 2,
        ..contradicted(output.path())
    };
    let model = small();
    let mut trainer = LoRATrainer::new(&model, texts(7), Some(texts(11)), options).unwrap();
    let (events, summary) = told(&mut trainer, |_| true);
    let summary = summary.unwrap();
    assert_eq!(summary.stop, StopReason::EarlyStopping);
    assert!(!summary.cancelled());
    assert_eq!(names(&events).last(), Some(&"end"));
    assert_written(output.path(), &events);

    // Three evaluations that are not better than the best, which are the last ones.
    let found = evaluations(&events);
    let best_place = (0..found.len()).min_by(|&a, &b| found[a].1.total_cmp(&found[b].1));
    let best_place = best_place.unwrap();
    assert_eq!(found.len() - 1 - best_place, 3, "{found:?}");
    let (best_step, best_loss) = found[best_place];
    assert!(best_step > 0, "{found:?}");
    assert_eq!(summary.steps, best_step + 6);

    let path = checkpoint_path(output.path(), best_step);
    let named = summary.best.unwrap();
    assert_eq!((named.step, named.path.as_ref()), (best_step, Some(&path)));
    let recorded = best(output.path()).unwrap().unwrap();
    assert_eq!((recorded.step, &recorded.path), (best_step, &path));
    assert_eq!(
        [named.loss, recorded.loss].to_vec(),
        [best_loss; 2].to_vec()
    );
    // Beside it there are the two newest ones.
    let kept: Vec<_> = checkpoints(output.path()).unwrap();
    let kept: Vec<_> = kept.into_iter().map(|(step, _)| step).collect();
    assert_eq!(kept, [best_step, best_step + 5, best_step + 6]);
    // It has the weights that were evaluated.
    let options = trainer.options().clone();
    let resumed = LoRATrainer::resume(&model, texts(7), Some(texts(11)), options, &path).unwrap();
    assert_eq!(
        resumed.evaluate().unwrap().map(f64::to_bits),
        Some(best_loss.to_bits())
    );
    assert_eq!(resumed.step_count(), best_step);
}

#[test]
fn only_a_fall_by_the_least_difference_is_one() {
    let run = |early_stopping_min_delta, early_stopping_patience| {
        let output = tempfile::tempdir().unwrap();
        let options = TrainOptions {
            steps: 8,
            early_stopping_min_delta,
            early_stopping_patience,
            ..contradicted(output.path())
        };
        // What is learned is what is evaluated: the loss falls.
        let mut trainer = LoRATrainer::new(&small(), texts(7), Some(texts(7)), options).unwrap();
        let (events, summary) = told(&mut trainer, |_| true);
        assert_written(output.path(), &events);
        let summary = summary.unwrap();
        (summary.stop, summary.steps, summary.best.unwrap())
    };
    let (stop, steps, best) = run(0.0, 1);
    assert_eq!((stop, steps, best.step), (StopReason::Finished, 8, 8));
    let (stop, steps, best) = run(100.0, 1);
    assert_eq!((stop, steps), (StopReason::EarlyStopping, 2));
    assert_eq!((best.step, best.path), (0, None));
    let (stop, steps, _) = run(100.0, 3);
    assert_eq!((stop, steps), (StopReason::EarlyStopping, 6));
    let (stop, steps, _) = run(100.0, 0);
    assert_eq!((stop, steps), (StopReason::Finished, 8));
}

#[test]
fn everything_that_is_told_is_written() {
    let output = tempfile::tempdir().unwrap();
    let options = TrainOptions {
        steps: 4,
        save_every: 2,
        eval_every: 3,
        keep_checkpoints: 1,
        early_stopping_patience: 0,
        ..contradicted(output.path())
    };
    let model = small();
    let new = |directory: &Path| {
        let options = TrainOptions {
            output_dir: Some(directory.to_owned()),
            ..options.clone()
        };
        LoRATrainer::new(&model, texts(7), Some(texts(7)), options).unwrap()
    };
    let mut trainer = new(output.path());
    let (whole, summary) = told(&mut trainer, |_| true);
    assert_eq!(summary.unwrap().stop, StopReason::Finished);
    assert_eq!(
        names(&whole),
        [
            "start",
            "evaluation",
            "step",
            "step",
            "checkpoint",
            "step",
            "evaluation",
            "checkpoint",
            "step",
            "evaluation",
            "checkpoint",
            "end"
        ]
    );
    assert_written(output.path(), &whole);

    // Another run is not mixed with this one, of which nothing is lost.
    let (events, refused) = told(&mut new(output.path()), |_| true);
    assert!(events.is_empty());
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("`output_dir` is the directory of "),
        "{refused}"
    );
    assert_written(output.path(), &whole);

    // A callback that ends it, and a later call that goes on.
    let output = tempfile::tempdir().unwrap();
    let mut trainer = new(output.path());
    let (mut events, summary) = told(
        &mut trainer,
        |event| !matches!(event, TrainEvent::Step(report) if report.step == 3),
    );
    assert!(summary.unwrap().cancelled());
    assert_written(output.path(), &events);
    assert_eq!(names(&events).last(), Some(&"end"));
    assert!(checkpoint_path(output.path(), 3).is_dir());
    let (rest, summary) = told(&mut trainer, |_| true);
    assert_eq!(summary.unwrap().stop, StopReason::Finished);
    events.extend(rest);
    assert_written(output.path(), &events);
}

#[test]
fn a_cancel_ends_the_step_that_it_meets() {
    // Long steps of many short batches.
    let of_steps = |steps| TrainOptions {
        steps,
        batch_size: 2,
        gradient_accumulation: 40,
        ..options(lora())
    };
    let model = small();
    let expected = reports(&model, &rows(40), &of_steps(3));

    let output = tempfile::tempdir().unwrap();
    let options = TrainOptions {
        output_dir: Some(output.path().to_owned()),
        ..of_steps(3)
    };
    let mut trainer = LoRATrainer::new(&model, rows(40), Some(rows(2)), options.clone()).unwrap();
    let handle = trainer.cancel_handle();
    let mut threads = vec![];
    let (events, summary) = told(&mut trainer, |event| {
        if matches!(event, TrainEvent::Step(report) if report.step == 1) {
            let handle = handle.clone();
            // Within the second step, whose 80 rows take many times as long.
            threads.push(std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(10));
                handle.cancel();
            }));
        }
        true
    });
    for thread in threads {
        thread.join().unwrap();
    }
    let summary = summary.unwrap();
    assert_eq!((summary.stop, summary.steps), (StopReason::Cancelled, 1));
    assert_eq!(trainer.step_count(), 1);
    assert_eq!(names(&events), ["start", "step", "checkpoint", "end"]);
    assert_written(output.path(), &events);
    // What was asked of the run is not asked of what comes after it.
    assert!(trainer.evaluate().unwrap().is_some());

    let checkpoint = latest(output.path()).unwrap().unwrap();
    let resumed = LoRATrainer::resume(&model, rows(40), None, options, &checkpoint);
    let mut resumed = resumed.unwrap();
    assert_eq!(trace(&run(&mut resumed)), trace(&expected[1..]));
    assert_eq!(trace(&run(&mut trainer)), trace(&expected[1..]));
    assert!(state(&resumed) == state(&trainer));
}

#[test]
fn a_run_that_diverges_names_rows_and_checkpoint() {
    let output = tempfile::tempdir().unwrap();
    let options = TrainOptions {
        steps: 20,
        batch_size: 2,
        gradient_accumulation: 2,
        learning_rate: 1e30,
        save_every: 1,
        output_dir: Some(output.path().to_owned()),
        ..options(lora())
    };
    let model = small();
    let mut trainer = LoRATrainer::new(&model, rows(9), None, options.clone()).unwrap();
    let (events, error) = told(&mut trainer, |_| true);
    let error = error.unwrap_err();
    let message = error.to_string();
    let Error::NonFinite {
        step,
        rows: named,
        checkpoint,
        ..
    } = error
    else {
        panic!("{message}")
    };
    assert!(step > 0 && step == trainer.step_count());
    assert_eq!(named.len(), 4);
    assert!(
        named.iter().all(|row| row.starts_with("<samples>:")),
        "{named:?}"
    );
    assert_eq!(checkpoint, Some(checkpoint_path(output.path(), step)));
    assert!(
        message.contains(checkpoint.as_ref().unwrap().to_str().unwrap()),
        "{message}"
    );
    assert!(message.contains("learning rate"), "{message}");
    // The log ends where the run did, and so does the curve.
    assert_eq!(names(&events).last(), Some(&"checkpoint"));
    assert_written(output.path(), &events);
    let path = checkpoint.unwrap();
    let resumed = LoRATrainer::resume(&model, rows(9), None, options, &path).unwrap();
    assert!(state(&resumed) == state(&trainer));
}
