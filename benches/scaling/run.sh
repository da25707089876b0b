#!/bin/bash
# Measures how costs grow, draws them into benches/plots, and writes exponents and estimates into
# BENCHMARKS.md: run.sh [RESULTS], where RESULTS is what an earlier run printed.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=${1:-target/scaling.json}
if [ $# -eq 0 ]; then
    mkdir -p target
    cargo bench --locked --bench scaling >"$results"
fi
export PYTHONPATH=benches/common PYTHONDONTWRITEBYTECODE=1
exec python3 benches/scaling/report.py "$results"
