//! `include/metal_candle.h` is what the source says, is documented throughout, and compiles.

mod annotate;
mod compile;
mod conditions;
mod documentation;
mod enums;
mod parse;
mod sections;

use parse::Item;
use sections::Sections;
use std::path::Path;

const HEADER: &str = "include/metal_candle.h";

/// What cbindgen makes of a source file.
fn generate(source: impl AsRef<Path>) -> String {
    let config = cbindgen::Config::from_file("cbindgen.toml").unwrap();
    let bindings = cbindgen::Builder::new()
        .with_src(source)
        .with_config(config)
        .generate()
        .unwrap();
    let mut header = Vec::new();
    bindings.write(&mut header);
    String::from_utf8(header).unwrap()
}

/// What cbindgen makes of the library, and what is declared in it.
fn library() -> (String, Vec<Item>) {
    let header = generate("src/ffi/mod.rs");
    let items = parse::items(&header);
    (header, items)
}

/// Run with `METAL_CANDLE_BLESS=1` to write the header anew.
#[test]
fn the_committed_header_is_current() {
    let (header, items) = library();
    let sections = Sections::of("src/ffi", &items);
    let header = annotate::finish(&header, &items, &sections, env!("CARGO_PKG_VERSION"));
    if std::env::var_os("METAL_CANDLE_BLESS").is_some() {
        std::fs::create_dir_all("include").unwrap();
        std::fs::write(HEADER, &header).unwrap();
    }
    let committed = std::fs::read_to_string(HEADER).unwrap_or_default();
    assert!(
        header == committed,
        "{HEADER} is not what src/ffi says; run METAL_CANDLE_BLESS=1 cargo test --test header"
    );
}

#[test]
fn everything_is_documented() {
    let (_, items) = library();
    let faults = documentation::faults(&items);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // Of each kind, so that a parser that passes over some is found out.
    let count = |is: fn(&Item) -> bool| items.iter().filter(|item| is(item)).count();
    assert!(count(Item::is_function) > 300);
    assert!(count(Item::is_callback) >= 7);
    assert!(count(Item::is_opaque) > 20);
    assert!(count(Item::is_alias) > 15);
    assert!(count(Item::is_macro) > 60);
}
