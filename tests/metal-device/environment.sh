# What the scripts of this folder share: tools, cargo with the stand-ins, folders. To be sourced by bash.
set -euo pipefail
device=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$device/../.." && pwd)
work=${METAL_DEVICE_DIR:-$root/target/metal-device}
mkdir -p "$work"
work=$(cd "$work" && pwd)

command -v clang++-19 >/dev/null || "$root/tests/install.sh" clang-19

# The stand-ins change what Cargo.lock says of four packages. So cargo works in a folder of links, which
# has a Cargo.lock of its own, and the project's stays as it is.
link_package() {
    mkdir -p "$1"
    local entry
    for entry in Cargo.toml README.md assets benches examples examples-c fuzz include src tests; do
        ln -sfn "$root/$entry" "$1/$entry"
    done
    # A lock that cargo has adapted to the stand-ins stays, so that nothing is resolved again.
    if [ ! -e "$1/Cargo.lock" ] || [ "$root/Cargo.lock" -nt "$1/Cargo.lock" ]; then
        cp "$root/Cargo.lock" "$1/"
    fi
}

cargo=(cargo)
for crate in block2 objc2 objc2-foundation objc2-metal; do
    cargo+=(--config "patch.crates-io.$crate.path='$device/$crate'")
done
# Kernels, not the host's code, take the time of a test: less optimised, it builds sooner.
cargo+=(--config 'profile.dev.package."*".opt-level=1' --config 'profile.dev.debug=false')
# Nothing here runs these; those that macros need too are then built once.
for crate in cbindgen criterion proc-macro2 quote syn unicode-ident; do
    cargo+=(--config "profile.dev.package.$crate.opt-level=0")
done

# The folder of a crate's sources, as cargo keeps them. To be called in a package.
sources_of() {
    "${cargo[@]}" metadata --format-version 1 --features metal |
        python3 -c 'import json, os, sys
print(*(os.path.dirname(package["manifest_path"]) for package in json.load(sys.stdin)["packages"]
        if package["name"] == sys.argv[1]))' "$1"
}

export CARGO_TARGET_DIR=$work/target
export METAL_DEVICE_CACHE=$work/kernels
export METAL_CANDLE_TEST_DEVICE=metal
# Candle would ask the system for the number of cores at every operation.
export RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-$(nproc)}
