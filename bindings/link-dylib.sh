#!/bin/bash
# Links the shared library of Apple's systems from the static one, so that it exports the functions of the
# C interface only. Cargo's own exports those of other crates too, and Apple's linker takes no list of
# exceptions beside the list of exports that the compiler gives it.
#
#   bindings/link-dylib.sh IN.a libmetal_candle.MAJOR.MINOR.PATCH.dylib [LIBRARY...]
#
# CC is the compiler; the libraries are options of the linker.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
input=$1 output=$2
shift 2
version=$(basename "$output" .dylib)
version=${version#libmetal_candle.}
# The part of the version that tells which releases are compatible.
case $version in
    0.0.*) series=$version ;;
    0.*) series=${version%.*} ;;
    *) series=${version%%.*} ;;
esac

tools=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$tools/llvm-nm" --no-llvm-bc --quiet --extern-only --defined-only --just-symbol-name "$input" | grep '^_mcandle_' | sort >"$folder/exports"
read -ra cc <<<"${CC:-cc}"
"${cc[@]}" -dynamiclib -o "$folder/out.dylib" "-Wl,-force_load,$input" -Wl,-dead_strip \
    "-Wl,-exported_symbols_list,$folder/exports" "-Wl,-install_name,@rpath/libmetal_candle.$series.dylib" \
    "-Wl,-compatibility_version,$series" "-Wl,-current_version,$version" -Wl,-headerpad_max_install_names "$@"
"$tools/llvm-nm" --no-llvm-bc --quiet --extern-only --defined-only --just-symbol-name "$folder/out.dylib" | sort | cmp - "$folder/exports"
mv "$folder/out.dylib" "$output"
