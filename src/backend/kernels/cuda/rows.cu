// What lies between the matrix products, row by row or number by number.
//
// All of it is bound by memory: each number is read and written once, 16 bytes at a time, and computed with in
// 32 bits. Rows have a width that is a multiple of WIDTH.

#include "numbers.cuh"

namespace rows {

// normed = norm(x), or sum = x + y and normed = norm(sum). A block has a row.
template <class T>
__device__ void norm(T *sum, T *normed, const T *x, const T *y, const T *weight, float eps, int width) {
    __shared__ float scratch[WARP];
    const size_t start = (size_t)blockIdx.x * width;
    float squares = 0;
    for (int i = threadIdx.x * WIDTH; i < width; i += blockDim.x * WIDTH) {
        Pack<T> a = load(x + start + i);
        if (y != nullptr) {
            const Pack<T> b = load(y + start + i);
#pragma unroll
            for (int j = 0; j < WIDTH; j++) store(&a.numbers[j], to_float(a.numbers[j]) + to_float(b.numbers[j]));
            store(sum + start + i, a);
        }
        squares = dot(a, a, squares);
    }
    const float inverse = rsqrtf(block_reduce<true>(squares, scratch) / width + eps);
    // What this thread wrote, it reads.
    const T *from = y != nullptr ? sum : x;
    for (int i = threadIdx.x * WIDTH; i < width; i += blockDim.x * WIDTH) {
        const Pack<T> a = load(from + start + i), scale = load(weight + i);
        Pack<T> result;
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
            store(&result.numbers[j], to_float(a.numbers[j]) * inverse * to_float(scale.numbers[j]));
        store(normed + start + i, result);
    }
}

// dx = the gradient of norm(x) for dy, plus `more` where there is such. A block has a row.
template <class T>
__device__ void norm_backward(T *dx, const T *x, const T *weight, float eps, const T *dy, const T *more, int width) {
    __shared__ float scratch[WARP];
    const size_t start = (size_t)blockIdx.x * width;
    float squares = 0, along = 0;
    for (int i = threadIdx.x * WIDTH; i < width; i += blockDim.x * WIDTH) {
        const Pack<T> a = load(x + start + i), d = load(dy + start + i), scale = load(weight + i);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            const float number = to_float(a.numbers[j]);
            squares = fmaf(number, number, squares);
            along = fmaf(to_float(d.numbers[j]) * to_float(scale.numbers[j]), number, along);
        }
    }
    const float inverse = rsqrtf(block_reduce<true>(squares, scratch) / width + eps);
    const float share = block_reduce<true>(along, scratch) / width * inverse * inverse;
    for (int i = threadIdx.x * WIDTH; i < width; i += blockDim.x * WIDTH) {
        const Pack<T> a = load(x + start + i), d = load(dy + start + i), scale = load(weight + i);
        Pack<T> result, others;
        if (more != nullptr) others = load(more + start + i);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            const float g = to_float(d.numbers[j]) * to_float(scale.numbers[j]);
            const float number = inverse * (g - to_float(a.numbers[j]) * share);
            store(&result.numbers[j], more != nullptr ? number + to_float(others.numbers[j]) : number);
        }
        store(dx + start + i, result);
    }
}

__device__ __forceinline__ size_t first_number() {
    return ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
}

// y = silu(gate) up.
template <class T> __device__ void swiglu(T *y, const T *gate, const T *up, int64_t count) {
    const size_t i = first_number();
    if (i >= count) return;
    const Pack<T> g = load(gate + i), u = load(up + i);
    Pack<T> result;
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
        const float number = to_float(g.numbers[j]);
        store(&result.numbers[j], number / (1 + __expf(-number)) * to_float(u.numbers[j]));
    }
    store(y + i, result);
}

// The gradients of gate and up, one after the other.
template <class T> __device__ void swiglu_backward(T *both, const T *gate, const T *up, const T *dy, int64_t count) {
    const size_t i = first_number();
    if (i >= count) return;
    const Pack<T> g = load(gate + i), u = load(up + i), d = load(dy + i);
    Pack<T> dgate, dup;
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
        const float number = to_float(g.numbers[j]), gradient = to_float(d.numbers[j]);
        const float sigmoid = 1 / (1 + __expf(-number)), silu = number * sigmoid;
        store(&dgate.numbers[j], gradient * to_float(u.numbers[j]) * (silu + sigmoid * (1 - silu)));
        store(&dup.numbers[j], gradient * silu);
    }
    store(both + i, dgate);
    store(both + count + i, dup);
}

// y += x, or where x is shorter, a bias, to each of the rows of y.
template <class T> __device__ void add(T *y, const T *x, int64_t count, int64_t width) {
    const size_t i = first_number();
    if (i >= count) return;
    Pack<T> sum = load(y + i);
    const Pack<T> more = load(x + i % width);
#pragma unroll
    for (int j = 0; j < WIDTH; j++) store(&sum.numbers[j], to_float(sum.numbers[j]) + to_float(more.numbers[j]));
    store(y + i, sum);
}

// The rows of x at their positions, each of which occurs once.
template <class T> __device__ void place(T *y, const T *x, const uint32_t *positions, int count, int width) {
    const size_t to = (size_t)positions[blockIdx.x] * width, from = (size_t)blockIdx.x * width;
    if (positions[blockIdx.x] >= count) return;
    for (int i = threadIdx.x * WIDTH; i < width; i += blockDim.x * WIDTH) store(y + to + i, load(x + from + i));
}

} // namespace rows

#define KERNELS(T, name)                                                                                               \
    extern "C" __global__ void norm_##name(T *sum, T *normed, const T *x, const T *y, const T *weight, float eps,      \
                                           int width) {                                                                \
        rows::norm(sum, normed, x, y, weight, eps, width);                                                             \
    }                                                                                                                  \
    extern "C" __global__ void norm_backward_##name(T *dx, const T *x, const T *weight, float eps, const T *dy,        \
                                                    const T *more, int width) {                                        \
        rows::norm_backward(dx, x, weight, eps, dy, more, width);                                                      \
    }                                                                                                                  \
    extern "C" __global__ void swiglu_##name(T *y, const T *gate, const T *up, int64_t count) {                        \
        rows::swiglu(y, gate, up, count);                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void swiglu_backward_##name(T *both, const T *gate, const T *up, const T *dy,                \
                                                      int64_t count) {                                                 \
        rows::swiglu_backward(both, gate, up, dy, count);                                                              \
    }                                                                                                                  \
    extern "C" __global__ void add_##name(T *y, const T *x, int64_t count, int64_t width) {                                \
        rows::add(y, x, count, width);                                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void place_##name(T *y, const T *x, const uint32_t *positions, int count, int width) {       \
        rows::place(y, x, positions, count, width);                                                                    \
    }

KERNELS(__nv_bfloat16, bf16)
KERNELS(__half, f16)
