// The softmax of attention scores and its backward, and the loss of logits with its gradient, in place.

#include "numbers.cuh"

namespace softmax {

constexpr float LOWEST = -1e30f;

// Visits the numbers of a row, 16 bytes at a time where rows begin at whole reads: visit(number, index)
// gives what takes the place of a number, if it is to be written.
template <bool WRITE, class T, class Visit>
__device__ __forceinline__ void each(T *row, int width, int thread, int threads, Visit visit) {
    if (width % PACK<T> == 0) {
        for (int i = thread * PACK<T>; i < width; i += threads * PACK<T>) {
            Pack<T> pack = load(row + i);
#pragma unroll
            for (int j = 0; j < PACK<T>; j++) {
                const float number = visit(to_float(pack.numbers[j]), i + j);
                if (WRITE) store(&pack.numbers[j], number);
            }
            if (WRITE) store(row + i, pack);
        }
    } else {
        for (int i = thread; i < width; i += threads) {
            const float number = visit(to_float(row[i]), i);
            if (WRITE) store(row + i, number);
        }
    }
}

template <bool SUM> __device__ __forceinline__ float reduce(float x, float *scratch) {
    if (blockDim.x == WARP) return SUM ? warp_sum(x) : warp_max(x);
    return block_reduce<SUM>(x, scratch);
}

// Rows of scores become probabilities. Row r belongs to query r % len, which sees the keys up to `first` + r % len,
// of them only the last `window`. A row has the threads of blockDim.x, a block has blockDim.y rows.
template <class T>
__device__ void attend(T *scores, int64_t rows, int keys, int len, int first, int window) {
    __shared__ float scratch[WARP];
    const int64_t index = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (index >= rows) return;
    T *row = scores + index * keys;
    const int newest = first + (int)(index % len), oldest = newest - window;
    const auto seen = [&](int key) { return key <= newest && key > oldest; };
    float best = LOWEST;
    each<false>(row, keys, threadIdx.x, blockDim.x, [&](float x, int key) {
        if (seen(key)) best = fmaxf(best, x);
        return x;
    });
    best = reduce<false>(best, scratch);
    float total = 0;
    each<false>(row, keys, threadIdx.x, blockDim.x, [&](float x, int key) {
        if (seen(key)) total += __expf(x - best);
        return x;
    });
    const float inverse = 1 / reduce<true>(total, scratch);
    each<true>(row, keys, threadIdx.x, blockDim.x,
               [&](float x, int key) { return seen(key) ? __expf(x - best) * inverse : 0.0f; });
}

// Gradients of probabilities become gradients of scores before their scale: scale p (dp - <p, dp>).
template <class T>
__device__ void attend_backward(T *gradients, const T *probabilities, int64_t rows, int keys, float scale) {
    __shared__ float scratch[WARP];
    const int64_t index = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (index >= rows) return;
    T *row = gradients + index * keys;
    const T *p = probabilities + index * keys;
    float along = 0;
    if (keys % PACK<T> == 0) {
        for (int i = threadIdx.x * PACK<T>; i < keys; i += blockDim.x * PACK<T>)
            along = dot(load(p + i), load(row + i), along);
    } else {
        for (int i = threadIdx.x; i < keys; i += blockDim.x) along = fmaf(to_float(p[i]), to_float(row[i]), along);
    }
    along = reduce<true>(along, scratch);
    if (keys % PACK<T> == 0) {
        for (int i = threadIdx.x * PACK<T>; i < keys; i += blockDim.x * PACK<T>) {
            Pack<T> d = load(row + i);
            const Pack<T> weights = load(p + i);
#pragma unroll
            for (int j = 0; j < PACK<T>; j++)
                store(&d.numbers[j], scale * to_float(weights.numbers[j]) * (to_float(d.numbers[j]) - along));
            store(row + i, d);
        }
    } else {
        for (int i = threadIdx.x; i < keys; i += blockDim.x)
            store(row + i, scale * to_float(p[i]) * (to_float(row[i]) - along));
    }
}

// Rows of logits become gradients of their loss, which goes to `losses`. With a smoothing of e the loss of a target
// is 1 - e of its negative log-likelihood and e of the mean of those of all ids. A block has a row.
template <class T>
__device__ void cross_entropy(T *logits, float *losses, const uint32_t *targets, const float *weights, float smoothing,
                              int width) {
    __shared__ float scratch[WARP];
    T *row = logits + (size_t)blockIdx.x * width;
    const uint32_t target = targets[blockIdx.x];
    const float weight = weights != nullptr ? weights[blockIdx.x] : 1;
    // Of this thread's numbers: the largest, and the sum of exponentials below it.
    float best = LOWEST, total = 0, sum = 0;
    each<false>(row, width, threadIdx.x, blockDim.x, [&](float x, int) {
        if (x > best) {
            total *= __expf(best - x);
            best = x;
        }
        total += __expf(x - best);
        sum += x;
        return x;
    });
    const float largest = block_reduce<false>(best, scratch);
    total = block_reduce<true>(total * __expf(best - largest), scratch);
    if (smoothing > 0) sum = block_reduce<true>(sum, scratch);
    if (threadIdx.x == 0) {
        const float at_target = target < width ? to_float(row[target]) : nanf("");
        const float expected = (1 - smoothing) * at_target + (smoothing > 0 ? smoothing * (sum / width) : 0);
        losses[blockIdx.x] = weight * (logf(total) + largest - expected);
    }
    __syncthreads();
    const float inverse = 1 / total, everywhere = smoothing / width;
    each<true>(row, width, threadIdx.x, blockDim.x, [&](float x, int id) {
        const float hit = id == target ? 1 - smoothing : 0.0f;
        return weight * (__expf(x - largest) * inverse - everywhere - hit);
    });
}

} // namespace softmax

#define ATTENTION(T, name)                                                                                             \
    extern "C" __global__ void attend_##name(T *scores, int64_t rows, int keys, int len, int first, int window) {      \
        softmax::attend(scores, rows, keys, len, first, window);                                                       \
    }                                                                                                                  \
    extern "C" __global__ void attend_backward_##name(T *gradients, const T *probabilities, int64_t rows, int keys,    \
                                                      float scale) {                                                   \
        softmax::attend_backward(gradients, probabilities, rows, keys, scale);                                         \
    }

#define LOSS(T, name)                                                                                                  \
    extern "C" __global__ void cross_entropy_##name(T *logits, float *losses, const uint32_t *targets,                 \
                                                    const float *weights, float smoothing, int width) {                \
        softmax::cross_entropy(logits, losses, targets, weights, smoothing, width);                                    \
    }

ATTENTION(__nv_bfloat16, bf16)
ATTENTION(__half, f16)
ATTENTION(float, f32)
LOSS(__nv_bfloat16, bf16)
LOSS(__half, f16)
