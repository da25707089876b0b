// One token through a decoder layer in five kernels, and through the output head in one.
//
// A token reads every weight once, so that what counts is that reads are wide and that kernels are few. Numbers are
// added up in 32 bits, and rounded to T where a kernel writes them. A simdgroup computes ROWS rows of a matrix at once:
// each lane reads 16 bytes of each of them (32 where T has 32 bits), beside those of its neighbours, and what it read
// of x serves all of them.
//
// The host puts in front of this what it is compiled for: T, the type of numbers; HEAD, the dimension of a head; TEAM,
// how many lanes share a key.

#include <metal_stdlib>
using namespace metal;

typedef vec<T, 4> T4;

constant constexpr int LANES = 32;
// Numbers of a row that a lane reads at once.
constant constexpr int WIDTH = 8;
// Rows of a simdgroup, and simdgroups of a threadgroup, where a matrix is read.
constant constexpr int ROWS = 4;
constant constexpr int SIMDS = 2;
// Keys that a threadgroup attends to, and its simdgroups.
constant constexpr int SPLIT = 256;
constant constexpr int ATTEND_SIMDS = 8;
// Numbers of a head that a lane holds. A multiple of 4, as half a head begins with a lane.
constant constexpr int PART = HEAD / TEAM;
// The score of no key. Finite, because fast-math may do anything with infinities.
constant constexpr float NONE = -1e30f;

inline float4 load(device const T *from) {
    return float4(*(device const T4 *)from);
}

struct Rows {
    device const T *row[ROWS];
};

// The products of rows with x, or with norm(x) / rms(x) where there is a norm: its weights are applied on the way, and
// the root of the mean square at the end, so that the normed x is neither kept nor waited for.
template <bool NORMED>
inline void products(thread float *sums, thread const Rows &rows, device const T *x, device const T *norm, float eps,
                     int in, int lane) {
    float squares = 0;
    for (int r = 0; r < ROWS; r++) sums[r] = 0;
    for (int i = lane * WIDTH; i < in; i += LANES * WIDTH) {
        float4 a = load(x + i), b = load(x + i + 4);
        if (NORMED) {
            squares += dot(a, a) + dot(b, b);
            a *= load(norm + i);
            b *= load(norm + i + 4);
        }
        for (int r = 0; r < ROWS; r++) sums[r] += dot(load(rows.row[r] + i), a) + dot(load(rows.row[r] + i + 4), b);
    }
    for (int r = 0; r < ROWS; r++) sums[r] = simd_sum(sums[r]);
    if (NORMED) {
        const float inverse = rsqrt(simd_sum(squares) / float(in) + eps);
        for (int r = 0; r < ROWS; r++) sums[r] *= inverse;
    }
}

struct NormLinear {
    int in;
    float eps;
    // Rows of each matrix, and whether it has a bias.
    int out[3];
    int has_bias[3];
};

// Where a row of one of three matrices is, and its bias.
struct Place {
    device const T *row;
    device const T *bias;
};

inline Place find(int row, device const T *w0, device const T *b0, device const T *w1, device const T *b1,
                  device const T *w2, device const T *b2, constant NormLinear &p) {
    device const T *w = w0, *b = b0;
    int has_bias = p.has_bias[0];
    if (row >= p.out[0]) {
        row -= p.out[0];
        w = w1;
        b = b1;
        has_bias = p.has_bias[1];
        if (row >= p.out[1]) {
            row -= p.out[1];
            w = w2;
            b = b2;
            has_bias = p.has_bias[2];
        }
    }
    Place place;
    place.row = w + ulong(row) * ulong(p.in);
    place.bias = has_bias ? b + row : nullptr;
    return place;
}

