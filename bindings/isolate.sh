#!/bin/bash
# Makes a static library that links into one program with any other Rust library.
#
#   bindings/isolate.sh IN.a OUT.a [PREFIX]
#
# Every Rust library carries the standard library, and some of its symbols, rust_eh_personality for one,
# have the same names in all of them. So of the global symbols only those of the C interface, which begin
# with the prefix (mcandle), keep their names; all others get ".mcandle" behind theirs, as compilers name
# their own copies, so that backtraces still read well. That works alike for ELF and Mach-O, and leaves
# the objects apart, so that linkers leave out what a program does not use.
#
# LLVM's tools are those that belong to the compiler: it alone is sure to understand its objects.
set -euo pipefail
[ $# = 2 ] || [ $# = 3 ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
input=$1 output=$2 prefix=${3:-mcandle}

tools=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
[ -x "$tools/llvm-objcopy" ] || rustup component add llvm-tools
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

globals() {
    "$tools/llvm-nm" --no-llvm-bc --quiet --extern-only --defined-only --no-demangle --just-symbol-name "$1" |
        awk 'NF == 1 && !/:$/' | sort -u
}

# Bitcode, beside which some objects keep their symbols, is not looked into (--no-llvm-bc).
# Mach-O puts an underscore before C names.
globals "$input" | awk -v prefix="$prefix" '
    $0 !~ "^_?" prefix "_" && $0 !~ "\\." prefix "$" { print $0, $0 "." prefix }' >"$folder/names"
# Bitcode is of use only to the same compiler, and makes other tools stumble.
"$tools/llvm-objcopy" --redefine-syms="$folder/names" \
    --remove-section=.llvmbc --remove-section=.llvmcmd \
    --remove-section=__LLVM,__bitcode --remove-section=__LLVM,__cmdline "$input" "$folder/out.a"

globals "$folder/out.a" >"$folder/left"
grep -q "^_\{0,1\}${prefix}_" "$folder/left" || {
    echo "isolate.sh: $input has no symbol that begins with ${prefix}_" >&2
    exit 1
}
if grep -v -e "^_\{0,1\}${prefix}_" -e "\.${prefix}\$" "$folder/left" >&2; then
    echo "isolate.sh: the symbols above are global still" >&2
    exit 1
fi
mv "$folder/out.a" "$output"
echo "$output: $(wc -l <"$folder/names") symbols renamed"
