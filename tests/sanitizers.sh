#!/bin/bash
# Runs C programs of tests/c under the sanitizers of clang: no invalid access, no leak, no undefined
# behaviour, no data race.
#
#   tests/sanitizers.sh address        ASan and UBSan in the programs, with the library as it is
#   tests/sanitizers.sh address-rust   the same, with ASan in the library too
#   tests/sanitizers.sh thread         TSan in the programs, the library and Rust's standard library
#
# Without an argument: address and thread, which the gate runs. Programs that make the mistake on
# purpose prove first that it is found. The last two need a nightly Rust, which is installed where it is
# missing, and build the library anew.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
# One that is there is not updated, which would build everything anew.
nightly=${MCANDLE_NIGHTLY:-nightly-2026-05-20}
case $target in /*) ;; *) target=$PWD/$target ;; esac
host=$(rustc -vV | sed -n 's/^host: //p')

# Ends with the status that says so.
unchecked() {
    printf '\n!!! NOT CHECKED: %s here !!!\n\n' "$1"
    exit 75
}

clang=${CLANG:-}
for name in clang clang-{22,21,20,19,18,17,16}; do
    [ -n "$clang" ] && break
    command -v "$name" >/dev/null && clang=$name
done
works() { echo 'int main(void) { return 0; }' | "$clang" -fsanitize=address -x c - -o /dev/null 2>/dev/null; }
if [ -z "$clang" ] || ! works; then
    clang=clang-19
    tests/install.sh clang-19 libclang-rt-19-dev ||
        unchecked "clang and its sanitizers cannot be installed"
    works
fi

# The library with a sanitizer in it: $1 the sanitizer, further arguments to cargo.
library() {
    local sanitizer=$1
    shift
    cargo "+$nightly" --version >/dev/null 2>&1 || rustup toolchain install "$nightly" --profile minimal ||
        unchecked "a nightly Rust cannot be installed"
    rustup component add --toolchain "$nightly" rust-src || unchecked "the source of Rust's library is not there"
    # With optimisation as low as a fast build needs, and as high as kernels need to be bearable.
    RUSTFLAGS="-Zsanitizer=$sanitizer -Cforce-frame-pointers=yes" CARGO_INCREMENTAL=0 \
        cargo "+$nightly" rustc --locked --lib --crate-type staticlib --target "$host" \
        --target-dir "$target/sanitizers-$sanitizer" --config 'profile.dev.package."*".opt-level=2' "$@"
    export MCANDLE_TEST_LIBRARY=$target/sanitizers-$sanitizer/$host/debug/libmetal_candle.a
    # Proof that it is in the library's own code.
    case $(nm "$MCANDLE_TEST_LIBRARY" 2>/dev/null || true) in
        *"U __asan_report_load"* | *"U __tsan_read"*) ;;
        *)
            echo "$MCANDLE_TEST_LIBRARY has no $sanitizer sanitizer in it"
            exit 1
            ;;
    esac
}

# A program that makes a mistake, on standard input; it has to fail with a report that says $1.
mistake() {
    local folder status=0
    folder=$(mktemp -d)
    cat >"$folder/mistake.c"
    # shellcheck disable=SC2086 # The flags are words.
    "$clang" -std=c99 -g $MCANDLE_TEST_CFLAGS -Iinclude "$folder/mistake.c" \
        "${MCANDLE_TEST_LIBRARY:-$plain}" -lpthread -ldl -lm -o "$folder/mistake"
    "$folder/mistake" >"$folder/report" 2>&1 || status=$?
    if [ "$status" = 0 ] || ! grep -q "$1" "$folder/report"; then
        echo "a mistake was not found: $1"
        cat "$folder/report"
        exit 1
    fi
    rm -r "$folder"
    echo "found, as it has to be: $1"
}

programs() {
    local passed
    # Not CC, for which the build would be another one.
    passed=$(MCANDLE_TEST_CC=$clang cargo test --locked --test c_api -- --exact "$@" | tee >(cat >&2) |
        sed -n 's/^test result: ok. \([0-9]*\) passed.*/\1/p')
    [ "$passed" = $# ] || { echo "${passed:-none} of $# programs passed"; exit 1; }
}

address() {
    export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1:detect_stack_use_after_return=1:strict_string_checks=1
    export UBSAN_OPTIONS=print_stacktrace=1
    export MCANDLE_TEST_CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
    mistake heap-use-after-free <<'C'
#include "metal_candle.h"
#include <stdio.h>
int main(void) {
    mcandle_error *error = NULL;
    const char *message;
    mcandle_model_load("missing", NULL, NULL, &error);
    message = mcandle_error_message(error);
    mcandle_error_free(error);
    return puts(message) < 0;
}
C
    mistake "detected memory leaks" <<'C'
#include "metal_candle.h"
int main(void) { return mcandle_generate_options_new() == NULL; }
C
    mistake "signed integer overflow" <<'C'
#include "metal_candle.h"
#include <limits.h>
int main(void) { return INT_MAX + (int)mcandle_abi_version() == 0; }
C
    programs errors nulls nulls_training misuse misuse_training callbacks generate sampling batch chat \
        dataset adapters formats train train_options finetuning threads runtime asynchronous complete finetune
}

thread() {
    export TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1"
    export MCANDLE_TEST_CFLAGS="-fsanitize=thread -fno-omit-frame-pointer"
    # Within the library, so that an instrumented one is proved.
    mistake "data race" <<'C'
#include "metal_candle.h"
#include <pthread.h>
static void *set(void *options) {
    int i;
    for (i = 0; i < 10000; i++) {
        mcandle_generate_options_set_seed((mcandle_generate_options *)options, (uint64_t)i);
    }
    return NULL;
}
int main(void) {
    mcandle_generate_options *options = mcandle_generate_options_new();
    pthread_t threads[2];
    pthread_create(&threads[0], NULL, set, options);
    pthread_create(&threads[1], NULL, set, options);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    mcandle_generate_options_free(options);
    return 0;
}
C
    MCANDLE_TEST_LIGHT=1 programs threads asynchronous callbacks generate batch adapters
}

# The library that the programs are linked with otherwise.
plain=$target/debug/deps/libmetal_candle.a
cargo test --locked --test c_api --no-run
[ $# -gt 0 ] || set -- address thread
for part in "$@"; do
    printf '\n=== %s sanitizer (%s s)\n' "$part" "$SECONDS"
    case $part in
        address) (address) ;;
        address-rust)
            (
                library address
                address
            )
            ;;
        thread)
            (
                library thread -Zbuild-std
                thread
            )
            ;;
        *)
            echo "unknown: $part; expected address, address-rust or thread"
            exit 2
            ;;
    esac
done