// y = rows of one to three matrices times norm(x), with biases where there are some.
[[kernel]] void norm_linear(device T *y [[buffer(0)]], device const T *x [[buffer(1)]],
                            device const T *norm [[buffer(2)]], device const T *w0 [[buffer(3)]],
                            device const T *b0 [[buffer(4)]], device const T *w1 [[buffer(5)]],
                            device const T *b1 [[buffer(6)]], device const T *w2 [[buffer(7)]],
                            device const T *b2 [[buffer(8)]], constant NormLinear &p [[buffer(9)]],
                            uint group [[threadgroup_position_in_grid]],
                            uint simd [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    const int first = int(group * SIMDS + simd) * ROWS, all = p.out[0] + p.out[1] + p.out[2];
    if (first >= all) return;
    Rows rows;
    for (int r = 0; r < ROWS; r++) rows.row[r] = find(min(first + r, all - 1), w0, b0, w1, b1, w2, b2, p).row;
    float sums[ROWS];
    products<true>(sums, rows, x, norm, p.eps, p.in, int(lane));
    for (int r = 0; r < ROWS; r++)
        if (int(lane) == r && first + r < all) {
            device const T *bias = find(first + r, w0, b0, w1, b1, w2, b2, p).bias;
            y[first + r] = T(bias == nullptr ? sums[r] : sums[r] + float(*bias));
        }
}

struct NormHead {
    int in;
    float eps;
    int out;
};

// y = W norm(x), in 32 bits.
[[kernel]] void norm_head(device float *y [[buffer(0)]], device const T *x [[buffer(1)]],
                          device const T *norm [[buffer(2)]], device const T *w [[buffer(3)]],
                          constant NormHead &p [[buffer(4)]], uint group [[threadgroup_position_in_grid]],
                          uint simd [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    const int first = int(group * SIMDS + simd) * ROWS;
    if (first >= p.out) return;
    Rows rows;
    for (int r = 0; r < ROWS; r++) rows.row[r] = w + ulong(min(first + r, p.out - 1)) * ulong(p.in);
    float sums[ROWS];
    products<true>(sums, rows, x, norm, p.eps, p.in, int(lane));
    for (int r = 0; r < ROWS; r++)
        if (int(lane) == r && first + r < p.out) y[first + r] = sums[r];
}

struct LinearAdd {
    int in;
    int out;
};

// y = residual + W x.
[[kernel]] void linear_add(device T *y [[buffer(0)]], device const T *x [[buffer(1)]],
                           device const T *w [[buffer(2)]], device const T *residual [[buffer(3)]],
                           constant LinearAdd &p [[buffer(4)]], uint group [[threadgroup_position_in_grid]],
                           uint simd [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    const int first = int(group * SIMDS + simd) * ROWS;
    if (first >= p.out) return;
    Rows rows;
    for (int r = 0; r < ROWS; r++) rows.row[r] = w + ulong(min(first + r, p.out - 1)) * ulong(p.in);
    float sums[ROWS];
    products<false>(sums, rows, x, x, 0, p.in, int(lane));
    for (int r = 0; r < ROWS; r++)
        if (int(lane) == r && first + r < p.out) y[first + r] = T(sums[r] + float(residual[first + r]));
}

struct NormSwiglu {
    int in;
    float eps;
    int out;
};

// y = silu(G norm(x)) * (U norm(x)).
[[kernel]] void norm_swiglu(device T *y [[buffer(0)]], device const T *x [[buffer(1)]],
                            device const T *norm [[buffer(2)]], device const T *gate [[buffer(3)]],
                            device const T *up [[buffer(4)]], constant NormSwiglu &p [[buffer(5)]],
                            uint group [[threadgroup_position_in_grid]],
                            uint simd [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    constexpr int PAIRS = ROWS / 2;
    const int first = int(group * SIMDS + simd) * PAIRS;
    if (first >= p.out) return;
    Rows rows;
    for (int r = 0; r < PAIRS; r++) {
        const ulong start = ulong(min(first + r, p.out - 1)) * ulong(p.in);
        rows.row[r] = gate + start;
        rows.row[PAIRS + r] = up + start;
    }
    float sums[ROWS];
    products<true>(sums, rows, x, norm, p.eps, p.in, int(lane));
    for (int r = 0; r < PAIRS; r++)
        if (int(lane) == r && first + r < p.out) y[first + r] = T(sums[r] / (1 + exp(-sums[r])) * sums[PAIRS + r]);
}

// Of the lanes of a team, for each of them.
inline float team_sum(float x) {
    for (int step = TEAM / 2; step > 0; step /= 2) x += simd_shuffle_xor(x, ushort(step));
    return x;
}

// A lane's part of a head, normed where there is a norm, and rotated: dimension i pairs with i + HEAD / 2, which the
// lane half a team away holds.
inline void rotate_head(thread float *head, device const T *x, device const T *norm, bool is_normed, float eps,
                        device const T *cosines, device const T *sines, int member) {
    float squares = 0;
    for (int i = 0; i < PART; i++) {
        head[i] = float(x[member * PART + i]);
        squares += head[i] * head[i];
    }
    if (is_normed) {
        const float inverse = rsqrt(team_sum(squares) / float(HEAD) + eps);
        for (int i = 0; i < PART; i++) head[i] *= inverse * float(norm[member * PART + i]);
    }
    for (int i = 0; i < PART; i++) {
        const float other = simd_shuffle_xor(head[i], ushort(TEAM / 2));
        const int angle = member % (TEAM / 2) * PART + i;
        const float sine = float(sines[angle]);
        head[i] = head[i] * float(cosines[angle]) + (member < TEAM / 2 ? -other : other) * sine;
    }
}

struct Attend {
    float eps;
    int is_normed;
    int heads;
    int kv_heads;
    int capacity;
    int oldest;
    int position;
};

// Attention of one token over the keys in the cache and its own, which this writes there.
//
// A threadgroup has a head and up to SPLIT keys, and a team of lanes one of them at a time. What several threadgroups
// found of a head, `join` puts together. `qkv` has the heads of the query, then those of key and value. Caches are
// (kv_heads, capacity, HEAD).
[[kernel, max_total_threads_per_threadgroup(256)]] void
attend(device T *y [[buffer(0)]], device float *parts [[buffer(1)]], device T *keys [[buffer(2)]],
       device T *values [[buffer(3)]], device const T *qkv [[buffer(4)]], device const T *query_norm [[buffer(5)]],
       device const T *key_norm [[buffer(6)]], device const T *cosines [[buffer(7)]],
       device const T *sines [[buffer(8)]], constant Attend &p [[buffer(9)]],
       uint2 group [[threadgroup_position_in_grid]], uint2 groups [[threadgroups_per_grid]],
       uint simd_index [[simdgroup_index_in_threadgroup]], uint lane_index [[thread_index_in_simdgroup]]) {
    constexpr int TEAMS = LANES / TEAM;
    threadgroup float all_sums[ATTEND_SIMDS * HEAD];
    threadgroup float all_bests[ATTEND_SIMDS];
    threadgroup float all_totals[ATTEND_SIMDS];

    const int head = int(group.x), split = int(group.y), splits = int(groups.y);
    const int simd = int(simd_index), lane = int(lane_index), member = lane % TEAM, team = lane / TEAM;
    const int per_kv = p.heads / p.kv_heads, kv = head / per_kv;
    const int start = p.oldest + split * SPLIT, end = min(start + SPLIT, p.position + 1);
    const ulong cached = ulong(kv) * ulong(p.capacity) * HEAD + ulong(member * PART);
    device const T *new_value = qkv + (p.heads + p.kv_heads + kv) * HEAD + member * PART;

    float query[PART];
    float key[PART];
    rotate_head(query, qkv + head * HEAD, query_norm, p.is_normed, p.eps, cosines, sines, member);
    rotate_head(key, qkv + (p.heads + kv) * HEAD, key_norm, p.is_normed, p.eps, cosines, sines, member);
    for (int i = 0; i < PART; i++) {
        query[i] *= rsqrt(float(HEAD));
        // As the tokens to come will find it.
        key[i] = float(T(key[i]));
    }
    if (end == p.position + 1 && head % per_kv == 0 && simd == 0 && team == 0) {
        const ulong place = cached + ulong(p.position) * HEAD;
        for (int i = 0; i < PART; i++) {
            keys[place + i] = T(key[i]);
            values[place + i] = new_value[i];
        }
    }

    float best = NONE, total = 0;
    float sum[PART];
    for (int i = 0; i < PART; i++) sum[i] = 0;
    for (int base = start + simd * TEAMS; base < end; base += ATTEND_SIMDS * TEAMS) {
        const int at = base + team;
        const ulong place = cached + ulong(at) * HEAD;
        float score = 0;
        if (at == p.position) {
            for (int i = 0; i < PART; i++) score += query[i] * key[i];
        } else if (at < end) {
            for (int i = 0; i < PART; i += 4)
                score += dot(float4(query[i], query[i + 1], query[i + 2], query[i + 3]), load(keys + place + i));
        }
        score = team_sum(score);
        if (at < end) {
            const float larger = max(best, score), shrink = exp(best - larger), weight = exp(score - larger);
            device const T *value = at == p.position ? new_value : (device const T *)values + place;
            for (int i = 0; i < PART; i += 4) {
                const float4 four = load(value + i);
                for (int j = 0; j < 4; j++) sum[i + j] = sum[i + j] * shrink + weight * four[j];
            }
            total = total * shrink + weight;
            best = larger;
        }
    }

    // The teams of a simdgroup, then the simdgroups.
    for (int step = TEAM; step < LANES; step *= 2) {
        const float larger = max(best, simd_shuffle_xor(best, ushort(step)));
        const float shrink = exp(best - larger);
        total *= shrink;
        total += simd_shuffle_xor(total, ushort(step));
        for (int i = 0; i < PART; i++) {
            sum[i] *= shrink;
            sum[i] += simd_shuffle_xor(sum[i], ushort(step));
        }
        best = larger;
    }
    if (team == 0)
        for (int i = 0; i < PART; i++) all_sums[simd * HEAD + member * PART + i] = sum[i];
    if (lane == 0) {
        all_bests[simd] = best;
        all_totals[simd] = total;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    const int i = simd * LANES + lane;
    if (i >= HEAD) return;
    best = NONE;
    for (int s = 0; s < ATTEND_SIMDS; s++) best = max(best, all_bests[s]);
    float whole = 0;
    total = 0;
    for (int s = 0; s < ATTEND_SIMDS; s++) {
        const float shrink = exp(all_bests[s] - best);
        whole += all_sums[s * HEAD + i] * shrink;
        total += all_totals[s] * shrink;
    }
    if (splits == 1) {
        y[head * HEAD + i] = T(whole / total);
        return;
    }
    device float *part = parts + (head * splits + split) * (HEAD + 2);
    part[2 + i] = whole;
    if (i == 0) {
        part[0] = best;
        part[1] = total;
    }
}

// Puts the parts of a head together, by a thread for each of its numbers.
[[kernel, max_total_threads_per_threadgroup(256)]] void
join(device T *y [[buffer(0)]], device const float *parts [[buffer(1)]], constant int &splits [[buffer(2)]],
     uint head [[threadgroup_position_in_grid]], uint i [[thread_index_in_threadgroup]]) {
    device const float *all = parts + int(head) * splits * (HEAD + 2);
    float best = NONE;
    for (int s = 0; s < splits; s++) best = max(best, all[s * (HEAD + 2)]);
    float whole = 0, total = 0;
    for (int s = 0; s < splits; s++) {
        device const float *part = all + s * (HEAD + 2);
        const float shrink = exp(part[0] - best);
        whole += part[2 + i] * shrink;
        total += part[1] * shrink;
    }
    y[int(head) * HEAD + int(i)] = T(whole / total);
}
