#!/bin/bash
# Tests the Swift package and what is around it, on Linux. On a Mac `swift test` runs the tests.
#
#   bindings/swift/test.sh [SECTION...]
#
#   lint       the format, and what swift-format finds
#   parse      every file is parsed for macOS and iOS, whose code is not compiled elsewhere
#   tests      XCTest and Swift Testing, compiled without warnings
#   docs       every public symbol has a comment, DocC makes pages without warnings, samples compile
#   address    the tests with AddressSanitizer and LeakSanitizer
#   thread     the tests with ThreadSanitizer
#   release    an XCFramework of small libraries: Package.swift before, at and after a release
#   consumer   an app that depends on the package by its path, and by a version
#   examples   the programs of examples-swift, and the tests of its app
#
# Without a section all run. toolchain.sh brings Swift; where it cannot, this ends with 75. The library is
# built as cargo does for development, unless METAL_CANDLE_LIB_DIR names a folder that has it.
set -euo pipefail
cd "$(dirname "$0")/../.."
repository=$PWD

swift() { in_toolchain swift "$@"; }
in_toolchain() { bindings/swift/toolchain.sh exec "$@"; }
fail() { echo "test.sh: $*" >&2; exit 1; }

expect_failure() { # WORD COMMAND...
    local status=0
    "${@:2}" >"$scratch/message" 2>&1 || status=$?
    if [ $status = 0 ] || ! grep -q -e "$1" "$scratch/message"; then
        cat "$scratch/message" >&2
        fail "it ended with $status and was to say \"$1\": ${*:2}"
    fi
}

# What git knows or would add, so that no build is looked into.
files() { # PATTERN...
    local file
    git ls-files --cached --others --exclude-standard "$@" | while read -r file; do
        # What was deleted and not committed is listed as well.
        [ ! -e "$file" ] || echo "$file"
    done
}

swift_files() { files '*.swift'; }

copy_package() { # FOLDER
    mkdir -p "$1"
    files Package.swift bindings include | tar -c --files-from - | tar -x -C "$1"
}

lint() {
    swift_files | xargs bindings/swift/toolchain.sh exec swift format lint --strict --parallel
    # It leaves comments as long as they are.
    ! swift_files | LC_ALL=C.UTF-8 xargs grep -nE '^.{121}' || fail "lines of more than 120 characters"
    printf 'let a  = [1].first!\n' >"$scratch/planted.swift"
    expect_failure NeverForceUnwrap swift format lint --strict --configuration .swift-format "$scratch/planted.swift"
}

parse() {
    local target
    for target in arm64-apple-macosx15.0 arm64-apple-ios18.0; do
        # One by one, or only main.swift might have statements.
        # shellcheck disable=SC2016
        swift_files | xargs bindings/swift/toolchain.sh exec \
            bash -ec 'for file; do swiftc -frontend -parse -target "$0" "$file"; done' $target
    done
    printf '#if os(iOS)\nfunc {\n#endif\n' >"$scratch/planted.swift"
    expect_failure "expected" in_toolchain swiftc -frontend -parse -target $target "$scratch/planted.swift"
}

# SwiftPM does not know that the library is an input, and would go on testing what it linked once. So the
# command that links names the library's contents.
build_flags() {
    echo -Xswiftc -warnings-as-errors -Xcc -Werror -Xlinker "-L/contents/$(cksum <"$library" | tr ' ' .)"
}

# Both libraries of tests ran some: a filter that matches nothing passes as well.
ran_both() { # LOG
    grep -Eq 'Executed [1-9][0-9]* tests?, with ' "$1" && grep -Eq 'Test run with [1-9][0-9]* tests? ' "$1"
}

# Builds the tests, once for each folder and always with the same flags, and runs them.
run_tests() { # FOLDER OPTION...
    local flags log=$scratch/$1.log
    read -ra flags <<<"$(build_flags)"
    flags+=(--scratch-path "$scratch/$1" "${@:2}")
    swift build --build-tests "${flags[@]}"
    swift test --skip-build "${flags[@]}" 2>&1 | tee "$log"
    ran_both "$log" || fail "one of XCTest and Swift Testing ran nothing"
}

# What is told about the public interface, extensions of others' types included.
graphs_flags() {
    printf -- '-Xswiftc %s ' -emit-symbol-graph -emit-symbol-graph-dir "$scratch/graphs" -emit-extension-block-symbols
}

tests() {
    local flags
    read -ra flags <<<"$(graphs_flags)"
    run_tests debug "${flags[@]}"
    swift test --skip-build --scratch-path "$scratch/debug" --filter no_such_test >"$scratch/nothing.log" 2>&1
    ! ran_both "$scratch/nothing.log" || fail "a run of no tests was taken for one"
}

