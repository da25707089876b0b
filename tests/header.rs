//! The committed header is the one that cbindgen makes from the source.

use std::path::Path;

/// Run with `METAL_CANDLE_BLESS=1` to write the header anew.
#[test]
fn the_committed_header_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new()
        .with_src(root.join("src/ffi/mod.rs"))
        .with_config(config)
        .generate()
        .unwrap();
    let mut generated = Vec::new();
    bindings.write(&mut generated);
    let generated = String::from_utf8(generated).unwrap();
    let path = root.join("include/metal_candle.h");
    if std::env::var_os("METAL_CANDLE_BLESS").is_some() {
        std::fs::create_dir_all(root.join("include")).unwrap();
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        generated == committed,
        "include/metal_candle.h is not what src/ffi says; run METAL_CANDLE_BLESS=1 cargo test --test header"
    );
}
