//! Runs whose process is killed at any moment go on as if nothing had happened, and a disk that is full
//! costs nothing that was saved before.
//!
//! The tests start this program again: the tests named `child_...` do nothing unless an environment
//! variable says which directory to work in.
#![cfg(feature = "training")]
#![cfg(unix)]

mod common;

use common::{fixture, load_f32, rows};
use metal_candle::checkpoint::{Checkpoint, checkpoint_path, checkpoints, latest};
use metal_candle::training::{LrSchedule, MetricPoint, MetricsLog, read_metrics};
use metal_candle::{Error, LoRAConfig, LoRATrainer, Model, TrainEvent, TrainOptions};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const STEPS: usize = 24;
const KILLS: usize = 20;
/// The directory that a child works in.
const DIRECTORY: &str = "METAL_CANDLE_CRASH_DIRECTORY";

fn options(output: &Path) -> TrainOptions {
    TrainOptions {
        method: LoRAConfig {
            rank: 2,
            dropout: 0.1,
            ..LoRAConfig::default()
        }
        .into(),
        steps: STEPS,
        batch_size: 2,
        learning_rate: 5e-3,
        schedule: LrSchedule::Cosine,
        warmup_steps: 2,
        eval_every: 0,
        save_every: 1,
        keep_checkpoints: 2,
        output_dir: Some(output.to_owned()),
        ..TrainOptions::default()
    }
}

fn model() -> Model {
    load_f32(fixture("models/qwen2_tied"))
}

fn trainer(model: &Model, output: &Path) -> LoRATrainer {
    match latest(output).unwrap() {
        Some(path) => LoRATrainer::resume(model, rows(5), None, options(output), &path),
        None => LoRATrainer::new(model, rows(5), None, options(output)),
    }
    .unwrap()
}

/// The directory that this process is to work in, if it is a child.
fn directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

