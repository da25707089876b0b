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
#pragma unroll 8
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const float x = logits[i];
        if (x > best) {
            total *= __expf(best - x);
            best = x, at = i;
        }
        total += __expf(x - best);
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
