#!/bin/bash
# Makes decode.ptx of decode.cu, for every NVIDIA GPU from compute capability 8.0 on. It takes nvcc 13.0, which
# it fetches from PyPI where there is none; neither a GPU nor a driver is needed.
set -euo pipefail
cd "$(dirname "$0")"
nvcc=${NVCC:-$(command -v nvcc || true)}
if [ -z "$nvcc" ]; then
    tests=../../../../tests
    root=${MCANDLE_CUDA_ROOT:-$tests/../target/cuda}
    "$tests/nvcc.sh" "$root"
    nvcc=$root/cuda/bin/nvcc
fi
"$nvcc" -ptx -arch=compute_80 -O3 --std=c++17 decode.cu -o decode.ptx
# What it was made of: a test holds the two together.
python3 - <<'PYTHON'
import pathlib
source = pathlib.Path("decode.cu").read_bytes()
state = 0xcbf29ce484222325
for byte in source:
    state = (state ^ byte) * 0x100000001b3 % 2**64
ptx = pathlib.Path("decode.ptx")
ptx.write_text(f"// FNV-1a of decode.cu: {state:016x}\n" + ptx.read_text())
PYTHON
