#!/bin/bash
# Puts NVIDIA's compiler and headers, 13.0 from PyPI, into FOLDER/cuda, unless they are there. Neither a GPU nor a
# driver is needed; all of one version, because code of a later compiler is refused by drivers of that version.
#
#   tests/nvcc.sh FOLDER
set -euo pipefail
[ $# = 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
root=$1
[ ! -x "$root/cuda/bin/nvcc" ] || exit 0
mkdir -p "$root/wheels" "$root/unpacked"
python3 -m pip download -q --no-deps --only-binary=:all: -d "$root/wheels" nvidia-cuda-nvcc==13.0.88 \
    nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
for wheel in "$root"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$root/unpacked"; done
ln -sfn unpacked/nvidia/cu13 "$root/cuda"
# Unpacked so, programs are not executable.
chmod +x "$root"/cuda/bin/* "$root"/cuda/nvvm/bin/*
[ -e "$root/cuda/lib64" ] || ln -s lib "$root/cuda/lib64"
