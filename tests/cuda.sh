#!/bin/bash
# Runs cargo with the feature `cuda` on a machine that needs neither a GPU, a driver nor CUDA's toolkit: the
# compiler comes from PyPI, and programs look for the driver when they start.
#
#   tests/cuda.sh bench --no-run --bench shapes
#   tests/cuda.sh test --no-run --release --test cuda_kernels
#
# What comes of it runs where there is a driver, cuBLAS 13 and cuRAND 10. CUDA_COMPUTE_CAP is the GPU's
# capability, 90 if it is not set. It takes Linux on x86-64, g++, python3 with pip, and 3 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "${MCANDLE_CUDA_ROOT:-target/cuda}"
root=$(realpath "${MCANDLE_CUDA_ROOT:-target/cuda}")

tests/nvcc.sh "$root"

# Libraries that the build asks for, and that are looked for only at run time: empty ones do. The rest is linked
# statically.
stubs=$root/linkstubs
mkdir -p "$stubs"
for library in cuda nvrtc curand cublas cublasLt; do printf '!<arch>\n' >"$stubs/lib$library.a"; done
ln -sfn "$root/cuda/lib/libcudart_static.a" "$stubs/libcudart.a"
ln -sfn "$(g++ -print-file-name=libstdc++.a)" "$stubs/libstdc++.a"

unset CUDA_PATH CUDA_ROOT CUDA_TOOLKIT_ROOT_DIR NVCC_CCBIN
export CUDA_HOME=$root/cuda NVCC=$root/cuda/bin/nvcc PATH=$root/cuda/bin:$PATH
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} CUDARC_CUDA_VERSION=13000 CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)}
# As a cfg it reaches cudarc, whose feature of that name candle's choice excludes; with a target it does not reach
# build scripts.
export RUSTFLAGS="--cfg feature=\"dynamic-loading\" -L native=$stubs"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
exec cargo "$1" --locked --features cuda --target x86_64-unknown-linux-gnu "${@:2}"
