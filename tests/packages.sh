#!/bin/bash
# Installs the libraries and uses them as programs elsewhere do: by pkg-config and CMake, from a folder that
# moved, static and shared, and beside another Rust library. Exits with 75 where cargo-c cannot be had.
#
# It installs what is missing, and builds without optimisation, which takes less time than it costs.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=${CARGO_TARGET_DIR:-$root/target}/packages
mkdir -p "$work"
work=$(cd "$work" && pwd)
say() { printf -- '--- %s (%s s)\n' "$1" "$SECONDS"; }
fail() { echo "packages.sh: $1" >&2; exit 1; }

say "tools"
missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v c++ >/dev/null || missing+=(g++)
command -v cmake >/dev/null || missing+=(cmake)
command -v make >/dev/null || missing+=(make)
command -v pkg-config >/dev/null || missing+=(pkg-config)
command -v cargo-cinstall >/dev/null || [ -e /usr/include/openssl/ssl.h ] || missing+=(libssl-dev)
tests/install.sh "${missing[@]}"
PATH=$PATH:$work/tools/bin
if ! command -v cargo-cinstall >/dev/null; then
    # Not optimised: it runs once or twice.
    CARGO_TARGET_DIR=$work/cargo-c CARGO_PROFILE_DEV_DEBUG=false CARGO_INCREMENTAL=0 \
        cargo install --locked --debug --root "$work/tools" --bin cargo-cinstall cargo-c@0.10.24+cargo-0.98.0 || exit 75
    rm -rf "$work/cargo-c"
fi

say "package"
rm -rf "$work/installed" "$work/moved"
export CARGO_TARGET_DIR=$work/target CARGO_INCREMENTAL=0
bindings/package.sh "$work/installed" --profile dev --config profile.dev.opt-level=0 \
    --config profile.dev.debug=false --config 'profile.dev.package."*".opt-level=0'
mv "$work/installed" "$work/moved"
prefix=$work/moved
archive=$prefix/lib/libmetal_candle.a
raw=$(echo "$CARGO_TARGET_DIR"/*/debug/libmetal_candle.a)
if grep -rlIF "$work/installed" "$prefix"; then fail "these files know the folder where they were installed"; fi

say "names"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
series=${version%.*}
[ "$(readlink "$prefix/lib/libmetal_candle.so.$series")" = "libmetal_candle.so.$version" ] || fail "no link for $series"
readelf -d "$prefix/lib/libmetal_candle.so" | grep -qF "[libmetal_candle.so.$series]" || fail "no SONAME"
nm -D --defined-only "$prefix/lib/libmetal_candle.so" | awk '{ print $3 }' | sort | cmp - include/metal_candle.symbols
nm -g --defined-only "$archive" | awk 'NF == 3 { print $3 }' | sort -u >"$work/globals"
grep -v '\.mcandle$' "$work/globals" | cmp - include/metal_candle.symbols
for file in include/metal_candle.h lib/pkgconfig/metal-candle.pc share/cmake/MetalCandle/MetalCandleConfig.cmake \
    share/doc/metal-candle/LICENSE-MIT; do
    [ -s "$prefix/$file" ] || fail "$file is not installed"
done
find bindings/cpp -name '*.hpp' -printf '%P\n' 2>/dev/null | while read -r file; do
    cmp "bindings/cpp/$file" "$prefix/include/$file"
done

# Runs a program, which has to need the shared library or not to.
run() { # static|shared PROGRAM ARGUMENT...
    local kind=static
    ! readelf -d "$2" | grep -q 'NEEDED.*libmetal_candle' || kind=shared
    [ "$kind" = "$1" ] || fail "$2 is linked with the $kind library"
    shift
    LD_LIBRARY_PATH=$prefix/lib "$@"
}
build=(cc -std=c99 -Wall -Wextra -Werror -pedantic tests/packages/program.c)

say "pkg-config"
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
[ "$(pkg-config --modversion metal-candle)" = "$version" ] || fail "metal-candle.pc has another version"
read -ra flags <<<"$(pkg-config --cflags --libs metal-candle)"
"${build[@]}" "${flags[@]}" -o "$work/program"
run shared "$work/program" assets/tiny-coder
read -ra flags <<<"$(pkg-config --static --cflags --libs metal-candle)"
"${build[@]}" "${flags[@]/#-lmetal_candle/-l:libmetal_candle.a}" -o "$work/program"
run static "$work/program" assets/tiny-coder

say "CMake"
configure() { # SOURCE OPTION...
    rm -rf "$work/build"
    cmake -S "$1" -B "$work/build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Debug "${@:2}"
}
for kind in static shared; do
    shared=$([ $kind = shared ] && echo ON || echo OFF)
    configure tests/packages -DVERSION="$version;EXACT" -DBUILD_SHARED_LIBS="$shared" >/dev/null
    cmake --build "$work/build"
    run $kind "$work/build/program" assets/tiny-coder
done
for other in 0.0.1 "$series.999" 9; do
    if configure tests/packages -DVERSION="$other" >/dev/null 2>&1; then fail "CMake takes it for version $other"; fi
done
configure examples-c >/dev/null
cmake --build "$work/build" --parallel
for source in examples-c/*.c examples-c/*.cpp; do
    [ -e "$source" ] || continue
    name=$(basename "${source%.*}")$([ "${source##*.}" = c ] || echo -cpp)
    for kind in static shared; do
        [ -x "$work/build/$name-$kind" ] || fail "CMake did not build $name-$kind"
    done
done
for kind in static shared; do
    run $kind "$work/build/complete-$kind" --help >/dev/null
done

say "two Rust libraries in one program"
cargo build --locked --manifest-path tests/packages/neighbour/Cargo.toml
neighbour=$CARGO_TARGET_DIR/debug/libneighbour.a
build+=(-DNEIGHBOUR -Iinclude)
libraries=(-lpthread -ldl -lm)
if "${build[@]}" "$raw" "$neighbour" "${libraries[@]}" -o "$work/program" 2>"$work/message"; then
    fail "the library need not be isolated any more"
fi
grep -q 'multiple definition of .rust_eh_personality' "$work/message" || { cat "$work/message"; fail "another error"; }
"${build[@]}" "$archive" "$neighbour" "${libraries[@]}" -o "$work/program"
run static "$work/program" assets/tiny-coder
# Panics are caught in an isolated library too.
bindings/isolate.sh "$neighbour" "$work/neighbour.a" neighbour
"${build[@]}" "$work/neighbour.a" "$archive" "${libraries[@]}" -o "$work/program"
run static "$work/program" assets/tiny-coder

rm -rf "$work/build" "$work/program" "$work/neighbour.a"
say "done"
