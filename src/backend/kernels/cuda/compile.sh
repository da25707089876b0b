#!/bin/bash
# Makes a .ptx of each .cu, for every NVIDIA GPU from compute capability 8.0 on. It takes nvcc 13.0, which
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
for source in *.cu; do "$nvcc" -ptx -arch=compute_80 -O3 --std=c++17 "$source" -o "${source%.cu}.ptx"; done
# What they were made of: a test holds them together.
python3 - <<'PYTHON'
import pathlib
for source in sorted(pathlib.Path(".").glob("*.cu")):
    state = 0xcbf29ce484222325
    for byte in source.read_bytes() + pathlib.Path("numbers.cuh").read_bytes():
        state = (state ^ byte) * 0x100000001b3 % 2**64
    ptx = source.with_suffix(".ptx")
    ptx.write_text(f"// FNV-1a of {source} and numbers.cuh: {state:016x}\n" + ptx.read_text())
PYTHON
