// From rows of all heads, (tokens, heads · d), to heads of rows, (batch, heads, n, d), and back, rotated on the way.

#include "numbers.cuh"

namespace heads {

// Queries, keys and values: where a part comes from and goes to, and how many heads it has, perhaps none.
template <class T> struct Part {
    T *to;
    const T *from;
    int heads;
};

// A thread takes WIDTH numbers of the first half of a head and those that they pair with in the second. Of the
// parts the first `rotated` are rotated: by the angles on the way to heads, and back on the way to rows.
template <class T, bool TO_HEADS>
__device__ void move(Part<T> first, Part<T> second, Part<T> third, int rotated, const T *cos, const T *sin,
                     int batch, int len, int d) {
    const int packs = d / (2 * WIDTH), all = first.heads + second.heads + third.heads;
    const int64_t index = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (int64_t)batch * len * all * packs) return;
    const int i = index % packs * WIDTH;
    const int64_t rest = index / packs;
    int head = rest % all, part = 0;
    const int64_t token = rest / all;
    const int position = token % len;
    Part<T> of = first;
    if (head >= of.heads) {
        head -= of.heads, of = second, part = 1;
        if (head >= of.heads) head -= of.heads, of = third, part = 2;
    }
    const size_t row = ((size_t)token * of.heads + head) * d + i;
    const size_t split = (((size_t)(token / len) * of.heads + head) * len + position) * d + i;
    const T *from = of.from + (TO_HEADS ? row : split);
    T *to = of.to + (TO_HEADS ? split : row);
    Pack<T> a = load(from), b = load(from + d / 2);
    if (part < rotated) {
        const Pack<T> c = load(cos + (size_t)position * (d / 2) + i), s = load(sin + (size_t)position * (d / 2) + i);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            const float x = to_float(a.numbers[j]), y = to_float(b.numbers[j]);
            const float cosine = to_float(c.numbers[j]);
            const float sine = TO_HEADS ? to_float(s.numbers[j]) : -to_float(s.numbers[j]);
            store(&a.numbers[j], x * cosine - y * sine);
            store(&b.numbers[j], y * cosine + x * sine);
        }
    }
    store(to, a);
    store(to + d / 2, b);
}

} // namespace heads

#define MOVE(T, name, TO_HEADS)                                                                                        \
    extern "C" __global__ void name(T *to0, const T *from0, int heads0, T *to1, const T *from1, int heads1, T *to2,    \
                                    const T *from2, int heads2, int rotated, const T *cos, const T *sin, int batch,    \
                                    int len, int d) {                                                                  \
        heads::move<T, TO_HEADS>({to0, from0, heads0}, {to1, from1, heads1}, {to2, from2, heads2}, rotated, cos, sin,  \
                                 batch, len, d);                                                                       \
    }

MOVE(__nv_bfloat16, to_heads_bf16, true)
MOVE(__nv_bfloat16, to_rows_bf16, false)
MOVE(__half, to_heads_f16, true)
MOVE(__half, to_rows_f16, false)
