#!/bin/bash
# Makes each mistake of `mutations/` in turn, and says whether the test that it names fails.
#
# Arguments are names of mistakes; without any, all are made. README.md has the table of the last run.
source "$(dirname "$0")/environment.sh"

# The value of a line such as `crate: candle-core` at the top of a patch.
field() { sed -n "s/^$1: //p" "$2"; }

# Runs the test of a mistake, in a copy of the project or with a copy of one of candle's crates.
attempt() {
    local patch=$1 crate mutant=$work/mutant extra=()
    crate=$(field crate "$patch")
    rm -rf "$mutant"
    link_package "$mutant"
    cd "$mutant"
    local target=$mutant
    if [ "$crate" = metal-candle ]; then
        rm src && cp -r "$root/src" src
    else
        target=$work/mutated/$crate
        rm -rf "$target" && mkdir -p "$work/mutated"
        cp -r "$(sources_of "$crate")" "$target"
        extra=(--config "patch.crates-io.$crate.path='$target'")
    fi
    patch -s -p1 -d "$target" <"$patch" || return 2
    local test
    read -ra test <<<"$(field test "$patch")"
    "${cargo[@]}" "${extra[@]}" test --features metal --no-run "${test[@]:0:2}" || return 2
    timeout 300 "${cargo[@]}" "${extra[@]}" test --features metal "${test[@]}"
}

missed=0
[ $# -gt 0 ] || set -- $(cd "$device/mutations" && ls | sed 's/\.patch$//')
for name in "$@"; do
    log=$work/mutation.log
    status=0
    RUST_BACKTRACE=0 attempt "$device/mutations/$name.patch" >"$log" 2>&1 || status=$?
    case $status in
        0) echo "$name: NOT CAUGHT"; missed=$((missed + 1)) ;;
        2) echo "$name: cannot be made"; tail -20 "$log"; missed=$((missed + 1)) ;;
        *) echo "$name: caught by $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u | paste -sd' ')" ;;
    esac
done
exit $((missed > 0))
