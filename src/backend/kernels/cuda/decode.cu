// One token through a decoder layer in four kernels, and through the output head in one.
//
// A token reads every weight once, so that what counts is that reads are wide and that launches are few. Numbers
// are added up in 32 bits; what is rounded to 16 is what a kernel writes, and the normed input, as with operations
// one by one. A warp computes a row of a matrix: each lane reads 16 bytes at a time, beside those of its neighbours.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

namespace decode {

constexpr int WARP = 32;
// Numbers in 16 bytes.
constexpr int WIDTH = 8;
// Keys that one block attends to.
constexpr int SPLIT = 256;

__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ void store(__nv_bfloat16 *place, float x) { *place = __float2bfloat16_rn(x); }
__device__ __forceinline__ void store(__half *place, float x) { *place = __float2half_rn(x); }
__device__ __forceinline__ void store(float *place, float x) { *place = x; }

template <class T> union Pack {
    uint4 bits;
    T numbers[WIDTH];
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
    for (int i = 0; i < WIDTH; i++) sum = fmaf(to_float(a.numbers[i]), to_float(b.numbers[i]), sum);
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

// The input of a norm, normed, in shared memory, for the whole block.
template <class T>
__device__ void norm_into(T *normed, const T *x, const T *weight, int in, float eps) {
    __shared__ float scratch[WARP];
    float squares = 0;
    for (int i = threadIdx.x * WIDTH; i < in; i += blockDim.x * WIDTH) {
        const Pack<T> pack = load(x + i);
        squares = dot(pack, pack, squares);
    }
    const float inverse = rsqrtf(block_reduce<true>(squares, scratch) / in + eps);
    for (int i = threadIdx.x * WIDTH; i < in; i += blockDim.x * WIDTH) {
        const Pack<T> pack = load(x + i), scale = load(weight + i);
        Pack<T> result;
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
            store(&result.numbers[j], to_float(pack.numbers[j]) * inverse * to_float(scale.numbers[j]));
        *reinterpret_cast<uint4 *>(normed + i) = result.bits;
    }
    __syncthreads();
}

// The product of a row of a matrix with x, for all lanes.
template <class T> __device__ __forceinline__ float row_dot(const T *row, const T *x, int in) {
    const int lane = threadIdx.x % WARP;
    float sum = 0;
#pragma unroll 4
    for (int i = lane * WIDTH; i < in; i += WARP * WIDTH) sum = dot(load_once(row + i), load(x + i), sum);
    return warp_sum(sum);
}

// y = rows of one to three matrices times norm(x), with biases where there are some.
template <class T, class Out>
__device__ void norm_linear(Out *y, const T *x, const T *norm, float eps, int in, const T *w0, const T *b0, int out0,
                            const T *w1, const T *b1, int out1, const T *w2, const T *b2, int out2) {
    extern __shared__ uint4 shared[];
    T *normed = reinterpret_cast<T *>(shared);
    norm_into(normed, x, norm, in, eps);
    const int warps = blockDim.x / WARP;
    const int all = out0 + out1 + out2;
    for (int row = blockIdx.x * warps + threadIdx.x / WARP; row < all; row += gridDim.x * warps) {
        const T *w = w0, *b = b0;
        int r = row;
        if (r >= out0) {
            r -= out0, w = w1, b = b1;
            if (r >= out1) r -= out1, w = w2, b = b2;
        }
        float sum = row_dot(w + (size_t)r * in, normed, in);
        if (b != nullptr) sum += to_float(b[r]);
        if (threadIdx.x % WARP == 0) store(y + row, sum);
    }
}

// y = residual + W x.
template <class T>
__device__ void linear_add(T *y, const T *x, const T *w, const T *residual, int in, int out) {
    const int warps = blockDim.x / WARP;
    for (int row = blockIdx.x * warps + threadIdx.x / WARP; row < out; row += gridDim.x * warps) {
        const float sum = row_dot(w + (size_t)row * in, x, in);
        if (threadIdx.x % WARP == 0) store(y + row, sum + to_float(residual[row]));
    }
}

// y = silu(G norm(x)) * (U norm(x)).
template <class T>
__device__ void norm_swiglu(T *y, const T *x, const T *norm, float eps, const T *gate, const T *up, int in, int out) {
    extern __shared__ uint4 shared[];
    T *normed = reinterpret_cast<T *>(shared);
    norm_into(normed, x, norm, in, eps);
    const int warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    for (int row = blockIdx.x * warps + threadIdx.x / WARP; row < out; row += gridDim.x * warps) {
        const T *g_row = gate + (size_t)row * in, *u_row = up + (size_t)row * in;
        float g = 0, u = 0;
#pragma unroll 4
        for (int i = lane * WIDTH; i < in; i += WARP * WIDTH) {
            const Pack<T> pack = load(normed + i);
            g = dot(load_once(g_row + i), pack, g);
            u = dot(load_once(u_row + i), pack, u);
        }
        g = warp_sum(g), u = warp_sum(u);
        if (lane == 0) store(y + row, g / (1 + __expf(-g)) * u);
    }
}

// Norms a head where there is a norm, and rotates it: dimension i pairs with i + d / 2. For the whole block.
template <class T>
__device__ void rotate(float *head, const T *x, const T *norm, float eps, const T *cos, const T *sin, int d,
                       float *scratch) {
    float inverse = 1;
    if (norm != nullptr) {
        float squares = 0;
        for (int i = threadIdx.x; i < d; i += blockDim.x) squares += to_float(x[i]) * to_float(x[i]);
        inverse = rsqrtf(block_reduce<true>(squares, scratch) / d + eps);
    }
    const auto number = [&](int i) {
        float value = to_float(x[i]);
        if (norm != nullptr) {
            T rounded;
            store(&rounded, value * inverse * to_float(norm[i]));
            value = to_float(rounded);
        }
        return value;
    };
    for (int i = threadIdx.x; i < d / 2; i += blockDim.x) {
        const float a = number(i), b = number(i + d / 2), c = to_float(cos[i]), s = to_float(sin[i]);
        T first, second;
        store(&first, a * c - b * s);
        store(&second, b * c + a * s);
        head[i] = to_float(first);
        head[i + d / 2] = to_float(second);
    }
    __syncthreads();
}

// Attention of one token over the keys in the cache and its own, which this writes there.
//
// A block has a head and up to SPLIT keys; where there are several, the last one of a head to finish puts them
// together. `qkv` has the heads of the query, then those of key and value. Caches are (kv_heads, capacity, d).
template <class T>
__device__ void attend(T *y, const T *qkv, const T *q_norm, const T *k_norm, float eps, const T *cos, const T *sin,
                       T *keys, T *values, int heads, int kv_heads, int d, int capacity, int oldest, int position,
                       float *parts, unsigned *finished) {
    extern __shared__ float buffer[];
    float *query = buffer, *key = query + d, *scores = key + d, *sums = scores + SPLIT;
    __shared__ float scratch[WARP];
    __shared__ bool is_last;

    const int head = blockIdx.x, split = blockIdx.y, splits = gridDim.y;
    const int kv = head / (heads / kv_heads);
    const int start = oldest + split * SPLIT, end = min(start + SPLIT, position + 1), count = end - start;
    const T *new_key = qkv + (size_t)(heads + kv) * d, *new_value = new_key + (size_t)kv_heads * d;
    T *kv_keys = keys + (size_t)kv * capacity * d, *kv_values = values + (size_t)kv * capacity * d;

    rotate(query, qkv + (size_t)head * d, q_norm, eps, cos, sin, d, scratch);
    if (end == position + 1) {
        rotate(key, new_key, k_norm, eps, cos, sin, d, scratch);
        if (head % (heads / kv_heads) == 0)
            for (int i = threadIdx.x; i < d; i += blockDim.x) {
                store(kv_keys + (size_t)position * d + i, key[i]);
                kv_values[(size_t)position * d + i] = new_value[i];
            }
    }

    // Some lanes share a key, so that reads are 16 bytes wide.
    const int lanes = d / WIDTH, at_once = blockDim.x / lanes;
    const int lane = threadIdx.x % lanes, first = threadIdx.x / lanes;
    const float scale = rsqrtf((float)d);
    float best = -1e30f;
    for (int base = 0; base < count; base += at_once) {
        const int index = base + first;
        float sum = 0;
        if (first < at_once && index < count) {
            if (start + index == position) {
#pragma unroll
                for (int i = 0; i < WIDTH; i++) sum = fmaf(query[lane * WIDTH + i], key[lane * WIDTH + i], sum);
            } else {
                const Pack<T> pack = load(kv_keys + (size_t)(start + index) * d + lane * WIDTH);
#pragma unroll
                for (int i = 0; i < WIDTH; i++) sum = fmaf(query[lane * WIDTH + i], to_float(pack.numbers[i]), sum);
            }
        }
        for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (first < at_once && index < count) {
            sum *= scale;
            best = fmaxf(best, sum);
            if (lane == 0) scores[index] = sum;
        }
    }
    best = block_reduce<false>(best, scratch);
    float total = 0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const float weight = __expf(scores[i] - best);
        scores[i] = weight;
        total += weight;
    }
    total = block_reduce<true>(total, scratch);

    float sum[WIDTH] = {};
    if (first < at_once)
        for (int index = first; index < count; index += at_once) {
            const T *from = start + index == position ? new_value : kv_values + (size_t)(start + index) * d;
            const Pack<T> pack = load(from + lane * WIDTH);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) sum[i] = fmaf(scores[index], to_float(pack.numbers[i]), sum[i]);
        }
    if (first < at_once)
#pragma unroll
        for (int i = 0; i < WIDTH; i++) sums[(size_t)first * d + lane * WIDTH + i] = sum[i];
    __syncthreads();
    float *part = parts + (size_t)(head * splits + split) * (d + 2);
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float whole = 0;
        for (int j = 0; j < at_once; j++) whole += sums[(size_t)j * d + i];
        if (splits == 1)
            store(y + (size_t)head * d + i, whole / total);
        else
            part[2 + i] = whole;
    }
    if (splits == 1) return;

    if (threadIdx.x == 0) part[0] = best, part[1] = total;
    __threadfence();
    __syncthreads();
    // It goes back to 0 with the last block.
    if (threadIdx.x == 0) is_last = atomicInc(finished + head, splits - 1) == splits - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    const volatile float *all = parts + (size_t)head * splits * (d + 2);
    best = -1e30f;
    for (int i = 0; i < splits; i++) best = fmaxf(best, all[(size_t)i * (d + 2)]);
    total = 0;
    for (int i = 0; i < splits; i++) total += all[(size_t)i * (d + 2) + 1] * __expf(all[(size_t)i * (d + 2)] - best);
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float whole = 0;
        for (int j = 0; j < splits; j++)
            whole += all[(size_t)j * (d + 2) + 2 + i] * __expf(all[(size_t)j * (d + 2)] - best);
        store(y + (size_t)head * d + i, whole / total);
    }
}

} // namespace decode

