#!/bin/bash
# Runs the tests of the Metal path on the software Metal device. README.md beside this file says what it is.
#
# Without arguments it runs all of them. Arguments go to one `cargo test` of the project instead:
# `run.sh --test device greedy` runs the tests in tests/device.rs with `greedy` in their names.
source "$(dirname "$0")/environment.sh"

package=$work/package
link_package "$package"
cd "$package"
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
candle() { (cd "$work/candle-metal-kernels" && "${cargo[@]}" test --lib "$@"); }
copy_candle() {
    local copy=$work/candle-metal-kernels sources
    sources=$(sources_of candle-metal-kernels)
    rm -rf "$copy"
    cp -r "$sources" "$copy"
    # Its example would bring a parser of command lines along.
    sed -i '/^\[\[example\]\]/,/^$/d; /^\[dev-dependencies.clap\]/,/^$/d' "$copy/Cargo.toml"
    cp Cargo.lock "$copy/"
}

first() {
    ours --lib --test parity_models --test training --test adapters
    ours --test parity_lora training_agrees_on
    # Rows of one forward with an adapter, windows and shifts; caches on their way to a file and back, in
    # eight bits too; states that no head sees.
    ours --test batch adapters_windows_and_full_contexts
    ours --test sessions -- --exact a_session_goes_on_from_its_file a_full_context_shifts_where_it_may
    ours --test scores scores_and_generations_do_not_disturb_each_other
    copy_candle
    candle -- "${failing[@]/#/--skip=}" --skip="$needs_zeros"
    METAL_DEVICE_POISON=0 candle -- --exact "$needs_zeros"
}
second() {
    ours --test metal_device --test device --test generation --test resume
    MCANDLE_TEST_LIGHT=1 ours --test c_api -- --exact errors nulls generate train metal_by_name_and_lost
}

python3 "$device/msl/selftest.py"
(cd "$device/objc2-metal" && cargo test --quiet --lib)
ours --no-run --lib --test parity_models --test training --test adapters --test parity_lora --test metal_device \
    --test device --test generation --test resume --test batch --test sessions --test scores --test c_api

# Two at a time, because a device's thread keeps one core busy while its test waits.
first >"$work/first.log" 2>&1 &
jobs=($!)
second >"$work/second.log" 2>&1 &
jobs+=($!)
failed=0
for lane in first second; do
    if wait "${jobs[0]}"; then
        grep -E '^(test result|     Running)' "$work/$lane.log"
    else
        failed=1
        cat "$work/$lane.log"
    fi
    jobs=("${jobs[@]:1}")
done
if grep -q '^running 0 tests' "$work/first.log" "$work/second.log"; then
    echo "a selection of tests selects none"
    failed=1
fi
exit $failed
