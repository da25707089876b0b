#!/bin/bash
# Tests bindings/isolate.sh, link-dylib.sh and swift/xcframework.py on small libraries for Apple's systems,
# which clang makes anywhere. Installs clang and lld where they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v clang-19 >/dev/null || ! command -v ld64.lld-19 >/dev/null; then
    tests/install.sh clang-19 lld-19
fi
tools=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
[ -x "$tools/llvm-ar" ] || rustup component add llvm-tools
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Two objects, so that the second's use of the first's symbols has to survive renaming, beside which lies
# what a Rust library has: a symbol with the same name in all of them.
cat >"$folder/first.c" <<'C'
int rust_eh_personality(void) { return NUMBER; }
C
cat >"$folder/second.c" <<'C'
int rust_eh_personality(void);
int NAME(void) { return rust_eh_personality(); }
C
# library FILE TARGET PREFIX NUMBER
library() {
    for source in first second; do
        clang-19 -target "$2" -ffreestanding -DNAME="$3_run" -DNUMBER="$4" -c "$folder/$source.c" -o "$folder/$source.o"
    done
    rm -f "$1"
    "$tools/llvm-ar" --format=darwin crs "$1" "$folder/first.o" "$folder/second.o"
}

expect_failure() { # WORD COMMAND...
    local word=$1
    shift
    if "$@" >"$folder/message" 2>&1; then
        echo "xcframework.sh: succeeded: $*" >&2
        exit 1
    fi
    grep -q -- "$word" "$folder/message" || { cat "$folder/message" >&2; exit 1; }
}

slices=()
while read -r slice target; do
    mkdir "$folder/$slice"
    library "$folder/raw.a" "$target" mcandle 1
    bindings/isolate.sh "$folder/raw.a" "$folder/$slice/libmetal_candle.a"
    slices+=("$slice=$folder/$slice/libmetal_candle.a")
done <<'TARGETS'
macos arm64-apple-macos15
ios arm64-apple-ios18
ios-simulator arm64-apple-ios18-simulator
TARGETS

# Two libraries link into one program only after they were isolated.
library "$folder/neighbour.a" arm64-apple-macos15 neighbour 2
library "$folder/ours.a" arm64-apple-macos15 mcandle 1
bindings/isolate.sh "$folder/neighbour.a" "$folder/isolated.a" neighbour
link() {
    ld64.lld-19 -dylib -arch arm64 -platform_version macos 15.0 15.0 -undefined dynamic_lookup -all_load \
        "$@" -o "$folder/both.dylib"
}
expect_failure "duplicate symbol: _rust_eh_personality" link "$folder/ours.a" "$folder/neighbour.a"
link "$folder/macos/libmetal_candle.a" "$folder/isolated.a"
exported=$("$tools/llvm-nm" --extern-only --defined-only --just-symbol-name "$folder/both.dylib" | sort | tr '\n' ' ')
[ "$exported" = "_mcandle_run _neighbour_run _rust_eh_personality.mcandle _rust_eh_personality.neighbour " ] || {
    echo "xcframework.sh: exported: $exported" >&2
    exit 1
}

# The shared library exports the C interface only, and is found by whoever says where to look.
CC="clang-19 -target arm64-apple-macos15 -mlinker-version=820 -fuse-ld=$(command -v ld64.lld-19) -nostdlib" \
    bindings/link-dylib.sh "$folder/macos/libmetal_candle.a" "$folder/libmetal_candle.0.3.1.dylib" -Wl,-undefined,dynamic_lookup
exported=$("$tools/llvm-nm" --extern-only --defined-only --just-symbol-name "$folder/libmetal_candle.0.3.1.dylib")
[ "$exported" = _mcandle_run ] || { echo "xcframework.sh: exported: $exported" >&2; exit 1; }
"$tools/llvm-objdump" --macho --dylib-id "$folder/libmetal_candle.0.3.1.dylib" | grep -qx '@rpath/libmetal_candle.0.3.dylib'

# The framework: its list, its parts, and the same zip twice.
make() { python3 bindings/swift/xcframework.py "$@" "${slices[@]}"; }
make "$folder/MetalCandleFFI.xcframework"
mv "$folder/MetalCandleFFI.xcframework.zip" "$folder/first.zip"
make "$folder/MetalCandleFFI.xcframework" >/dev/null
cmp "$folder/MetalCandleFFI.xcframework.zip" "$folder/first.zip"
python3 - "$folder/MetalCandleFFI.xcframework" <<'PYTHON'
import pathlib, plistlib, sys, zipfile

framework = pathlib.Path(sys.argv[1])
info = plistlib.loads((framework / "Info.plist").read_bytes())
assert info["CFBundlePackageType"] == "XFWK" and info["XCFrameworkFormatVersion"] == "1.0"
slices = {entry["LibraryIdentifier"]: entry for entry in info["AvailableLibraries"]}
assert sorted(slices) == ["ios-arm64", "ios-arm64-simulator", "macos-arm64"], slices
for name, entry in slices.items():
    assert (framework / name / entry["LibraryPath"]).stat().st_size > 0
    assert entry["SupportedArchitectures"] == ["arm64"] and entry["SupportedPlatform"] == name.split("-")[0]
    assert entry.get("SupportedPlatformVariant") == ("simulator" if name.endswith("simulator") else None)
    assert "HeadersPath" not in entry
names = zipfile.ZipFile(f"{framework}.zip").namelist()
assert len(names) == 4 and all(name.startswith("MetalCandleFFI.xcframework/") for name in names), names
PYTHON

# The module of the package's C target is found by its name.
printf '#pragma clang module import CMetalCandle\nuint32_t version(void) { return mcandle_abi_version(); }\n' >"$folder/module.c"
clang-19 -fmodules -fmodules-cache-path="$folder/cache" -fsyntax-only -Wall -Werror -target arm64-apple-macos15 \
    -ffreestanding -Ibindings/swift/Sources/CMetalCandle/include "$folder/module.c"

# What does not belong together is refused.
expect_failure "not for ios" python3 bindings/swift/xcframework.py "$folder/Wrong.xcframework" "ios=$folder/macos/libmetal_candle.a"
clang-19 -target x86_64-linux-gnu -ffreestanding -DNUMBER=1 -c "$folder/first.c" -o "$folder/first.o"
rm -f "$folder/raw.a"
"$tools/llvm-ar" crs "$folder/raw.a" "$folder/first.o"
expect_failure "not a Mach-O object" python3 bindings/swift/xcframework.py "$folder/Wrong.xcframework" "macos=$folder/raw.a"
[ ! -e "$folder/Wrong.xcframework" ]
echo "xcframework.sh: all is as it should be"
