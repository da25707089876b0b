#!/bin/bash
# Runs the unit tests of the C API that need no model under Miri, which checks every pointer: that it is
# valid, aligned, initialised, not freed, and not used against the rules of borrowing; and that nothing
# leaks. It runs no file mapping and no kernel of C or assembly, so what needs a model is left to
# tests/sanitizers.sh and tests/valgrind.sh. Needs a nightly Rust.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
# One that is there is not updated, which would build everything anew.
nightly=${MCANDLE_NIGHTLY:-nightly-2026-05-20}

if ! { cargo "+$nightly" --version >/dev/null 2>&1 || rustup toolchain install "$nightly" --profile minimal; } ||
    ! rustup component add --toolchain "$nightly" miri rust-src; then
    printf '\n!!! NOT CHECKED: Miri cannot be installed here !!!\n\n'
    exit 75
fi
# The clock is read by the library's log; nothing else of the machine is needed.
export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-symbolic-alignment-check"
export CARGO_INCREMENTAL=0
# Tests of logs run in processes of their own, and Miri starts none.
output=$(cargo "+$nightly" miri test --locked --lib --target-dir "$target/miri" ffi:: -- --skip ffi::log:: |
    tee >(cat >&2))
# Not vacuously.
passed=$(sed -n 's/^test result: ok. \([0-9]*\) passed.*/\1/p' <<<"$output")
[ "${passed:-0}" -ge 15 ] || { echo "only ${passed:-0} tests ran"; exit 1; }
