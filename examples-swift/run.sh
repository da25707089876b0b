#!/bin/bash
# Builds the examples, runs them with the small model of assets, and checks what they print and leave.
#
#   METAL_CANDLE_LIB_DIR=/folder/of/libmetal_candle.a examples-swift/run.sh
#
# TOOLCHAIN is the command that runs another where Swift is, such as "bindings/swift/toolchain.sh exec" with
# an absolute path; without it Swift is looked for on PATH. The model's answers are not looked at, only that
# there are some.
set -euo pipefail
cd "$(dirname "$0")"
read -ra toolchain <<<"${TOOLCHAIN:-env}"
scratch=$PWD/.build/run
model=../assets/tiny-coder
build=(--scratch-path .build -Xswiftc -warnings-as-errors)
if [ -n "${METAL_CANDLE_LIB_DIR:-}" ]; then
    # SwiftPM does not know that the library is an input: so the command that links names its contents.
    build+=(-Xlinker "-L/contents/$(cksum <"$METAL_CANDLE_LIB_DIR/libmetal_candle.a" | tr ' ' .)")
fi

within() { "${toolchain[@]}" "$@"; }
fail() { echo "run.sh: $*" >&2; exit 1; }

# Runs a program and expects its status; what it printed is in out and err.
run() { # STATUS PROGRAM ARGUMENT...
    local expected=$1 status=0
    within ".build/debug/$2" "${@:3}" >"$scratch/out" 2>"$scratch/err" || status=$?
    if [ $status != "$expected" ]; then
        cat "$scratch/out" "$scratch/err" >&2
        fail "it ended with $status and was to end with $expected: ${*:2}"
    fi
}

expect() { # FILE PATTERN
    grep -Eq -e "$2" "$scratch/$1" || { cat "$scratch/$1" >&2; fail "std$1 does not have $2"; }
}

# Starts a program, sends Ctrl-C's signal when its output has a pattern, and waits for its end.
interrupt() { # PATTERN PROGRAM ARGUMENT...
    # shellcheck disable=SC2016
    within bash -ec '
        out=$1 pattern=$2
        "${@:3}" >"$out" 2>&1 &
        for ((i = 0; i < 3000; i++)); do
            ! grep -Eq -e "$pattern" "$out" || break
            sleep 0.01
        done
        kill -INT $!
        wait $!
    ' interrupt "$scratch/out" "$1" ".build/debug/$2" "${@:3}" || { cat "$scratch/out" >&2; fail "$2 did not end well"; }
}

chat() {
    local program=mcandle-chat options=(--model "$model" --device cpu --temperature 0)
    run 0 $program --help
    expect out '^Usage: mcandle-chat'
    run 2 $program --no-such-option
    expect err 'no-such-option: no such option'
    run 2 $program --max-tokens many
    expect err 'many is not a whole number'
    run 1 $program --model /no/such/model
    expect err '/no/such/model'

    run 0 $program "${options[@]}" --max-tokens 8 --stats --prompt "Reverse a string in Rust."
    expect out '.'
    expect err '8 tokens, .* tokens/s; length'

    # What was said is saved, and what was read of it: loaded, it costs nothing but the new message.
    printf '%s\n' "Say hello." "/save $scratch/chat.json" /clear "/load $scratch/chat.json" "And again." |
        run 0 $program "${options[@]}" --max-tokens 8 --stats
    [ "$(grep -c . "$scratch/err")" = 2 ] || fail "there are not two answers"
    grep -q '"content" : "Say hello."' "$scratch/chat.json" || fail "the conversation was not saved"
    expect err '^\[[0-9]+ tokens read, 0 of them before'
    expect err '^\[[0-9]+ tokens read, [1-9][0-9]* of them before'

    echo '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
        "additionalProperties": false}' >"$scratch/schema.json"
    run 0 $program "${options[@]}" --json-schema "$scratch/schema.json" --prompt "Is it?"
    expect out '^\{ *"ok": *(true|false) *\}$'

    interrupt '..........' $program "${options[@]}" --max-tokens 1800 --prompt "Write a long program."
    expect out '\[stopped\]$'
}

finetune() {
    local program=mcandle-finetune data=$scratch/data output=$scratch/output options
    options=("$data" "$output" --model "$model" --device cpu --dtype f32 --steps 20 --batch-size 2
        --learning-rate 2e-3 --eval-every 10 --save-every 10)
    mkdir "$data"
    sed -n 1,40p ../assets/sql/train.jsonl >"$data/train.jsonl"
    sed -n 1,4p ../assets/sql/valid.jsonl >"$data/valid.jsonl"
    run 2 $program
    expect err 'DATA is missing'
    run 2 $program "$data" "$output" --targets q_proj,nothing
    expect err 'q_proj,nothing is not '
    run 1 $program "$scratch" "$output" --model "$model"
    expect err 'train.jsonl'

    interrupt '^step 3/' $program "${options[@]}"
    expect out '^after step 0: validation loss'
    expect out '^step 3/20  loss [0-9.]+ .* tokens/s  [0-9]+ MB  [0-9].* left$'
    expect out '^checkpoint: .*checkpoint-0000'
    expect out '^stopped after step [0-9]+; .*--resume'
    [ ! -e "$output/adapter_config.json" ] || fail "it was not stopped"

    run 0 $program "${options[@]}" --resume --prompt "$(printf 'table: dogs\ncolumns: age\nQ: How old are they?\nA:')"
    expect out '^resuming from .*checkpoint-0000'
    ! grep -q '^step 1/' "$scratch/out" || fail "it began anew"
    expect out '^step 20/20 '
    expect out '^after step 20: validation loss .*best'
    expect out '^20 steps, '
    expect out '^A:.'
    [ -s "$output/adapter_model.safetensors" ] || fail "there is no adapter"

    # The chat answers with it.
    run 0 mcandle-chat --model "$model" --device cpu --adapter "$output" --max-tokens 4 --prompt "Hello."
    expect out '.'
}

app() {
    python3 ChatApp/check-project.py
    local target
    for target in arm64-apple-macosx15.0 arm64-apple-ios18.0; do
        within swiftc -frontend -parse -swift-version 6 -target $target ChatApp/Sources/*.swift
    done
    echo "ChatApp/Sources is parsed for macOS and iOS"
}

rm -rf "$scratch"
mkdir -p "$scratch"
within swift build --build-tests "${build[@]}"
chat
echo "mcandle-chat passed"
finetune
echo "mcandle-finetune passed"
within swift test --skip-build "${build[@]}" 2>&1 | tee "$scratch/tests"
grep -Eq 'Test run with [1-9][0-9]* tests? passed' "$scratch/tests" || fail "no tests ran"
app
echo "the examples passed in $SECONDS s"
