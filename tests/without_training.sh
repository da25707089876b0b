#!/bin/bash
# Builds the library without its feature `training`, holds what it exports against the header, and runs C
# programs that generate with it. On Linux.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}

fail() { printf 'without training: %s\n' "$1" >&2; exit 1; }

cargo build --quiet --locked --lib --no-default-features
library=$target/debug/libmetal_candle

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
compile=(cc -std=c99 -Wall -Wextra -Werror -pedantic -Iinclude -DMCANDLE_WITHOUT_TRAINING)

declared() { cc -E "$@" -x c include/metal_candle.h | grep -oE '\bmcandle_[a-z0-9_]+\(' | tr -d '(' | sort -u; }
declared -DMCANDLE_WITHOUT_TRAINING >"$work/declared"
declared >"$work/declared-with-training"
nm -D --defined-only "$library.so" | awk '$3 ~ /^mcandle_/ { print $3 }' | sort -u >"$work/exported"
diff "$work/declared" "$work/exported" || fail "header (<) and library (>) differ"
grep -qx mcandle_generator_generate "$work/exported" || fail "the library does not generate"
grep -qx mcandle_trainer_train "$work/declared-with-training" || fail "the header has lost its training"

for program in tests/c/generate tests/c/batch tests/c/adapters tests/c/formats examples-c/complete; do
    "${compile[@]}" "$program.c" "$library.a" -lpthread -ldl -lm -o "$work/$(basename "$program")"
done
[ "$("$work/generate" 'fn main() {' 4 | grep -cE '^[0-9]+$')" = 4 ] || fail "generate gave no 4 tokens"
"$work/batch" 'fn main() {' >/dev/null
mkdir "$work/folder"
"$work/adapters" "$work/folder" >/dev/null
"$work/formats" >/dev/null
[ -n "$("$work/complete" --model assets/tiny-coder --max-tokens 4 'fn main() {')" ] || fail "complete wrote nothing"

# What is not in the library is not in the header either.
if "${compile[@]}" -fsyntax-only tests/c/train.c 2>"$work/errors"; then
    fail "a program that trains compiles"
fi
grep -q mcandle_train "$work/errors" || fail "it does not compile for another reason"
printf 'without training: %s functions of %s\n' "$(wc -l <"$work/exported")" "$(wc -l <"$work/declared-with-training")"
