//! The numbers that a C program gets, against those of transformers and PEFT in `tests/fixtures`.

use crate::program::Program;
use serde_json::Value;
use std::fs;
use std::path::Path;

const MODELS: &str = "tests/fixtures/models";
const ADAPTER: &str = "tests/fixtures/lora/nonzero_b";

fn expected(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap()
}

fn numbers<T: std::str::FromStr<Err: std::fmt::Debug>>(line: &str) -> Vec<T> {
    let words = line.split_whitespace();
    words.map(|word| word.parse().unwrap()).collect()
}

fn values(array: &Value) -> Vec<f64> {
    let array = array.as_array().unwrap().iter();
    array.map(|value| value.as_f64().unwrap()).collect()
}

fn assert_close(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0_f64, |most, x| most.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        let off = (found - expected).abs();
        assert!(off <= 1e-4 * largest, "{what}: {found}, not {expected}");
    }
}

/// Runs the program, holds the tokens of all ways against the reference, and gives the logits.
fn run(program: &Program, model: &Path, adapter: &str, ids: &Value, greedy: &Value) -> Vec<f64> {
    let greedy = values(greedy);
    let mut arguments = vec![model.to_str().unwrap().to_owned(), adapter.to_owned()];
    arguments.push(greedy.len().to_string());
    arguments.extend(ids.as_array().unwrap().iter().map(Value::to_string));
    let printed = program.run(&arguments);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 4);
    for line in &lines[1..] {
        assert_eq!(numbers::<f64>(line), greedy, "{}", model.display());
    }
    numbers(lines[0])
}

#[test]
fn models_agree() {
    let program = Program::build("tests/c/parity.c");
    let mut count = 0;
    for entry in fs::read_dir(MODELS).unwrap() {
        let folder = entry.unwrap().path();
        let reference = expected(&folder);
        for sequence in reference["sequences"].as_array().unwrap() {
            let (ids, greedy) = (&sequence["input_ids"], &sequence["greedy_ids"]);
            let logits = run(&program, &folder, "-", ids, greedy);
            let what = folder.to_string_lossy();
            assert_close(&what, &logits, &values(&sequence["last3_logits"][2]));
            count += 1;
        }
    }
    assert!(count > 12, "only {count} sequences");
}

#[test]
fn an_adapter_agrees() {
    let program = Program::build("tests/c/parity.c");
    let reference = expected(Path::new(ADAPTER));
    for prompt in reference["prompts"].as_array().unwrap() {
        let (ids, greedy) = (&prompt["input_ids"], &prompt["merged_greedy16"]);
        let logits = run(&program, Path::new(crate::MODEL), ADAPTER, ids, greedy);
        let expected = &prompt["adapter_logits"];
        let top = values(&expected["top20_ids"]).into_iter();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "ids"
        )]
        let found: Vec<_> = top.map(|id| logits[id as usize]).collect();
        assert_close("nonzero_b", &found, &values(&expected["top20_values"]));
    }
}
