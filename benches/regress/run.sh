#!/bin/bash
# Counts the instructions of a token and of a training step, and fails where one takes 5 % more than
# counts.txt says: run.sh [--bless], which writes counts.txt.
#
# Valgrind counts, on x86-64. It emulates no AVX-512, so the kernels are those for AVX2. Two runs differed by
# 0.2 % or less; other versions of the compiler differ by more: then nothing fails, and they are written anew.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --locked --release --example peers
exec python3 benches/regress/counts.py "${CARGO_TARGET_DIR:-target}/release/examples/peers" "$@"
