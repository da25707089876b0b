#!/bin/bash
# Installs the libraries, headers, metal-candle.pc and the CMake package into a folder that can be moved.
#
#   bindings/package.sh PREFIX [OPTION...]
#
# The options are those of `cargo cinstall`: --target, --features, --profile and so on. It needs cargo-c
# (`cargo install --locked cargo-c`), and does beyond it: the static library is isolated, on Apple's
# systems the shared one exports the functions of the header only, and metal-candle.pc names no folder.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
shift

cargo cinstall --version >/dev/null || { echo "package.sh: cargo-c is needed" >&2; exit 1; }
cargo cinstall --locked --manifest-path "$root/Cargo.toml" --prefix "$prefix" --libdir lib "$@"

archive=$prefix/lib/libmetal_candle.a
"$here/isolate.sh" "$archive" "$archive"

# Programs see by the header what the libraries have.
if ! grep -q mcandle_trainer_new "$archive"; then
    header=$prefix/include/metal_candle.h
    awk '{ print } /^#define METAL_CANDLE_H$/ { print "#undef MCANDLE_WITHOUT_TRAINING\n#define MCANDLE_WITHOUT_TRAINING 1" }' \
        "$header" >"$header.new"
    mv "$header.new" "$header"
fi

pc=$prefix/lib/pkgconfig/metal-candle.pc
# shellcheck disable=SC2016 # pkg-config replaces it
sed 's|^prefix=.*|prefix=${pcfiledir}/../..|' "$pc" >"$pc.new"
mv "$pc.new" "$pc"

# Mach-O cannot hide what another crate exports (src/ffi/hidden.rs), so the library is linked again.
for dylib in "$prefix"/lib/libmetal_candle.*.*.*.dylib; do
    [ -e "$dylib" ] || continue
    read -ra libraries <<<"$(sed -n 's/^Libs.private: //p' "$pc")"
    "$here/link-dylib.sh" "$archive" "$dylib" "${libraries[@]}"
done

mkdir -p "$prefix/share/doc/metal-candle"
cp "$root"/LICENSE-* "$root/README.md" "$root/CHANGELOG.md" "$prefix/share/doc/metal-candle/"
