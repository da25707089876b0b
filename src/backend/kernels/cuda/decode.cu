// One token through a decoder layer in four kernels, and through the output head in one.
//
// A token reads every weight once, so that what counts is that reads are wide and that launches are few. Numbers
// are added up in 32 bits; what is rounded to 16 is what a kernel writes, and the normed input, as with operations
// one by one. A warp computes a row of a matrix: each lane reads 16 bytes at a time, beside those of its neighbours.

#include "numbers.cuh"

namespace decode {

// Of a row of weights, so much is read before the input is there to multiply it with.
constexpr int AHEAD = 4;

// The input of a norm, normed, in shared memory, for the whole block.
template <class T>
__device__ void norm_into(T *normed, const T *x, const T *weight, int in, float eps) {
    __shared__ float scratch[WARP];
    // What a thread reads first, it keeps.
    const int mine = threadIdx.x * WIDTH;
    Pack<T> pack = {}, scale = {};
    if (mine < in) pack = load(x + mine), scale = load(weight + mine);
    float squares = dot(pack, pack, 0.0f);
    for (int i = mine + blockDim.x * WIDTH; i < in; i += blockDim.x * WIDTH) {
        const Pack<T> more = load(x + i);
        squares = dot(more, more, squares);
    }
    const float inverse = rsqrtf(block_reduce<true>(squares, scratch) / in + eps);
    for (int i = mine; i < in; i += blockDim.x * WIDTH) {
        if (i != mine) pack = load(x + i), scale = load(weight + i);
        Pack<T> result;
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
            store(&result.numbers[j], to_float(pack.numbers[j]) * inverse * to_float(scale.numbers[j]));
        store(normed + i, result);
    }
    __syncthreads();
}

// The first numbers of a row that a lane multiplies.
template <class T> struct Begun {
    Pack<T> packs[AHEAD];

    __device__ __forceinline__ void read(const T *row, int in) {
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            const int i = (threadIdx.x % WARP + j * WARP) * WIDTH;
            packs[j].bits = {};
            if (i < in) packs[j] = load_once(row + i);
        }
    }

    // The product of the row with x, for all lanes.
    __device__ __forceinline__ float dot_with(const T *row, const T *x, int in) const {
        const int lane = threadIdx.x % WARP;
        float sum = 0;
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            const int i = (lane + j * WARP) * WIDTH;
            if (i < in) sum = dot(packs[j], load(x + i), sum);
        }
#pragma unroll 4
        for (int i = (lane + AHEAD * WARP) * WIDTH; i < in; i += WARP * WIDTH)
            sum = dot(load_once(row + i), load(x + i), sum);
        return warp_sum(sum);
    }
};

// y = rows of one to three matrices times norm(x), with biases where there are some.
template <class T, class Out>
__device__ void norm_linear(Out *y, const T *x, const T *norm, float eps, int in, const T *w0, const T *b0, int out0,
                            const T *w1, const T *b1, int out1, const T *w2, const T *b2, int out2) {
    extern __shared__ uint4 shared[];
    T *normed = reinterpret_cast<T *>(shared);
    const int warps = blockDim.x / WARP, step = gridDim.x * warps;
    const int all = out0 + out1 + out2;
    const T *bias;
    const auto place = [&](int row) {
        const T *w = w0;
        bias = b0;
        int r = row;
        if (r >= out0) {
            r -= out0, w = w1, bias = b1;
            if (r >= out1) r -= out1, w = w2, bias = b2;
        }
        if (bias != nullptr) bias += r;
        return w + (size_t)r * in;
    };
    int row = blockIdx.x * warps + threadIdx.x / WARP;
    const T *w = nullptr;
    Begun<T> begun, next;
    if (row < all) {
        w = place(row);
        begun.read(w, in);
    }
    norm_into(normed, x, norm, in, eps);
    while (row < all) {
        const T *b = bias, *next_w = nullptr;
        if (row + step < all) {
            next_w = place(row + step);
            next.read(next_w, in);
        }
        float sum = begun.dot_with(w, normed, in);
        if (b != nullptr) sum += to_float(*b);
        if (threadIdx.x % WARP == 0) store(y + row, sum);
        row += step, w = next_w, begun = next;
    }
}

// y = residual + W x. As many warps as `share` have a row together, so that all multiprocessors read.
template <class T>
__device__ void linear_add(T *y, const T *x, const T *w, const T *residual, int in, int out, int share) {
    __shared__ float sums[WARP];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, rows = blockDim.x / WARP / share;
    const int row = blockIdx.x * rows + warp / share, part = warp % share;
    float sum = 0, more = 0;
    if (row < out) {
        if (lane == 0) more = to_float(residual[row]);
        const T *from = w + (size_t)row * in;
#pragma unroll 8
        for (int i = (part * WARP + lane) * WIDTH; i < in; i += share * WARP * WIDTH)
            sum = dot(load_once(from + i), load(x + i), sum);
    }
    sum = warp_sum(sum);
    if (share > 1) {
        if (lane == 0) sums[warp] = sum;
        __syncthreads();
        if (lane == 0 && part == 0)
            for (int i = 1; i < share; i++) sum += sums[warp + i];
    }
    if (row < out && lane == 0 && part == 0) store(y + row, sum + more);
}

