#!/bin/bash
# Compiles and runs the tests of the C++ wrapper: in C++17 and C++20, by g++ and by clang++, there with
# checks of addresses, leaks and undefined behaviour. Holds the wrapper against the C header, and runs
# the quickstart in C++.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v cmake >/dev/null || missing+=(cmake)
command -v make >/dev/null || missing+=(make)
command -v g++ >/dev/null || missing+=(g++)
clang=$(command -v clang++-19 || command -v clang++ || true)
[ -n "$clang" ] || missing+=(clang)
tests/install.sh "${missing[@]}"
clang=$(command -v clang++-19 || command -v clang++)

cargo build --lib --locked
target=$(realpath "${CARGO_TARGET_DIR:-target}")
library=$target/debug/libmetal_candle.a
scratch=$target/cpp
rm -rf "$scratch"

# The functions of the header that a list of symbols lacks.
lacking() {
    comm -23 <(grep -oE '\bmcandle_[a-z0-9_]+\(' include/metal_candle.h | tr -d '(' | sort -u) -
}

check_all() {
    if [ -n "$2" ]; then
        printf 'functions of the C header that %s:\n%s\n' "$1" "$2"
        exit 1
    fi
}

check_all "the wrapper does not use" \
    "$(grep -rhoE '\bmcandle_[a-z0-9_]+' bindings/cpp | sort -u | lacking)"

run() {
    printf '\n--- %s (%s s)\n' "$1" "$SECONDS"
    cmake -S tests/cpp -B "$scratch/$1" -DMETAL_CANDLE_LIBRARY="$library" "${@:2}" >/dev/null
    cmake --build "$scratch/$1" --parallel "$(nproc)" >/dev/null
    ctest --test-dir "$scratch/$1" --output-on-failure --no-tests=error
}

# An inline function of the wrapper is in an object only where a test uses it.
run g++ -DCMAKE_C_COMPILER=gcc -DCMAKE_CXX_COMPILER=g++
check_all "no test of the wrapper reaches" \
    "$(find "$scratch/g++/CMakeFiles/wrapper_cpp17.dir" -name '*.cpp.o' -exec nm -u {} + |
        grep -oE '\bmcandle_[a-z0-9_]+$' | sort -u | lacking)"

run clang++ -DCMAKE_C_COMPILER="${clang/clang++/clang}" -DCMAKE_CXX_COMPILER="$clang" \
    -DMETAL_CANDLE_SANITIZE=ON
nm "$scratch/clang++/wrapper_cpp20" >"$scratch/symbols"
grep -q __asan_init "$scratch/symbols" || { echo "the tests ran without sanitizers"; exit 1; }

# The checks do find what they look for.
if "$scratch/clang++/wrapper_cpp20" leak 2>"$scratch/leak"; then
    echo "a leak was not found"
    exit 1
fi
grep -q "LeakSanitizer: detected memory leaks" "$scratch/leak" || { cat "$scratch/leak"; exit 1; }

printf '\n--- the quickstart (%s s)\n' "$SECONDS"
make -C examples-c PROFILE=debug build/quickstart-cpp
mkdir -p "$scratch/data"
head -n 24 assets/sql/train.jsonl >"$scratch/data/train.jsonl"
head -n 4 assets/sql/valid.jsonl >"$scratch/data/valid.jsonl"
examples-c/build/quickstart-cpp assets/tiny-coder "$scratch/data" "$scratch/adapter" 12
# The release build that is linked otherwise is newer or older.
rm -f examples-c/build/quickstart-cpp
rm -rf "$scratch"
printf '\nthe wrapper passed in %s s\n' "$SECONDS"