docs() {
    local flags
    read -ra flags <<<"$(build_flags) $(graphs_flags)"
    # The build of the tests, if it was made already.
    swift build --build-tests --scratch-path "$scratch/debug" "${flags[@]}"
    rm -rf "$scratch/pages" "$scratch/module"
    mkdir -p "$scratch/module"
    cp "$scratch"/graphs/MetalCandle{,@*}.symbols.json "$scratch/module" 2>/dev/null || true
    python3 bindings/swift/undocumented.py "$scratch"/module/*.symbols.json
    in_toolchain docc convert bindings/swift/Sources/MetalCandle/MetalCandle.docc \
        --additional-symbol-graph-dir "$scratch/module" --fallback-display-name MetalCandle \
        --fallback-bundle-identifier MetalCandle --output-dir "$scratch/pages" --warnings-as-errors
    [ -f "$scratch/pages/data/documentation/metalcandle.json" ] || fail "DocC made no pages"
    SWIFTC="$repository/bindings/swift/toolchain.sh exec swiftc" \
        python3 bindings/swift/check-samples.py "$scratch/debug/debug"
}

# The tests that a sanitizer has to find fault with.
planted() { # FOLDER OPTION... PLANT WORD
    local options=("${@:2:$#-3}")
    METAL_CANDLE_PLANT=${*: -2:1} expect_failure "${*: -1}" \
        swift test --skip-build --scratch-path "$scratch/$1" "${options[@]}" --filter PlantedTests
}

# XCTest leaks what it runs tests with. Of each allocation only five callers are kept: with more, those who
# call a test were among them, and what a test leaks would be taken for XCTest's.
address() {
    export LSAN_OPTIONS=suppressions=$repository/bindings/swift/Tests/Sanitizers/leaks.txt:print_suppressions=0
    export ASAN_OPTIONS=detect_leaks=1:malloc_context_size=5:allow_addr2line=1
    run_tests address --sanitize address
    planted address --sanitize address leak "LeakSanitizer: detected memory leaks"
}

# What Rust does is not seen: neither its races, which tests/sanitizers.sh looks for, nor its locks. Threads
# that it starts are, and so are all accesses of Swift. Where Swift's memory goes from thread to thread by a
# lock of Rust alone, a race is reported that is none: races.txt has those.
thread() {
    export TSAN_OPTIONS=suppressions=$repository/bindings/swift/Tests/Sanitizers/races.txt
    in_toolchain clang -O1 -g -c bindings/swift/Tests/Sanitizers/mutex.c -o "$scratch/mutex.o"
    run_tests thread --sanitize thread -Xlinker "$scratch/mutex.o"
    planted thread --sanitize thread race "ThreadSanitizer: Swift access race"
}

# The manifest as a Mac evaluates it.
manifest_of_mac() { # PACKAGE
    sed 's/#if os(macOS)/#if true/' Package.swift >"$1/Package.swift"
}

release() {
    local package=$scratch/package target slice slices=() zip
    rm -rf "$package" "$scratch/slices"
    mkdir -p "$scratch/slices"
    copy_package "$package"
    manifest_of_mac "$package"
    unset METAL_CANDLE_LIB_DIR

    # Without a library there is a word of what to do.
    expect_failure "make-xcframework.sh" swift package --package-path "$package" describe

    printf 'int mcandle_run(void) { return 1; }\n' >"$scratch/slices/one.c"
    while read -r slice target; do
        mkdir "$scratch/slices/$slice"
        (
            cd "$scratch/slices"
            tool=$repository/bindings/swift/toolchain.sh
            "$tool" exec clang -target "$target" -ffreestanding -c one.c -o "$slice/one.o"
            "$tool" exec llvm-ar --format=darwin crs "$slice/libmetal_candle.a" "$slice/one.o"
        ) </dev/null
        slices+=("$slice=$scratch/slices/$slice/libmetal_candle.a")
    done <<'TARGETS'
macos arm64-apple-macos15
ios arm64-apple-ios18
ios-simulator arm64-apple-ios18-simulator
TARGETS
    zip=$package/bindings/swift/MetalCandleFFI.xcframework.zip
    python3 bindings/swift/xcframework.py "${zip%.zip}" "${slices[@]}"

    # It is found where it lies, and each platform gets its own library. It is the plan that counts: nothing
    # is compiled, for want of Apple's SDK, and the tools that SwiftPM asks for do nothing.
    mkdir -p "$scratch/apple"
    printf '#!/bin/sh\n' | tee "$scratch/apple/libtool" >"$scratch/apple/xcrun"
    chmod +x "$scratch"/apple/*
    planned macosx15.0 macos-arm64
    planned ios18.0 ios-arm64

    # A release has it by its address and checksum.
    local checksum
    checksum=$(swift package compute-checksum "$zip")
    python3 "$package/bindings/swift/release.py" "$zip" https://example.invalid/MetalCandleFFI.xcframework.zip
    rm -rf "${zip%.zip}"
    swift package --package-path "$package" dump-package >"$scratch/dump.json"
    grep -q "\"checksum\" : \"$checksum\"" "$scratch/dump.json" || fail "the release does not have its checksum"
    swift format lint --strict --configuration .swift-format "$package/Package.swift"
    expect_failure "does not have the line" \
        python3 "$package/bindings/swift/release.py" "$zip" https://example.invalid/MetalCandleFFI.xcframework.zip
}

planned() { # TRIPLE SLICE
    rm -rf "$scratch/plan"
    # shellcheck disable=SC2016
    expect_failure "header.c" in_toolchain bash -c 'PATH=$0:$PATH exec swift "$@"' "$scratch/apple" \
        build --package-path "$package" --scratch-path "$scratch/plan" --triple "arm64-apple-$1"
    grep -q "inputs: .*/MetalCandleFFI.xcframework/$2/libmetal_candle.a\"" "$scratch/plan/debug.yaml" ||
        fail "the slice of $1 is not copied"
    grep -q '"-lmetal_candle".*"-framework","Metal"' "$scratch/plan/debug.yaml" || fail "$1 does not link the library"
}

