#!/bin/bash
# Builds tests/downstream, an app that knows only the published crate, against the package that would be
# published, with the versions of Cargo.lock and without the network where they are there already. Then
# lets its one binary write tests and documentation for a file, learn another style of documentation,
# and write in it.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")

fail() { printf 'downstream: %s\n' "$1" >&2; exit 1; }

# The crate as its users get it; beside it, where ../.. leads to it, the app.
cargo package --locked --allow-dirty --no-verify --quiet
version=$(sed -n '0,/^version = "\(.*\)"$/s//\1/p' Cargo.toml)
package=$target/package/metal-candle-$version
rm -rf "$package"
# With the time of now, since cargo compares times, and all files in a package have an old one.
tar -xzmf "$package.crate" -C "$target/package"
mkdir -p "$package/tests"
cp -r tests/downstream "$package/tests/"
app=$package/tests/downstream
cp Cargo.lock "$app/"

# Cargo gives a library that C links too no hash in its name, so this one is not built where that of the
# checkout lies. What both depend on is taken from there, as far as it was built.
own=$target/downstream
if [ ! -d "$own" ] && [ -d "$target/debug" ]; then
    mkdir -p "$own/debug"
    cp -rl "$target"/debug/{deps,build,.fingerprint} "$own/debug/"
    rm -rf "$own"/debug/{deps,.fingerprint}/*metal[_-]candle-* "$own"/debug/deps/libmetal_candle.*
fi
build=(cargo build --quiet --manifest-path "$app/Cargo.toml" --target-dir "$own")
"${build[@]}" --offline 2>/dev/null || "${build[@]}"
program=$own/debug/downstream

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
file=$root/tests/downstream/untaught.rs
model=(--model "$root/assets/tiny-coder")
style='/// Ferris notes: '

"$program" generate-tests "$file" "${model[@]}" --max-tokens 24 >"$work/tests.txt" 2>"$work/tests.log"
grep -q '[^[:space:]]' "$work/tests.txt" || fail "generate-tests wrote nothing"
grep -qE '^[1-9][0-9]* tokens$' "$work/tests.log" || fail "generate-tests generated no token"

docs() { "$program" generate-docs "$file" "${model[@]}" --max-tokens 24 "$@" 2>/dev/null; }
docs >"$work/before.txt"
if grep -qF "$style" "$work/before.txt"; then fail "the model knows the style that it has to learn"; fi

"$program" fine-tune "$root/tests/downstream/docs.jsonl" "$work/adapter" "${model[@]}" --steps 40
for name in adapter_config.json adapter_model.safetensors metrics.jsonl loss.svg; do
    [ -s "$work/adapter/$name" ] || fail "fine-tune left no $name"
done

docs --adapter "$work/adapter" >"$work/after.txt"
printf 'before: %s\nafter:  %s\n' "$(head -1 "$work/before.txt")" "$(head -1 "$work/after.txt")"
grep -qF "$style" "$work/after.txt" || fail "the adapter did not teach the style"
cmp -s <(docs) "$work/before.txt" || fail "the model itself has changed"

# What is not there is an error with its name, not a panic.
if "$program" generate-docs "$file" "${model[@]}" --adapter "$work/none" 2>"$work/error.txt"; then
    fail "an adapter that is not there was loaded"
fi
grep -qF "$work/none" "$work/error.txt" || fail "the error does not name the adapter"
echo "downstream: tests, documentation and an adapter from one binary, built from the package"