/// A command that runs one of this file's tests in `directory`; what it prints is kept there.
fn start(command: &mut Command, test: &str, directory: &Path) -> Child {
    let log = File::create(directory.join(format!("{test}.log"))).unwrap();
    command
        .args(["--exact", test, "--nocapture"])
        .env(DIRECTORY, directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn this_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn assert_success(status: ExitStatus, test: &str, directory: &Path) {
    let log = fs::read_to_string(directory.join(format!("{test}.log"))).unwrap();
    assert!(status.success(), "{status}: {log}");
}

/// Trains, or goes on, and writes down each step before the checkpoint that holds it.
#[test]
fn child_trains() {
    let Some(directory) = directory() else {
        return;
    };
    let output = directory.join("output");
    let model = model();
    let mut trainer = trainer(&model, &output);
    let mut trace = OpenOptions::new();
    let trace = trace.append(true).create(true);
    let mut trace = trace.open(directory.join("trace")).unwrap();
    let train = trainer.train(|event| {
        if let TrainEvent::Step(report) = event {
            let line = format!("{} {}\n", report.step, report.loss.to_bits());
            trace.write_all(line.as_bytes()).unwrap();
        }
        ControlFlow::Continue(())
    });
    assert!(!train.unwrap().cancelled());
}

/// The directories of saves that are not finished.
fn partial(output: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(output).into_iter().flatten().flatten();
    let is_partial = |name: &str| name.starts_with(".checkpoint") && name.contains(".partial");
    entries
        .filter(|entry| is_partial(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect()
}

/// Waits for a save to begin, or for the end of the child.
fn wait_for_save(child: &mut Child, output: &Path) {
    while partial(output).is_empty() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// All that is named as a checkpoint is one, and can be loaded.
fn check_checkpoints(output: &Path, model: &Model) {
    let named = fs::read_dir(output).into_iter().flatten().flatten();
    let named = named.filter(|entry| {
        entry
            .file_name()
            .to_string_lossy()
            .starts_with("checkpoint")
    });
    let checkpoints = checkpoints(output).unwrap();
    assert_eq!(named.count(), checkpoints.len());
    for (step, path) in checkpoints {
        assert_eq!(Checkpoint::load(&path, model).unwrap().step(), step);
    }
}

/// Steps and the bits of their losses. A step that was done twice must have had one loss.
fn losses(trace: &Path) -> Vec<(usize, u64)> {
    let text = fs::read_to_string(trace).unwrap_or_default();
    let mut losses = std::collections::BTreeMap::new();
    for line in text.lines() {
        let (step, bits) = line.split_once(' ').unwrap();
        let (step, bits) = (step.parse().unwrap(), bits.parse().unwrap());
        let before = losses.insert(step, bits);
        assert!(before.is_none_or(|before| before == bits), "step {step}");
    }
    losses.into_iter().collect()
}

#[test]
fn a_run_that_is_killed_again_and_again_is_the_same_run() {
    let started = Instant::now();
    let model = model();
    let whole = tempfile::tempdir().unwrap();
    let mut expected = vec![];
    let mut uninterrupted = trainer(&model, whole.path());
    let train = uninterrupted.train(|event| {
        if let TrainEvent::Step(report) = event {
            expected.push((report.step, report.loss.to_bits()));
        }
        ControlFlow::Continue(())
    });
    assert_eq!(train.unwrap().steps, STEPS);

    let root = tempfile::tempdir().unwrap();
    let output = root.path().join("output");
    let mut rng = StdRng::seed_from_u64(7);
    let (mut kills, mut in_saves) = (0, 0);
    let mut done = false;
    while !done {
        // What an earlier process left is no sign of a save of the next one.
        for left in partial(&output) {
            fs::remove_dir_all(left).unwrap();
        }
        let mut child = start(
            &mut Command::new(this_program()),
            "child_trains",
            root.path(),
        );
        if kills < KILLS {
            // Two of three kills fall into a save or shortly after it, the others anywhere.
            if rng.random_range(0..3) < 2 {
                wait_for_save(&mut child, &output);
                let wait = rng.random_range(0..4000);
                std::thread::sleep(Duration::from_micros(wait));
            } else {
                std::thread::sleep(Duration::from_millis(rng.random_range(0..400)));
            }
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        if status.signal() == Some(9) {
            kills += 1;
            in_saves += usize::from(!partial(&output).is_empty());
        } else {
            assert_success(status, "child_trains", root.path());
            // Too soon: the run begins again, and kills are counted on.
            done = kills == KILLS;
            if !done {
                fs::remove_dir_all(&output).unwrap();
                fs::remove_file(root.path().join("trace")).unwrap();
            }
        }
        check_checkpoints(&output, &model);
        losses(&root.path().join("trace"));
    }
    println!(
        "{in_saves} of {kills} kills in saves, {:?}",
        started.elapsed()
    );
    assert!(in_saves >= 3, "{in_saves}");

    assert_eq!(losses(&root.path().join("trace")), expected);
    let metrics = read_metrics(&output.join("metrics.jsonl")).unwrap();
    let metrics: Vec<_> = metrics
        .iter()
        .map(|point| match point {
            MetricPoint::Step { step, loss, .. } => (*step, loss.to_bits()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(metrics, expected, "each step once");
    let weights = |directory: &Path| fs::read(directory.join("adapter_model.safetensors")).unwrap();
    assert!(weights(&output) == weights(whole.path()));
    let kept = [STEPS - 2, STEPS - 1].map(|step| (step, checkpoint_path(&output, step)));
    assert_eq!(checkpoints(&output).unwrap(), kept);
}

/// Saves to one place until it is killed.
#[test]
fn child_saves() {
    let Some(directory) = directory() else {
        return;
    };
    let mut trainer = trainer(&model(), &directory.join("output"));
    loop {
        trainer.step().unwrap();
        trainer.save_checkpoint(&directory.join("rolling")).unwrap();
    }
}

/// Where the system can let directories change places, as Linux can.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn a_checkpoint_that_is_replaced_is_whole_at_every_moment() {
    let model = model();
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("rolling");
    let mut rng = StdRng::seed_from_u64(8);
    for _ in 0..8 {
        let mut child = start(
            &mut Command::new(this_program()),
            "child_saves",
            root.path(),
        );
        while !path.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(rng.random_range(0..200_000)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{status}");
        assert!(Checkpoint::load(&path, &model).unwrap().step() > 0);
    }
}

/// Saves checkpoints until there is no room, and finds all but the last.
#[test]
fn child_fills_the_disk() {
    let Some(directory) = directory() else {
        return;
    };
    let output = directory.join("disk");
    let limited = std::env::var_os("METAL_CANDLE_CRASH_LIMIT").is_some();
    let model = model();
    let mut trainer = trainer(&model, &output);
    let mut log = MetricsLog::open(&output, 0).unwrap();
    let all = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    let limit = |bytes| setrlimit(Resource::RLIMIT_FSIZE, bytes, all.1).unwrap();
    let mut saved = vec![];
    let error = loop {
        if limited && saved.len() == 2 {
            limit(4096);
        }
        let report = trainer.step().unwrap();
        let path = checkpoint_path(&output, report.step);
        match trainer.save_checkpoint(&path) {
            Ok(()) => saved.push((report.step, path)),
            Err(error) => break error,
        }
        assert!(saved.len() < 1000, "no end of room");
    };
    let failed = checkpoint_path(Path::new(""), saved.len() + 1);
    assert_error!(
        error,
        Error::Io { .. },
        [output.to_str().unwrap(), failed.to_str().unwrap(),]
    );
    assert!(!saved.is_empty());
    assert_eq!(checkpoints(&output).unwrap(), saved);
    for (step, path) in &saved {
        assert_eq!(Checkpoint::load(path, &model).unwrap().step(), *step);
    }
    // Besides the metrics.
    assert_eq!(fs::read_dir(&output).unwrap().count(), saved.len() + 1);

    // A line that found no room, or room for half of it, leaves none.
    let event = TrainEvent::Step(trainer.step().unwrap());
    let mut lines = 0;
    let error = loop {
        match log.append(&event) {
            Ok(()) => lines += 1,
            Err(error) => break error,
        }
    };
    assert_error!(error, Error::Io { .. }, ["metrics.jsonl"]);
    assert_eq!(read_metrics(log.path()).unwrap().len(), lines);
    limit(all.0);
    for (_, path) in &saved {
        fs::remove_dir_all(path).unwrap();
    }
    log.append(&event).unwrap();
    assert_eq!(read_metrics(log.path()).unwrap().len(), lines + 1);
    trainer.save_checkpoint(&saved[0].1).unwrap();
    fs::write(directory.join("filled"), "").unwrap();
}

/// On a small file system of its own where this user may have one, and with a limit on the size of
/// files, which every user may set.
#[test]
fn a_full_disk_costs_nothing_that_was_saved() {
    // A signal that is ignored here is ignored by the program that is executed, too.
    let ways = [
        (
            "limit",
            "trap '' XFSZ; METAL_CANDLE_CRASH_LIMIT=1 exec \"$@\"",
        ),
        (
            "tmpfs",
            "exec unshare -rm sh -c 'mount -t tmpfs -o size=512k none \"$0\"/disk && exec \"$@\"' \
             \"$METAL_CANDLE_CRASH_DIRECTORY\" \"$@\"",
        ),
    ];
    let mut worked = vec![];
    for (way, script) in ways {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("disk")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(this_program());
        let mut child = start(&mut command, "child_fills_the_disk", root.path());
        let status = child.wait().unwrap();
        let log = fs::read_to_string(root.path().join("child_fills_the_disk.log")).unwrap();
        if root.path().join("filled").exists() {
            assert_success(status, "child_fills_the_disk", root.path());
            worked.push(way);
        } else {
            let refused = ["unshare:", "mount:"].iter().any(|word| log.contains(word))
                || log.contains("not found");
            assert!(refused && way == "tmpfs", "{way}: {status}: {log}");
            println!("{way} is not to be had: {}", log.trim());
        }
    }
    println!("a full disk by {}", worked.join(" and "));
    assert!(worked.contains(&"limit"), "{worked:?}");
}
