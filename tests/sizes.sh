#!/bin/bash
# Prints the sizes of the release build's libraries, and of a program with the static one, all stripped;
# with training and without. Takes two release builds.
set -euo pipefail
cd "$(dirname "$0")/.."
release=${CARGO_TARGET_DIR:-$PWD/target}/release
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

size() { awk -v bytes="$(stat -c %s "$1")" 'BEGIN { printf "%.1f MB", bytes / 1e6 }'; }
# A program that only loads and generates.
measure() {
    bindings/isolate.sh "$release/libmetal_candle.a" "$folder/libmetal_candle.a" >/dev/null
    strip -o "$folder/libmetal_candle.so" "$release/libmetal_candle.so"
    cc -O2 -std=c99 -Iinclude examples-c/complete.c "$folder/libmetal_candle.a" -lpthread -ldl -lm -s -o "$folder/program"
    cc -O2 -std=c99 -Iinclude examples-c/complete.c "$folder/libmetal_candle.a" -lpthread -ldl -lm -s \
        -Wl,--gc-sections -o "$folder/collected"
    echo "| $1 | $(size "$folder/libmetal_candle.so") | $(size "$folder/libmetal_candle.a") |" \
        "$(size "$folder/program") | $(size "$folder/collected") |"
}

echo "| | shared library | static library | program | with \`--gc-sections\` |"
echo "|---|---|---|---|---|"
cargo build --lib --release --locked --no-default-features
measure "without training"
cargo build --lib --release --locked
measure "with training"