consumer() {
    local version flags
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    rm -rf "$scratch/consumer"
    mkdir -p "$scratch/consumer"
    read -ra flags <<<"$(build_flags)"
    app by-path ".package(name: \"metal-candle\", path: \"$repository\")" ".v6" "${flags[@]}"

    # Of a version SwiftPM does not take unsafe flags: it is the app that says where the library is. A shared
    # library beside it would win, so the folder has no other.
    mkdir "$scratch/consumer/lib"
    ln -s "$library" "$scratch/consumer/lib/"
    copy_package "$scratch/consumer/metal-candle"
    (
        unset METAL_CANDLE_LIB_DIR
        export GIT_CONFIG_GLOBAL=/dev/null
        cd "$scratch/consumer/metal-candle"
        git init -q
        git add .
        git -c user.name=test -c user.email=test@example.invalid commit -qm "The package"
        git tag "v$version"
        cd "$repository"
        app by-version ".package(url: \"file://$scratch/consumer/metal-candle\", exact: \"$version\")" ".v5" \
            -Xlinker "-L$scratch/consumer/lib" --cache-path "$scratch/consumer/cache" \
            --security-path "$scratch/consumer/security"
    )
}

# Builds and runs the app of Tests/Consumer.
app() { # NAME DEPENDENCY LANGUAGE-MODE FLAG...
    local folder=$scratch/consumer/$1 printed
    mkdir -p "$folder/Sources/Consumer"
    cp bindings/swift/Tests/Consumer/*.swift "$folder/Sources/Consumer"
    cat >"$folder/Package.swift" <<SWIFT
// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "Consumer",
    platforms: [.macOS(.v15)],
    dependencies: [$2],
    targets: [
        .executableTarget(name: "Consumer", dependencies: [.product(name: "MetalCandle", package: "metal-candle")])
    ],
    swiftLanguageModes: [$3]
)
SWIFT
    swift build --package-path "$folder" --scratch-path "$folder/build" "${@:4}"
    printed=$(in_toolchain "$folder/build/debug/Consumer" "$repository/assets/tiny-coder")
    echo "$printed"
    [ -n "$printed" ] || fail "the app that depends on the package $1 printed nothing"
}

# Their own script says what is built and run.
examples() {
    TOOLCHAIN="$repository/bindings/swift/toolchain.sh exec" examples-swift/run.sh
}

sections=(lint parse tests docs address thread release consumer examples)
[ $# = 0 ] || sections=("$@")
for section in "${sections[@]}"; do
    case $section in
        lint | parse | tests | docs | address | thread | release | consumer | examples) ;;
        *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done

bindings/swift/toolchain.sh setup
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(realpath "$target")
scratch=$target/swift
mkdir -p "$scratch"
if [ -z "${METAL_CANDLE_LIB_DIR:-}" ]; then
    cargo build --lib --locked
    METAL_CANDLE_LIB_DIR=$target/debug
fi
METAL_CANDLE_LIB_DIR=$(realpath "$METAL_CANDLE_LIB_DIR")
export METAL_CANDLE_LIB_DIR
library=$METAL_CANDLE_LIB_DIR/libmetal_candle.a

for section in "${sections[@]}"; do
    started=$SECONDS
    printf '\n--- %s\n' "$section"
    ($section)
    printf -- '--- %s passed in %s s\n' "$section" "$((SECONDS - started))"
done
printf '\nthe Swift package passed in %s s\n' "$SECONDS"
