#!/bin/bash
# Runs the tests of the Metal path on the software Metal device. README.md beside this file says what it is.
#
# Arguments go to `cargo test`: `run.sh --test device greedy` runs what they select, and nothing else.
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

"${cargo[@]}" test --features metal "$@"
