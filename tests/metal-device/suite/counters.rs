//! What a token and a training step cost on the device, held against `counters.txt`.
//!
//! `METAL_CANDLE_BLESS=1` writes the file anew. A change there is a change of performance: say why in the
//! message of the commit.

use super::{at_steps, at_tokens, exclusive, model};
use metal_candle::Generator;
use objc2::software::{Counters, counters};
use std::fmt::Write;
use std::path::Path;

const TINY_CODER: &str = "assets/tiny-coder";

/// Eight tokens after a prompt of sixteen and four tokens that warm up.
fn tokens() -> Counters {
    let prompt: Vec<u32> = (1000..1016).collect();
    let seen = at_tokens(&model(TINY_CODER), &prompt, 13, counters);
    seen[12] - seen[4]
}

/// A prompt of 64 tokens, and the logits after it, when another one has warmed up.
fn prompt() -> Counters {
    let model = model(TINY_CODER);
    let read = |first: u32| {
        let ids: Vec<u32> = (first..first + 64).collect();
        let before = counters();
        Generator::new(&model).next_logits(&ids).unwrap();
        counters() - before
    };
    read(1000);
    read(2000)
}

/// Two steps of two batches of a row of sixteen tokens, after one that warms up.
fn steps() -> Counters {
    let seen = at_steps(&model(TINY_CODER), 3, counters);
    seen[2] - seen[0]
}

#[test]
fn counts_are_those_of_the_file() {
    let _device = exclusive();
    let mut found = String::new();
    let parts = [
        ("eight decoded tokens of tiny-coder", tokens()),
        ("a prompt of 64 tokens of tiny-coder", prompt()),
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
