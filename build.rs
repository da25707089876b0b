//! Names the shared library as cargo-c names it: by the part of the version that tells which releases
//! are compatible.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let [major, minor, patch] = ["MAJOR", "MINOR", "PATCH"]
        .map(|part| var(format!("CARGO_PKG_VERSION_{part}")).expect("cargo sets it"));
    let version = match (major.as_str(), minor.as_str()) {
        ("0", "0") => format!("0.0.{patch}"),
        ("0", _) => format!("0.{minor}"),
        _ => major,
    };
    let name = match var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("linux" | "android" | "freebsd") => format!("-soname,libmetal_candle.so.{version}"),
        Ok("macos" | "ios") => format!("-install_name,@rpath/libmetal_candle.{version}.dylib"),
        _ => return,
    };
    println!("cargo::rustc-cdylib-link-arg=-Wl,{name}");
}