using namespace decode;

#define KERNELS(T, name)                                                                                               \
    extern "C" __global__ void norm_linear_##name(                                                                     \
        T *y, const T *x, const T *norm, float eps, int in, const T *w0, const T *b0, int out0, const T *w1,           \
        const T *b1, int out1, const T *w2, const T *b2, int out2) {                                                   \
        norm_linear<T, T>(y, x, norm, eps, in, w0, b0, out0, w1, b1, out1, w2, b2, out2);                              \
    }                                                                                                                  \
    extern "C" __global__ void norm_head_##name(float *y, const T *x, const T *norm, float eps, int in, const T *w,    \
                                                int out) {                                                             \
        norm_linear<T, float>(y, x, norm, eps, in, w, nullptr, out, nullptr, nullptr, 0, nullptr, nullptr, 0);         \
    }                                                                                                                  \
    extern "C" __global__ void linear_add_##name(T *y, const T *x, const T *w, const T *residual, int in, int out) {   \
        linear_add<T>(y, x, w, residual, in, out);                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void norm_swiglu_##name(T *y, const T *x, const T *norm, float eps, const T *gate,           \
                                                  const T *up, int in, int out) {                                      \
        norm_swiglu<T>(y, x, norm, eps, gate, up, in, out);                                                            \
    }                                                                                                                  \
    extern "C" __global__ void attend_##name(T *y, const T *qkv, const T *q_norm, const T *k_norm, float eps,          \
                                             const T *cos, const T *sin, T *keys, T *values, int heads, int kv_heads,  \
                                             int d, int capacity, int oldest, int position, float *parts,              \
                                             unsigned *finished) {                                                     \
        attend<T>(y, qkv, q_norm, k_norm, eps, cos, sin, keys, values, heads, kv_heads, d, capacity, oldest, position, \
                  parts, finished);                                                                                    \
    }

KERNELS(__nv_bfloat16, bf16)
KERNELS(__half, f16)
