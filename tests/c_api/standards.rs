//! The C programs, in every standard of C and of C++ and by every compiler that is here. Programs of C
//! are C++ too, because a header that only half of C++ can read is found by neither alone.

use crate::program::{assert_success, compiler};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Compilers by the variable that names another one, and the standards that each of them knows.
const COMPILERS: &[(&str, &str, &str, &[&str])] = &[
    ("CC", "gcc", "c", &["c99", "c11", "c17", "c2x"]),
    ("CLANG", "clang", "c", &["c99", "c11", "c17", "c2x"]),
    ("CXX", "g++", "c++", &["c++11", "c++17", "c++20"]),
    ("CLANGXX", "clang++", "c++", &["c++11", "c++17", "c++20"]),
];

fn programs() -> Vec<PathBuf> {
    let files = ["tests/c", "examples-c"].map(|folder| fs::read_dir(folder).unwrap());
    let paths = files
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path());
    let mut programs: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    programs.sort();
    programs
}

/// The name under which a compiler is here: Debian's clang has its version behind it.
fn found(variable: &str, name: &str) -> Option<String> {
    let chosen = std::env::var(variable).ok();
    let newest = (16..30).rev().map(|version| format!("{name}-{version}"));
    let mut candidates = chosen.into_iter().chain([name.to_owned()]).chain(newest);
    candidates.find(|candidate| Command::new(candidate).arg("--version").output().is_ok())
}

#[test]
fn programs_compile_in_every_standard() {
    let programs = programs();
    assert!(programs.len() > 15, "only {} found", programs.len());
    let mut compiled = 0;
    for (variable, name, language, standards) in COMPILERS {
        let Some(name) = found(variable, name) else {
            eprintln!("!!! NOT CHECKED: there is no {name} !!!");
            continue;
        };
        for standard in *standards {
            let mut command = compiler(variable, &name);
            command.args(["-fsyntax-only", "-x", language, &format!("-std={standard}")]);
            if *language == "c++" {
                // `{0}` is how C says that all members are zero.
                command.arg("-Wno-missing-field-initializers");
            }
            let output = command.args(&programs).output().unwrap();
            assert_success(&format!("{name} -std={standard}"), &output);
            compiled += programs.len();
        }
    }
    assert!(compiled > 0, "there is no compiler");
}
