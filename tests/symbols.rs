//! `include/metal_candle.symbols` lists what the libraries export: the functions of the header, and
//! nothing else. It is committed, so that a changed interface shows in the diff.

use std::collections::BTreeSet;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The code of the header, without its comments.
fn header() -> String {
    let text = std::fs::read_to_string(root().join("include/metal_candle.h")).unwrap();
    text.split("/*")
        .map(|part| part.split_once("*/").map_or(part, |(_comment, code)| code))
        .collect()
}

/// What is declared in C code: the names before a parenthesis.
fn functions(code: &str) -> BTreeSet<String> {
    code.split('(')
        .filter_map(|before| {
            let name = before
                .rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .next()?;
            name.starts_with("mcandle_").then(|| name.to_owned())
        })
        .collect()
}

fn listed() -> BTreeSet<String> {
    let path = root().join("include/metal_candle.symbols");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Run with `METAL_CANDLE_BLESS=1` to write the list anew.
#[test]
fn the_committed_list_is_the_functions_of_the_header() {
    let functions = functions(&header());
    let names: Vec<_> = functions.iter().map(String::as_str).collect();
    let list = names.join("\n") + "\n";
    let path = root().join("include/metal_candle.symbols");
    if std::env::var_os("METAL_CANDLE_BLESS").is_some() {
        std::fs::write(&path, &list).unwrap();
    }
    assert!(functions.contains("mcandle_abi_version"));
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == list,
        "include/metal_candle.symbols is not what the header declares; run METAL_CANDLE_BLESS=1 cargo test --test symbols"
    );
}

/// Cargo builds the library anew beside this test, and leaves an older one in the folder above.
#[cfg(target_os = "linux")]
fn shared_library() -> std::path::PathBuf {
    std::env::current_exe()
        .unwrap()
        .with_file_name("libmetal_candle.so")
}

/// What lies between `#if defined(MCANDLE_TRAINING)` and its end.
#[cfg(target_os = "linux")]
fn only_with_training(code: &str) -> BTreeSet<String> {
    code.split("#if defined(MCANDLE_TRAINING)")
        .skip(1)
        .filter_map(|part| part.split_once("#endif"))
        .flat_map(|(block, _rest)| functions(block))
        .collect()
}

#[cfg(target_os = "linux")]
#[test]
fn the_shared_library_exports_the_list_and_has_a_versioned_name() {
    let path = shared_library();
    let tool = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program)
            .args(arguments)
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };

    let exported: BTreeSet<String> = tool("nm", &["-D", "--defined-only"])
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap().to_owned())
        .collect();
    let mut wanted = listed();
    let training = only_with_training(&header());
    // A build without the feature has none of these.
    if exported.is_disjoint(&training) {
        wanted.retain(|name| !training.contains(name));
    }
    let added: Vec<_> = exported.difference(&wanted).collect();
    let lost: Vec<_> = wanted.difference(&exported).collect();
    assert!(
        added.is_empty() && lost.is_empty(),
        "exported but not listed: {added:?}; listed but not exported: {lost:?}"
    );

    let name = concat!(
        "[libmetal_candle.so.",
        env!("CARGO_PKG_VERSION_MAJOR"),
        ".",
        env!("CARGO_PKG_VERSION_MINOR"),
        "]"
    );
    assert!(tool("readelf", &["-d"]).contains(name), "no name {name}");
}
