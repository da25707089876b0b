//! The text-to-SQL data set: remade from its seed, split cleanly, readable.

#![cfg(feature = "training")]

mod common;

#[path = "../assets/sql/generate.rs"]
#[allow(dead_code, reason = "its main is for the example")]
mod generate;

use common::{TINY_CODER, load_f32};
use generate::{SEED, splits};
use metal_candle::{Dataset, DatasetOptions};
use std::collections::HashSet;
use std::path::Path;

const FILES: [(&str, usize); 3] = [("train", 1000), ("valid", 100), ("test", 100)];

fn path(name: &str) -> String {
    format!("assets/sql/{name}.jsonl")
}

fn prompts(name: &str) -> HashSet<String> {
    let text = std::fs::read_to_string(path(name)).unwrap();
    text.lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            row["prompt"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn the_committed_files_are_those_of_the_seed() {
    let made = splits(SEED);
    for (name, made) in [
        ("train", made.train),
        ("valid", made.valid),
        ("test", made.test),
    ] {
        // Not assert_eq, which would print both files.
        assert!(
            std::fs::read_to_string(path(name)).unwrap() == made,
            "{name}.jsonl differs; run the example generate_sql"
        );
    }
    assert!(splits(SEED + 1).train != std::fs::read_to_string(path("train")).unwrap());
}

#[test]
fn no_prompt_comes_twice() {
    let mut seen = HashSet::new();
    for (name, count) in FILES {
        let prompts = prompts(name);
        assert_eq!(prompts.len(), count, "{name}");
        assert!(seen.is_disjoint(&prompts), "{name}");
        seen.extend(prompts);
    }
}

#[test]
fn all_files_are_data_sets() {
    let model = load_f32(TINY_CODER);
    let tokenizer = model.tokenizer().unwrap();
    for (name, count) in FILES {
        let options = DatasetOptions::default();
        let rows = Dataset::from_jsonl(Path::new(&path(name)), &model, &options).unwrap();
        assert_eq!((rows.len(), rows.truncated()), (count, 0), "{name}");
        for row in rows.rows() {
            let row = row.unwrap();
            let sample = row.samples().next().unwrap();
            let scored = &sample.input_ids[sample.scored[0].clone()];
            let (last, completion) = scored.split_last().unwrap();
            assert!(model.eos_token_ids().contains(last));
            let text = tokenizer.decode(completion, false).unwrap();
            assert!(text.starts_with(" SELECT "), "{text}");
        }
    }
}

#[test]
fn the_quickstart_asks_a_row_that_training_does_not_see() {
    let rows = std::fs::read_to_string("assets/sql/test.jsonl").unwrap();
    let source = std::fs::read_to_string("examples-c/quickstart.c").unwrap();
    let found = rows.lines().any(|row| {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        let prompt = row["prompt"].as_str().unwrap();
        // The question stands in the source as several string literals.
        let last = prompt.rsplit("\nQ: ").next().unwrap().replace('\n', "\\n");
        source.contains(&last) && source.contains(row["completion"].as_str().unwrap())
    });
    assert!(
        found,
        "no row of test.jsonl is the question of quickstart.c"
    );
}
