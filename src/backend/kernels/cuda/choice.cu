// The most likely token, where the logits are.

#include "numbers.cuh"

namespace choice {

// The index of the largest logit, the lowest where several are, that logit, and the sum of the exponentials below
// it, which is no number where a logit is none. One block.
__device__ void most_likely(uint32_t *index, float *logit, float *sum, const float *logits, int count) {
    __shared__ float scratch[WARP];
    __shared__ unsigned lowest;
    if (threadIdx.x == 0) lowest = 0xffffffffu;
    float best = -1e30f, total = 0;
    unsigned at = 0xffffffffu;
    // Several are on their way at once.
    constexpr int AT_ONCE = 8;
    for (int base = threadIdx.x; base < count; base += AT_ONCE * blockDim.x) {
        float x[AT_ONCE], more = best;
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            const int i = base + j * blockDim.x;
            x[j] = i < count ? logits[i] : -1e30f;
            more = fmaxf(more, x[j]);
        }
        if (more > best) {
            total *= __expf(best - more);
            best = more;
#pragma unroll
            for (int j = AT_ONCE - 1; j >= 0; j--)
                if (x[j] == more) at = base + j * blockDim.x;
        }
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            if (base + j * blockDim.x < count) total += __expf(x[j] - best);
    }
    const float largest = block_reduce<false>(best, scratch);
    total = block_reduce<true>(total * __expf(best - largest), scratch);
    if (best == largest) atomicMin(&lowest, at);
    __syncthreads();
    if (threadIdx.x == 0) *index = lowest, *logit = largest, *sum = total;
}

} // namespace choice

extern "C" __global__ void most_likely_f32(uint32_t *index, float *logit, float *sum, const float *logits, int count) {
    choice::most_likely(index, logit, sum, logits, count);
}
