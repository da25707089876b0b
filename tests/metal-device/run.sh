#!/bin/bash
# Runs the tests of the Metal path on the software Metal device. README.md beside this file says what it is.
#
# Without arguments it runs all of them. Arguments go to one `cargo test` of the project instead:
# `run.sh --test device greedy` runs the tests in tests/device.rs with `greedy` in their names.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
device=$root/tests/metal-device
work=${METAL_DEVICE_DIR:-$root/target/metal-device}

if ! command -v clang++-19 >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends clang-19
fi

# The stand-ins change what Cargo.lock says of four packages. So cargo works in a folder of links, which
# has a Cargo.lock of its own, and the project's stays as it is.
package=$work/package
mkdir -p "$package"
for entry in Cargo.toml README.md assets benches examples examples-c include src tests; do
    ln -sfn "$root/$entry" "$package/$entry"
done
cp Cargo.lock "$package/"
cd "$package"

cargo=(cargo)
for crate in block2 objc2 objc2-foundation objc2-metal; do
    cargo+=(--config "patch.crates-io.$crate.path='$device/$crate'")
done
# Kernels, not the host's code, take the time of a test. Dependencies that are less optimised build sooner.
cargo+=(--config 'profile.dev.package."*".opt-level=1')

export CARGO_TARGET_DIR=$work/target
export METAL_DEVICE_CACHE=$work/kernels
export METAL_CANDLE_TEST_DEVICE=metal
# Candle would ask the system for the number of cores at every operation.
export RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-$(nproc)}

ours() { "${cargo[@]}" test --features metal "$@"; }

if [ $# -gt 0 ]; then
    ours "$@"
    exit
fi

# Tests of candle's own that fail on this device, each with its reason in README.md. The last one needs
# buffers of zeros, and gets them.
failing=(
    tests::gelu_f16
    tests::index_select_is_i64_i64 tests::index_select_is_u32_i64 tests::index_select_is_u8_i64
)
needs_zeros=tests::scatter_add

# Candle's kernels by themselves, by the tests of their crate.
candle() {
    local source copy=$work/candle-metal-kernels
    source=$("${cargo[@]}" metadata --format-version 1 --features metal |
        python3 -c 'import json, os, sys
print(*(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"]
        if p["name"] == "candle-metal-kernels"))')
    rm -rf "$copy"
    cp -r "$source" "$copy"
    # Its example would bring a parser of command lines along.
    sed -i '/^\[\[example\]\]/,/^$/d; /^\[dev-dependencies.clap\]/,/^$/d' "$copy/Cargo.toml"
    cp "$package/Cargo.lock" "$copy/"
    (cd "$copy" && "${cargo[@]}" test --lib "$@")
}

# Two at a time, because a device's thread keeps one core busy while its test waits.
lane() {
    local log=$work/$1.log
    shift
    if "$@" >"$log" 2>&1; then
        grep -E '^(test result|     Running)' "$log"
    else
        cat "$log"
        return 1
    fi
}
first() {
    ours --lib --test parity_models --test training --test adapters
    candle -- "${failing[@]/#/--skip=}" --skip="$needs_zeros"
    METAL_DEVICE_POISON=0 candle -- "$needs_zeros"
}
second() {
    ours --test metal_device --test device --test generation --test resume
    ours --test c_api -- --exact errors nulls generate train
}

python3 "$device/msl/selftest.py"
(cd "$device/objc2-metal" && cargo test --quiet)
ours --no-run --lib --tests
lane first first &
lane second second
wait $!
