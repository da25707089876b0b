#!/bin/bash
# Builds the static library for macOS, iOS and the iOS simulator, all arm64, and makes an XCFramework of
# them, on Linux as on macOS: neither Xcode nor Apple's SDK is needed.
#
#   bindings/swift/make-xcframework.sh [OUT.xcframework [OPTION...]]
#
# Package.swift finds it on a Mac where it lies if nothing is said: MetalCandleFFI.xcframework beside this
# script. The options are those of `cargo rustc`. Beside OUT.xcframework comes OUT.xcframework.zip, and its
# checksum is printed as `swift package compute-checksum` would. Rust's targets are installed where rustup
# can.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
output=${1:-$here/MetalCandleFFI.xcframework}
shift || true
target_dir=${CARGO_TARGET_DIR:-$root/target}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if [ "$(uname)" != Darwin ]; then
    for target in DARWIN IOS IOS_SIM; do
        export "CARGO_TARGET_AARCH64_APPLE_${target}_LINKER=$here/no-linker.sh"
    done
fi

slices=()
while read -r slice target; do
    rustup target add "$target"
    # Only what is asked for is made: the shared library would have to be linked with Apple's SDK.
    cargo rustc --lib --crate-type staticlib --release --locked --manifest-path "$root/Cargo.toml" \
        --target "$target" "$@" </dev/null
    mkdir "$folder/$slice"
    "$here/../isolate.sh" "$target_dir/$target/release/libmetal_candle.a" "$folder/$slice/libmetal_candle.a"
    slices+=("$slice=$folder/$slice/libmetal_candle.a")
done <<'TARGETS'
macos aarch64-apple-darwin
ios aarch64-apple-ios
ios-simulator aarch64-apple-ios-sim
TARGETS

python3 "$here/xcframework.py" "$output" "${slices[@]}"
