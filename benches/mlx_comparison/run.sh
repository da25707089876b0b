#!/bin/bash
# Measures this library beside mlx-lm, on a Mac both on its GPU: run.sh [--folder FOLDER] [--venv VENV]
# [ARGUMENT OF benches/peers/run.py]... The table goes between the markers `mlx` of BENCHMARKS.md.
#
# On Linux both take the CPU, for which MLX is not made; that shows that the comparison works.
set -euo pipefail
exec "$(dirname "$0")/../peers/run.sh" "$@" --entrants metal-candle mlx-lm --device auto --marker mlx
