#!/bin/bash
# Holds the binary interface against that of an earlier revision: an incompatible change has to raise
# MCANDLE_ABI_VERSION.
#
#   tests/abi.sh [REVISION]     the last tag that leads here, where none is given
#
# Before, it shows on changed copies of the header that it catches such changes. What is compared are
# libraries made of the header alone, one empty function for each declaration, with debug information:
# tests/header holds the header against the Rust code, and Rust's own debug information would take two
# builds of everything. abidiff sees functions and types; the constants, which are macros, are compared
# as text.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v abidiff >/dev/null || tests/install.sh abigail-tools
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Makes NAME.so, and NAME.constants, from a header on the standard input.
library() {
    cat >"$folder/$1.h"
    cc -E -P "$folder/$1.h" | awk 'BEGIN { RS = ORS = ";" }
        /_Static_assert/ { next } # which compilers would catch, and not all programs have
        /mcandle_[a-z0-9_]+ *\(/ && !/typedef/ { print $0 " { for (;;) {} }\n"; next } { print }' |
        sed '$ s/;$//' >"$folder/$1.c"
    cc -g -fno-eliminate-unused-debug-types -shared -fPIC -w "$folder/$1.c" -o "$folder/$1.so"
    cc -E -dM "$folder/$1.h" | sed -n 's/^#define \(MCANDLE_[A-Z0-9_]* [^ ].*\)/\1/p' |
        grep -v '^MCANDLE_\(ABI_\)\{0,1\}VERSION[A-Z_]* \|^MCANDLE_\(NONNULL\|NULLABLE\|MUST_USE\) ' |
        sort >"$folder/$1.constants"
}

# Whether a program built for OLD runs with NEW. What is new is no change.
compatible() {
    local status=0
    abidiff --no-added-syms "$folder/$1.so" "$folder/$2.so" >"$folder/report" 2>&1 || status=$?
    # 4 and 8 are changes, 1 and 2 errors.
    [ $((status & 3)) = 0 ] || { cat "$folder/report" >&2; exit 1; }
    if comm -23 "$folder/$1.constants" "$folder/$2.constants" | grep . >>"$folder/report"; then
        return 1
    fi
    return "$status"
}

header=include/metal_candle.h
library current <$header
functions=$(nm -D --defined-only "$folder/current.so" | grep -c ' mcandle_')
[ "$functions" = "$(wc -l <include/metal_candle.symbols)" ] || {
    echo "abi.sh: $functions functions of the header were understood, not all" >&2
    exit 1
}
compatible current current || { cat "$folder/report"; echo "abi.sh: differs from itself" >&2; exit 1; }

# A name, and a change of the header that no program survives.
breaks() {
    sed -E -e "$2" $header | library changed
    if cmp -s "$folder/changed.h" $header; then
        echo "abi.sh: '$1' changes nothing" >&2
        exit 1
    fi
    if compatible current changed; then
        echo "abi.sh: '$1' was not caught" >&2
        exit 1
    fi
    echo "caught: $1"
}
breaks "a function is gone" '/^uint32_t mcandle_abi_version/d'
breaks "a result is wider" 's/^uint32_t (mcandle_abi_version)/uint64_t \1/'
breaks "all statuses are wider" 's/^typedef int32_t mcandle_status/typedef int64_t mcandle_status/'
breaks "a parameter is narrower" '/mcandle_generate_options_set_max_tokens\(/,/;/ s/size_t|uint32_t/uint16_t/'
breaks "a parameter is gone" '/mcandle_generator_new\(/,/;/ s/const mcandle_model \*[^,]*model,//'
breaks "parameters have changed places" \
    '/ mcandle_abi_version/ s/.*/uint32_t mcandle_abi_version(void);/; /mcandle_adapter_save\(/,/;/ { s/const mcandle_adapter \*[^,]*adapter,/const char *path,/; t; s/const char \*[^,]*path,/const mcandle_adapter *adapter,/ }'
breaks "a callback gives something else" 's/typedef bool (\(\*mcandle_chunk_callback)/typedef double \1/'
breaks "a constant has another value" 's/^(#define MCANDLE_IO) .*/\1 99/'

printf '%s\nvoid mcandle_new_function(void);\n' "$(cat $header)" | library grown
compatible current grown || { cat "$folder/report"; echo "abi.sh: a new function is no break" >&2; exit 1; }

revision=${1:-$(git describe --tags --abbrev=0 2>/dev/null || true)}
if [ -z "$revision" ]; then
    echo "No release yet, so there is nothing to compare with."
    exit
fi
git show "$revision:$header" | library old
version() { sed -n 's/^#define MCANDLE_ABI_VERSION //p' "$1"; }
if compatible old current; then
    echo "Programs built for $revision run with this."
elif [ "$(version "$folder/old.h")" = "$(version $header)" ]; then
    cat "$folder/report"
    echo "abi.sh: incompatible with $revision, with the same MCANDLE_ABI_VERSION" >&2
    exit 1
else
    echo "Incompatible with $revision, which MCANDLE_ABI_VERSION says."
fi