// y = silu(G norm(x)) * (U norm(x)).
template <class T>
__device__ void norm_swiglu(T *y, const T *x, const T *norm, float eps, const T *gate, const T *up, int in, int out) {
    extern __shared__ uint4 shared[];
    T *normed = reinterpret_cast<T *>(shared);
    const int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    const T *g_row = gate + (size_t)row * in, *u_row = up + (size_t)row * in;
    Begun<T> g_begun, u_begun;
    if (row < out) {
        g_begun.read(g_row, in);
        u_begun.read(u_row, in);
    }
    norm_into(normed, x, norm, in, eps);
    if (row >= out) return;
    const float g = g_begun.dot_with(g_row, normed, in), u = u_begun.dot_with(u_row, normed, in);
    if (threadIdx.x % WARP == 0) store(y + row, g / (1 + __expf(-g)) * u);
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
// A block has a head and up to `most` keys; where there are several, the last one of a head to finish puts them
// together. `qkv` has the heads of the query, then those of key and value. Caches are (kv_heads, capacity, d).
template <class T>
__device__ void attend(T *y, const T *qkv, const T *q_norm, const T *k_norm, float eps, const T *cos, const T *sin,
                       T *keys, T *values, int heads, int kv_heads, int d, int capacity, int oldest, int position,
                       int most, float *parts, unsigned *finished) {
    extern __shared__ float buffer[];
    float *query = buffer, *key = query + d, *scores = key + d, *sums = scores + most;
    __shared__ float scratch[WARP];
    __shared__ bool is_last;

    const int head = blockIdx.x, split = blockIdx.y, splits = gridDim.y;
    const int kv = head / (heads / kv_heads);
    const int start = oldest + split * most, end = min(start + most, position + 1), count = end - start;
    const T *new_key = qkv + (size_t)(heads + kv) * d, *new_value = new_key + (size_t)kv_heads * d;
    T *kv_keys = keys + (size_t)kv * capacity * d, *kv_values = values + (size_t)kv * capacity * d;

    // Some lanes share a key, so that reads are 16 bytes wide.
    const int lanes = d / WIDTH, at_once = blockDim.x / lanes;
    const int lane = threadIdx.x % lanes, first = threadIdx.x / lanes;
    const auto is_old = [&](int index) { return first < at_once && index < count && start + index != position; };
    // The first keys and values are on their way while the query is rotated.
    Pack<T> first_keys[AHEAD], first_values[AHEAD];
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
        const int index = j * at_once + first;
        if (is_old(index)) {
            const size_t from = (size_t)(start + index) * d + lane * WIDTH;
            first_keys[j] = load(kv_keys + from), first_values[j] = load(kv_values + from);
        }
    }

    rotate(query, qkv + (size_t)head * d, q_norm, eps, cos, sin, d, scratch);
    if (end == position + 1) {
        rotate(key, new_key, k_norm, eps, cos, sin, d, scratch);
        if (head % (heads / kv_heads) == 0)
            for (int i = threadIdx.x; i < d; i += blockDim.x) {
                store(kv_keys + (size_t)position * d + i, key[i]);
                kv_values[(size_t)position * d + i] = new_value[i];
            }
    }

    const float scale = rsqrtf((float)d);
    float best = -1e30f;
    const auto score = [&](int index, const Pack<T> &pack) {
        float sum = 0;
        if (is_old(index)) {
#pragma unroll
            for (int i = 0; i < WIDTH; i++) sum = fmaf(query[lane * WIDTH + i], to_float(pack.numbers[i]), sum);
        } else if (first < at_once && index < count) {
#pragma unroll
            for (int i = 0; i < WIDTH; i++) sum = fmaf(query[lane * WIDTH + i], key[lane * WIDTH + i], sum);
        }
        for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (first < at_once && index < count) {
            sum *= scale;
            best = fmaxf(best, sum);
            if (lane == 0) scores[index] = sum;
        }
    };
#pragma unroll
    for (int j = 0; j < AHEAD; j++)
        if (j * at_once < count) score(j * at_once + first, first_keys[j]);
    for (int base = AHEAD * at_once; base < count; base += at_once) {
        const int index = base + first;
        Pack<T> pack;
        if (is_old(index)) pack = load(kv_keys + (size_t)(start + index) * d + lane * WIDTH);
        score(index, pack);
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
    const auto add = [&](int index, const Pack<T> &pack) {
#pragma unroll
        for (int i = 0; i < WIDTH; i++) sum[i] = fmaf(scores[index], to_float(pack.numbers[i]), sum[i]);
    };
#pragma unroll
    for (int j = 0; j < AHEAD; j++)
        if (is_old(j * at_once + first)) add(j * at_once + first, first_values[j]);
    for (int index = AHEAD * at_once + first; is_old(index); index += at_once)
        add(index, load(kv_values + (size_t)(start + index) * d + lane * WIDTH));
    // Its own comes last, and is not in the cache yet.
    if (end == position + 1 && first == (count - 1) % at_once) add(count - 1, load(new_value + lane * WIDTH));
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
    extern "C" __global__ void linear_add_##name(T *y, const T *x, const T *w, const T *residual, int in, int out,     \
                                                 int share) {                                                          \
        linear_add<T>(y, x, w, residual, in, out, share);                                                              \
    }                                                                                                                  \
    extern "C" __global__ void norm_swiglu_##name(T *y, const T *x, const T *norm, float eps, const T *gate,           \
                                                  const T *up, int in, int out) {                                      \
        norm_swiglu<T>(y, x, norm, eps, gate, up, in, out);                                                            \
    }                                                                                                                  \
    extern "C" __global__ void attend_##name(T *y, const T *qkv, const T *q_norm, const T *k_norm, float eps,          \
                                             const T *cos, const T *sin, T *keys, T *values, int heads, int kv_heads,  \
                                             int d, int capacity, int oldest, int position, int most, float *parts,    \
                                             unsigned *finished) {                                                     \
        attend<T>(y, qkv, q_norm, k_norm, eps, cos, sin, keys, values, heads, kv_heads, d, capacity, oldest, position, \
                  most, parts, finished);                                                                              \
    }

KERNELS(__nv_bfloat16, bf16)
KERNELS(__half, f16)
