#!/bin/bash
# Makes each mistake of `mutations/` in turn, and says whether the test that it names fails.
#
# Arguments are names of mistakes; without any, all are made. README.md has the table of the last run.
source "$(dirname "$0")/environment.sh"

# The value of a line such as `crate: candle-core` at the top of a patch.
field() { sed -n "s/^$1: //p" "$2"; }

# Runs the test of a mistake, in a copy of the project or with a copy of one of candle's crates. Gives 2
# where the mistake cannot be made.
attempt() {
    local patch=$1 crate sources mutant=$work/mutant target=$work/mutant extra=() test
    crate=$(field crate "$patch")
    rm -rf "$mutant"
    link_package "$mutant" && cd "$mutant" || return 2
    if [ "$crate" = metal-candle ]; then
        rm src && cp -r "$root/src" src || return 2
    else
        target=$work/mutated/$crate
        sources=$(sources_of "$crate") || return 2
        rm -rf "$target" && mkdir -p "$work/mutated" && cp -r "$sources" "$target" || return 2
        extra=(--config "patch.crates-io.$crate.path='$target'")
    fi
    patch -s -p1 -d "$target" <"$patch" || return 2
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
    caught=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u | paste -sd' ')
    if [ -n "$caught" ] && [ $status -ne 2 ]; then
        echo "$name: caught by $caught"
    else
        echo "$name: NOT CAUGHT (status $status)"
        tail -5 "$log"
        missed=$((missed + 1))
    fi
done
exit $((missed > 0))
