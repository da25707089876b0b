// What the kernels share: 16 bytes of numbers at a time, and sums of a warp and of a block.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

constexpr int WARP = 32;
// Numbers in 16 bytes: of a type, and of 16 bits.
template <class T> constexpr int PACK = 16 / sizeof(T);
constexpr int WIDTH = 8;

__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ void store(__nv_bfloat16 *place, float x) { *place = __float2bfloat16_rn(x); }
__device__ __forceinline__ void store(__half *place, float x) { *place = __float2half_rn(x); }
__device__ __forceinline__ void store(float *place, float x) { *place = x; }

template <class T> union Pack {
    uint4 bits;
    T numbers[PACK<T>];
};

template <class T> __device__ __forceinline__ Pack<T> load(const T *from) {
    Pack<T> pack;
    pack.bits = *reinterpret_cast<const uint4 *>(from);
    return pack;
}

// Weights are read once: they need not stay in the first cache.
template <class T> __device__ __forceinline__ Pack<T> load_once(const T *from) {
    Pack<T> pack;
    pack.bits = __ldcs(reinterpret_cast<const uint4 *>(from));
    return pack;
}

template <class T> __device__ __forceinline__ float dot(const Pack<T> &a, const Pack<T> &b, float sum) {
#pragma unroll
    for (int i = 0; i < PACK<T>; i++) sum = fmaf(to_float(a.numbers[i]), to_float(b.numbers[i]), sum);
    return sum;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// Of all threads of the block, for all of them. `scratch` has a number for each warp.
template <bool SUM> __device__ float block_reduce(float x, float *scratch) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    x = SUM ? warp_sum(x) : warp_max(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = scratch[0];
    for (int i = 1; i < warps; i++) x = SUM ? x + scratch[i] : fmaxf(x, scratch[i]);
    __syncthreads();
    return x;
}

template <class T> __device__ __forceinline__ void store(T *to, const Pack<T> &pack) {
    *reinterpret_cast<uint4 *>(to) = pack.bits;
}
