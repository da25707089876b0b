#!/usr/bin/env bash
# Makes the pages of the C interface with Doxygen, in target/doxygen/html. It fails on everything that
# is undocumented or that Doxygen does not understand.
#
# Usage: tests/doxygen.sh
set -euo pipefail
cd "$(dirname "$0")/.."

command -v doxygen >/dev/null || tests/install.sh doxygen

output="${CARGO_TARGET_DIR:-target}/doxygen"
mkdir -p "$output"
{
    cat bindings/Doxyfile
    echo "OUTPUT_DIRECTORY = \"$output\""
} | doxygen -

# A page without functions would pass too.
functions=$(grep -c '^ \* @param\[out\] error' include/metal_candle.h)
shown=$(cat "$output"/html/group__*.html | grep -c '<td class="paramname"><em>error</em>' || true)
if [ "$functions" -eq 0 ] || [ "$shown" -lt "$functions" ]; then
    echo "only $shown of $functions functions that can fail are in $output/html" >&2
    exit 1
fi
echo "the pages of the C interface are in $output/html"
