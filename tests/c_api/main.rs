//! The C API, used by C programs: those of `tests/c`, and the examples of `examples-c`.
//!
//! `tests/valgrind.sh` runs some of these tests under a memory checker.

#![cfg(feature = "training")]

mod coverage;
mod inputs;
mod parity;
mod program;
mod standards;
mod terminal;

use metal_candle::backend::DeviceKind;
use metal_candle::{GenerateOptions, Generator, ModelLoader};
use program::{Program, assert_success};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Stdio;

const MODEL: &str = "assets/tiny-coder";
const PROMPT: &str = "fn main() {\n    let x = ";

fn is_light() -> bool {
    std::env::var_os("MCANDLE_TEST_LIGHT").is_some()
}

/// The greedy tokens that Rust gives for the prompt, one a line, as the C programs print them.
fn greedy_lines(max_tokens: usize) -> String {
    // The device and dtype that the C programs get without asking for any.
    let model = ModelLoader::new()
        .with_device(DeviceKind::Auto)
        .load(MODEL)
        .unwrap();
    let options = GenerateOptions {
        max_tokens,
        ..GenerateOptions::default()
    };
    let generation = Generator::new(&model)
        .generate(PROMPT, &options, |_| ControlFlow::Continue(()))
        .unwrap();
    let lines = generation.tokens.iter().map(|id| format!("{id}\n"));
    lines.collect()
}

#[test]
fn errors() {
    let folder = inputs::broken();
    Program::build("tests/c/errors.c").run(&[folder.path()]);
}

#[test]
fn nulls() {
    let folder = inputs::broken();
    Program::build("tests/c/nulls.c").run(&[folder.path()]);
}

#[test]
fn misuse() {
    let folder = inputs::broken();
    Program::build("tests/c/misuse.c").run(&[folder.path()]);
}

#[test]
fn generate() {
    let count = if is_light() { 4 } else { 16 };
    let printed = Program::build("tests/c/generate.c").run(&[PROMPT, &count.to_string()]);
    assert_eq!(printed, greedy_lines(count));
}

#[test]
fn sampling() {
    let folder = tempfile::tempdir().unwrap();
    let session = folder.path().join("main.session");
    Program::build("tests/c/sampling.c").run(&[Path::new(PROMPT), &session]);
}

#[test]
fn batch() {
    Program::build("tests/c/batch.c").run(&[PROMPT]);
}

#[test]
fn chat() {
    let folder = inputs::broken();
    Program::build("tests/c/chat.c").run(&[folder.path()]);
}

#[test]
fn dataset() {
    let data = inputs::data();
    Program::build("tests/c/dataset.c").run(&[data.path()]);
}

#[test]
fn adapters() {
    let folder = tempfile::tempdir().unwrap();
    Program::build("tests/c/adapters.c").run(&[folder.path()]);
}

#[test]
fn formats() {
    Program::build("tests/c/formats.c").run::<&str>(&[]);
}

