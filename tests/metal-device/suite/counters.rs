//! What a token and a training step cost on the device, held against `counters.txt`.
//!
//! `METAL_CANDLE_BLESS=1` writes the file anew. A change there is a change of performance: say why in the
//! message of the commit.

use super::{exclusive, greedy, model, trainer};
use metal_candle::{Generator, TrainEvent};
use objc2::software::{Counters, counters};
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::Path;

const TINY_CODER: &str = "assets/tiny-coder";

/// Eight tokens after a prompt of sixteen and four tokens that warm up.
fn tokens() -> Counters {
    let model = model(TINY_CODER);
    let prompt: Vec<u32> = (1000..1016).collect();
    let mut seen = vec![];
    Generator::new(&model)
        .generate_from_ids(&prompt, &greedy(13), |_| {
            seen.push(counters());
            ControlFlow::Continue(())
        })
        .unwrap();
    seen[12] - seen[4]
}

/// Two steps of two batches of a row of sixteen tokens, after one that warms up.
fn steps() -> Counters {
    let model = model(TINY_CODER);
    let mut seen = vec![];
    trainer(&model, 3)
        .unwrap()
        .train(|event| {
            if matches!(event, TrainEvent::Step(_)) {
                seen.push(counters());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    seen[2] - seen[0]
}

#[test]
fn counts_are_those_of_the_file() {
    let _device = exclusive();
    let mut found = String::new();
    let parts = [
        ("eight decoded tokens of tiny-coder", tokens()),
        (
            "two training steps of tiny-coder, 2 batches of 16 tokens",
            steps(),
        ),
    ];
    for (title, counters) in parts {
        writeln!(found, "# {title}").unwrap();
        for (name, count) in counters.rows() {
            writeln!(found, "{name} {count}").unwrap();
        }
    }
    let path = Path::new("tests/metal-device/counters.txt");
    if std::env::var_os("METAL_CANDLE_BLESS").is_some() {
        std::fs::write(path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap();
    assert_eq!(found, expected, "see the top of {}", file!());
}
