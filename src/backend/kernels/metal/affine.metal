// Products with a matrix of 4 or 8 bits a number in groups that share a scale and a bias, and the matrix itself.
//
// A simdgroup computes ROWS rows at once: each lane reads 8 bytes of codes of each of them, and what it read of x serves
// all of them. Within a lane's numbers scale and bias are the same: sum of (code * scale + bias) * x is
// scale * (sum of code * x) + bias * (sum of x).
//
// The host puts in front of this what it is compiled for: T, the type of x and of the result; S, that of scales and
// biases; BITS; GROUP, the numbers of a group.

#include <metal_stdlib>
using namespace metal;

constant constexpr int LANES = 32;
constant constexpr int ROWS = 4;
constant constexpr int SIMDS = 2;
// Numbers in the bytes that a lane reads at once.
constant constexpr int WIDTH = 64 / BITS;
constant constexpr int MASK = (1 << BITS) - 1;
// Codes of half a word, which are used where they are: x is made smaller by what they are larger.
constant constexpr int HALF = 16 / BITS;

struct Shape {
    int in;
    int out;
};

inline float codes_dot(uint word, thread const float *x) {
    float sum = 0;
    for (int half_word = 0; half_word < 2; half_word++) {
        const uint bits = half_word == 0 ? word & 0xffff : word >> 16;
        for (int j = 0; j < HALF; j++) sum += float(bits & uint(MASK << (BITS * j))) * x[half_word * HALF + j];
    }
    return sum;
}

// y = x W transposed, for a row of x in each row of the grid.
[[kernel]] void affine_rows(device T *y [[buffer(0)]], device const T *x [[buffer(1)]],
                            device const uchar *codes [[buffer(2)]], device const S *scales [[buffer(3)]],
                            device const S *biases [[buffer(4)]], constant Shape &p [[buffer(5)]],
                            uint2 group [[threadgroup_position_in_grid]],
                            uint simd [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    const int first = (int(group.x) * SIMDS + int(simd)) * ROWS;
    if (first >= p.out) return;
    x += ulong(group.y) * ulong(p.in);
    y += ulong(group.y) * ulong(p.out);
    float sums[ROWS];
    for (int r = 0; r < ROWS; r++) sums[r] = 0;
    for (int i = int(lane) * WIDTH; i < p.in; i += LANES * WIDTH) {
        float small[WIDTH];
        float whole = 0;
        for (int j = 0; j < WIDTH; j++) {
            const float number = float(x[i + j]);
            whole += number;
            small[j] = number / float(1 << (BITS * (j % HALF)));
        }
        for (int r = 0; r < ROWS; r++) {
            const ulong row = ulong(min(first + r, p.out - 1));
            const uint2 words = *(device const uint2 *)(codes + (row * ulong(p.in) + ulong(i)) / (8 / BITS));
            const ulong at = row * ulong(p.in / GROUP) + ulong(i / GROUP);
            const float sum = codes_dot(words.x, small) + codes_dot(words.y, small + WIDTH / 2);
            sums[r] += float(scales[at]) * sum + float(biases[at]) * whole;
        }
    }
    for (int r = 0; r < ROWS; r++) {
        const float sum = simd_sum(sums[r]);
        if (int(lane) == r && first + r < p.out) y[first + r] = T(sum);
    }
}

// The matrix: a thread for each 8 bytes of codes.
[[kernel]] void affine_dequantize(device T *y [[buffer(0)]], device const uchar *codes [[buffer(1)]],
                                  device const S *scales [[buffer(2)]], device const S *biases [[buffer(3)]],
                                  constant int &count [[buffer(4)]], uint index [[thread_position_in_grid]]) {
    if (int(index) >= count) return;
    const ulong start = ulong(index) * WIDTH;
    const uint2 words = *(device const uint2 *)(codes + ulong(index) * 8);
    const float scale = float(scales[start / GROUP]), bias = float(biases[start / GROUP]);
    for (int j = 0; j < WIDTH; j++) {
        const uint word = j < WIDTH / 2 ? words.x : words.y;
        y[start + j] = T(float((word >> (BITS * (j % (WIDTH / 2)))) & uint(MASK)) * scale + bias);
    }
}