#[test]
fn train() {
    let data = inputs::data();
    let rows = data.path().join("train.jsonl");
    let printed = Program::build("tests/c/train.c").run(&[rows, data.path().join("out")]);
    let events: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<_> = events
        .iter()
        .map(|e| e["event"].as_str().unwrap())
        .collect();
    let (evaluation, step) = ("evaluation", "step");
    let expected = [
        "start", evaluation, step, step, evaluation, step, evaluation, "end",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(events[0]["rows"], 2);
    assert_eq!(events[3]["step"], 2);
    assert_eq!(events[7]["validation_loss"], events[6]["loss"]);
}

#[test]
fn nulls_training() {
    let data = inputs::data();
    Program::build("tests/c/nulls_training.c").run(&[data.path().join("train.jsonl")]);
}

#[test]
fn misuse_training() {
    let data = inputs::data();
    Program::build("tests/c/misuse_training.c").run(&[data.path().join("train.jsonl")]);
}

#[test]
fn callbacks() {
    let data = inputs::data();
    Program::build("tests/c/callbacks.c").run(&[data.path().join("train.jsonl")]);
}

/// Without a sanitizer this finds deadlocks and wrong tokens; `tests/sanitizers.sh` finds races.
#[test]
fn threads() {
    let data = inputs::data();
    let rows = data.path().join("train.jsonl");
    let rounds = if is_light() { "2" } else { "5" };
    Program::build("tests/c/threads.c").run(&[rows.as_path(), Path::new(rounds)]);
}

#[test]
fn memory() {
    let data = inputs::data();
    Program::build("tests/c/memory.c").run(&[data.path().join("train.jsonl")]);
}

#[test]
fn train_options() {
    Program::build("tests/c/train_options.c").run::<&str>(&[]);
}

#[test]
fn finetuning() {
    let data = inputs::data();
    Program::build("tests/c/finetuning.c").run(&[data.path(), &data.path().join("out")]);
}

#[test]
fn runtime() {
    Program::build("tests/c/runtime.c").run::<&str>(&[]);
}

#[test]
fn asynchronous() {
    let data = inputs::data();
    Program::build("tests/c/async.c").run(&[data.path().join("train.jsonl")]);
}

#[test]
fn complete() {
    let program = Program::build("examples-c/complete.c");
    let count = if is_light() { 4 } else { 8 };
    let max_tokens = count.to_string();
    let arguments = ["--model", MODEL, "--max-tokens", &max_tokens, PROMPT];
    let ids = program.run(&[&arguments[..], &["--ids"]].concat());
    assert_eq!(ids, greedy_lines(count));
    if is_light() {
        return;
    }
    assert!(!program.run(&arguments).is_empty());
    assert!(program.run(&["--help"]).starts_with("Usage: complete"));
    for mistake in [&["--colour", "red", "x"][..], &["--seed"], &[]] {
        let output = program.command().args(mistake).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{mistake:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--help"));
    }
}

/// What a device fails at reaches the C program as an error.
#[cfg(all(feature = "metal", not(target_vendor = "apple")))]
#[test]
fn metal_by_name_and_lost() {
    let program = Program::build("examples-c/complete.c");
    let arguments = [
        "--model",
        MODEL,
        "--device",
        "metal",
        "--max-tokens",
        "4",
        "--ids",
        PROMPT,
    ];
    assert_eq!(program.run(&arguments), greedy_lines(4));
    for (variable, value, reason) in [
        ("METAL_DEVICE_LOST_AFTER", "4", "the device was lost"),
        ("METAL_DEVICE_FAIL", "5", "command buffer 5 failed"),
        ("METAL_DEVICE_MEMORY", "1000000", "Buffer"),
    ] {
        let mut command = program.command();
        let output = command
            .env(variable, value)
            .args(arguments)
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{variable}: {message}");
        assert!(message.contains(reason), "{variable}: {message}");
    }
}

/// The arguments of a run on a data folder, whose adapter goes to `name` in it.
fn finetune_arguments(data: &Path, name: &str, steps: usize, more: &[&str]) -> Vec<String> {
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let steps = steps.to_string();
    let settings = ["--model", MODEL, "--batch-size", "1", "--steps", &steps];
    let mut arguments = vec![path(data), path(&data.join(name))];
    arguments.extend(settings.iter().chain(more).map(ToString::to_string));
    arguments
}

/// The losses that finetune printed, by step: `step 1/3  loss 2.5  ...`.
fn losses<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<usize, String> {
    lines
        .filter_map(|line| {
            let (step, rest) = line.strip_prefix("step ")?.split_once('/')?;
            let loss = rest.split_whitespace().nth(2)?;
            Some((step.parse().unwrap(), loss.to_owned()))
        })
        .collect()
}

#[test]
fn finetune() {
    let program = Program::build("examples-c/finetune.c");
    let data = inputs::data();
    if is_light() {
        program.run(&finetune_arguments(data.path(), "out", 1, &[]));
        return;
    }
    assert!(program.run(&["--help"]).starts_with("Usage: finetune"));
    // Without evaluations, none of which is the best, there is no checkpoint of the last step.
    let saving = ["--save-every", "2", "--eval-every", "0"];
    let arguments = finetune_arguments(data.path(), "out", 3, &saving);
    let first = losses(program.run(&arguments).lines());
    assert_eq!(first.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert!(data.path().join("out/adapter_model.safetensors").exists());
    let resumed = program.run(&[&arguments[..], &["--resume".to_owned()]].concat());
    assert!(resumed.starts_with("resuming from "), "{resumed}");
    let resumed = losses(resumed.lines());
    assert_eq!(resumed, BTreeMap::from([(3, first[&3].clone())]));

    let early = ["--epochs", "1", "--eval-every", "1", "--patience", "9"];
    let early = program.run(&finetune_arguments(data.path(), "early", 99, &early));
    assert!(early.starts_with("lora: "), "{early}");
    assert_eq!(losses(early.lines()).len(), 2);
    for part in [
        "  epoch 1.00  ",
        "(best)",
        "best checkpoint, with",
        " s left",
    ] {
        assert!(early.contains(part), "{part} is not in {early}");
    }
}

/// A run that is killed and resumed ends as the one that is not.
#[cfg(unix)]
#[test]
fn finetune_survives_a_kill() {
    const STEPS: usize = 10;
    let program = Program::build("examples-c/finetune.c");
    let data = inputs::data();
    let whole = finetune_arguments(data.path(), "whole", STEPS, &[]);
    let expected = losses(program.run(&whole).lines());
    assert_eq!(expected.len(), STEPS);

    let mut arguments = finetune_arguments(data.path(), "killed", STEPS, &["--save-every", "1"]);
    let mut child = program
        .command()
        .args(&arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.ends_with("checkpoint-000002") {
            child.kill().unwrap();
        }
        lines.push(line);
    }
    assert!(!child.wait().unwrap().success());
    let killed = losses(lines.iter().map(String::as_str));
    assert!(killed.len() < STEPS, "the run ended before it was killed");

    arguments.push("--resume".to_owned());
    let resumed = losses(program.run(&arguments).lines());
    assert!(resumed.len() < STEPS && resumed.contains_key(&STEPS));
    for (step, loss) in killed.iter().chain(&resumed) {
        assert_eq!(loss, &expected[step], "step {step}");
    }
    let adapter =
        |name: &str| fs::read(data.path().join(name).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("killed") == adapter("whole"));
}

/// A debug build is too slow to teach the model SQL; then only the last check may fail.
#[test]
fn quickstart() {
    let program = Program::build("examples-c/quickstart.c");
    let mut command = program.command();
    let data = inputs::data();
    let output_dir = data.path().join("out");
    if cfg!(debug_assertions) {
        command.arg(MODEL).arg(data.path()).arg(output_dir).arg("2");
        let output = command.output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        let expected = "quickstart: the answer after training is not SQL\n";
        assert!(output.status.success() || message == expected, "{message}");
    } else {
        command.args([MODEL, "assets/sql"]).arg(output_dir);
        assert_success("quickstart", &command.output().unwrap());
    }
}

#[test]
fn every_function_is_used_by_a_c_test() {
    let header = fs::read_to_string("include/metal_candle.h").unwrap();
    let tests: String = fs::read_dir("tests/c")
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let code = header.lines().filter(|line| !line.starts_with(" *"));
    let mut count = 0;
    for line in code {
        let Some((before, _)) = line.split_once('(') else {
            continue;
        };
        let name = before.trim_start_matches(|c| c != ' ').trim();
        let name = name.rsplit([' ', '*']).next().unwrap();
        if name.starts_with("mcandle_") {
            count += 1;
            assert!(tests.contains(&format!("{name}(")), "{name}");
        }
    }
    assert!(count > 80, "only {count} functions found in the header");
}
