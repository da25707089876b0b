#!/bin/bash
# Links nothing, in the place of a linker for Apple's systems. Cargo links a shared library of llguidance on
# the way to our static one, which nobody uses and other systems cannot link.
set -euo pipefail
while [ $# -gt 0 ]; do
    [ "$1" != -o ] || : >"$2"
    shift
done
