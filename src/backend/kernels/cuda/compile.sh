#!/bin/bash
# Makes decode.ptx of decode.cu, for every NVIDIA GPU from compute capability 8.0 on. It takes nvcc 13.0, which
# it fetches from PyPI where there is none; neither a GPU nor a driver is needed.
set -euo pipefail
cd "$(dirname "$0")"
nvcc=${NVCC:-$(command -v nvcc || true)}
if [ -z "$nvcc" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    python3 -m pip download -q --no-deps --only-binary=:all: -d "$folder" nvidia-cuda-nvcc==13.0.88 \
        nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
    for wheel in "$folder"/*.whl; do python3 -m zipfile -e "$wheel" "$folder"; done
    # Unpacked so, programs are not executable.
    chmod +x "$folder"/nvidia/cu13/bin/* "$folder"/nvidia/cu13/nvvm/bin/*
    nvcc=$folder/nvidia/cu13/bin/nvcc
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
