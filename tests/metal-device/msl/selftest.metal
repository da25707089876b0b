// Kernels for selftest.py: one for each thing that the simulation promises.
#include <metal_stdlib>
using namespace metal;

constant bool negate [[function_constant(3)]];
constant int offset [[function_constant(5)]];
constant bool has_offset = offset != 0;

struct Sum {
  template <typename T>
  METAL_FUNC T operator()(T a, T b) {
    return a + b;
  }
};

// The sum of the threadgroup's part of the input.
template <typename T, typename Op, ushort N>
[[kernel]] void tree_reduce(device const T *input, device T *output,
                            uint index [[thread_index_in_threadgroup]],
                            uint position [[thread_position_in_grid]],
                            uint group [[threadgroup_position_in_grid]]) {
  Op op;
  threadgroup T shared[N];
  shared[index] = input[position];
  threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma clang loop unroll(full)
  for (ushort s = N / 2; s > 0; s >>= 1) {
    if (index < s) shared[index] = op(shared[index], shared[index + s]);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  if (index == 0) output[group] = shared[0];
}
template [[host_name(
    "sum_"
    "float")]] [[kernel]] decltype(tree_reduce<float, Sum, 128>) tree_reduce<float, Sum, 128>;
template [[host_name(
    "sum_int")]] [[kernel]] decltype(tree_reduce<int, Sum, 128>) tree_reduce<int, Sum, 128>;

// Six results for each thread.
kernel void lanes(device const int *input [[buffer(0)]], device int *output [[buffer(1)]],
                  uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  int x = input[i];
  output[6 * i] = simd_sum(x);
  output[6 * i + 1] = simd_shuffle_down(x, 1);
  output[6 * i + 2] = simd_shuffle_up(x, 2);
  output[6 * i + 3] = simd_shuffle_xor(x, 1);
  output[6 * i + 4] = simd_prefix_exclusive_sum(x);
  output[6 * i + 5] = simd_max(x) - simd_min(x);
}

// Lanes 0 to 3 do one more operation than the others: the sum of all is right nevertheless.
kernel void divergent_lanes(device int *output, uint i [[thread_position_in_grid]]) {
  int x = 1;
  if (i < 4) x += simd_sum(10);
  output[i] = simd_sum(x);
}

// The product of two matrices twice, added to itself, in the type of the third.
template <typename T>
[[kernel]] void multiply(device const T *a, device const T *b, device float *c,
                         uint lane [[thread_index_in_simdgroup]]) {
  simdgroup_matrix<T, 8, 8> left, right;
  simdgroup_load(left, a);
  simdgroup_load(right, b, 8, ulong2(0, 0), true);
  simdgroup_matrix<float, 8, 8> sum = simdgroup_matrix<float, 8, 8>(1);
  for (int i = 0; i < 2; i++) simdgroup_multiply_accumulate(sum, left, right, sum);
  simdgroup_matrix<float, 8, 8> doubled;
  simdgroup_matrix<float, 8, 8> two(2);
  simdgroup_multiply(doubled, sum, two);
  simdgroup_store(doubled, c, 8);
}
template [[host_name("multiply_float")]] kernel void multiply<float>(device const float *a,
                                                                     device const float *b,
                                                                     device float *c,
                                                                     uint lane
                                                                     [[thread_index_in_simdgroup]]);
template [[host_name("multiply_half")]] kernel void multiply<half>(device const half *a,
                                                                   device const half *b,
                                                                   device float *c,
                                                                   uint lane
                                                                   [[thread_index_in_simdgroup]]);

kernel void inactive_lanes(device float *c, uint lane [[thread_index_in_simdgroup]]) {
  simdgroup_matrix<float, 8, 8> m(1);
  if (lane == 7) return;
  simdgroup_multiply(m, m, m);
  simdgroup_store(m, c, 8);
}

kernel void constants(device int *output, uint i [[thread_position_in_grid]]) {
  int x = has_offset ? int(i) + offset : 1000;
  output[i] = negate ? -x : x;
}

kernel void divergent_barrier(device int *output, uint i [[thread_index_in_threadgroup]]) {
  if (i < 32) {
    threadgroup_barrier(mem_flags::mem_none);
    output[i] = 1;
  } else {
    threadgroup_barrier(mem_flags::mem_none);
    output[i] = 2;
  }
}

kernel void early_return(device int *output, uint i [[thread_index_in_threadgroup]]) {
  if (i >= 40) return;
  threadgroup_barrier(mem_flags::mem_none);
  output[i] = 3;
}

kernel void past_the_end(device int *output, uint i [[thread_index_in_threadgroup]]) {
  threadgroup int small[3];
  small[i] = i;
  output[i] = small[i];
}

kernel void past_the_host(threadgroup int *first, threadgroup int *second, device int *output,
                          uint i [[thread_index_in_threadgroup]]) {
  second[i] = 5;
  first[i] = i;
  output[i] = second[0];
}

kernel void uninitialised(device float *output, uint i [[thread_index_in_threadgroup]]) {
  threadgroup float memory[4];
  output[i] = memory[i];
}

kernel void too_much(threadgroup int *dynamic, device int *output,
                     uint i [[thread_index_in_threadgroup]]) {
  threadgroup int large[4096];
  large[i] = dynamic[i];
  output[i] = large[i];
}

kernel void rounding(device const half *h, device const bfloat *b, device float *output) {
  // 2048 + 1 is no half, so that each sum is rounded to 2048.
  half x = h[0] + h[1] + h[1];
  output[0] = x;
  // 256 + 1 is no bfloat, but the sum is a float until it is assigned.
  bfloat y = b[0] + b[1] + b[1];
  output[1] = y;
  output[2] = 1.0 / 3.0 == 1.0f / 3.0f;
  output[3] = static_cast<bfloat>(half(1.00390625h));
  float4 v = (float4)half4(0.5h, half2(1.0h), 2.0h) * 2.0;
  output[4] = v.x + v.w;
  output[5] = uchar(300.5f + h[1]);
}

kernel void count(device atomic_uint *counter, device atomic_float *sum,
                  uint3 threads [[threads_per_grid]], uint3 size [[threads_per_threadgroup]]) {
  atomic_fetch_add_explicit(counter, size.x, memory_order_relaxed);
  atomic_fetch_add_explicit(sum, 0.5f, memory_order_relaxed);
}
