// Matrices of 8 x 8 spread over a simdgroup: each lane holds two adjacent elements of a row, at the
// place where Apple's GPUs have them.
//
// A multiplication needs all lanes, but no lane needs its result at once. So a lane only leaves its
// part in a queue and goes on; the last one computes. A lane waits when it reads a matrix that is
// still to be computed, which saves most of the switches between the fibers.
#pragma once
#include "fiber.h"

namespace msl {

METAL_FUNC constexpr uint32_t matrix_row(uint32_t lane) { return (lane / 4 & 4) + lane / 2 % 4; }
METAL_FUNC constexpr uint32_t matrix_column(uint32_t lane) {
  return (lane / 4 & 2) * 2 + lane % 2 * 2;
}

// The operation that the thread has to add its part to.
inline MatrixOperation& next_matrix_operation(const void* site) {
  SimdGroup& simdgroup = *current->simdgroup;
  if (!current->group->fibers)
    fault("simdgroup_matrix operation in a kernel that runs without fibers");
  if (current->matrices - simdgroup.matrices_done == MATRIX_OPERATIONS)
    matrix_wait(current->matrices - MATRIX_OPERATIONS + 1);
  MatrixOperation& operation = simdgroup.operations[current->matrices++ % MATRIX_OPERATIONS];
  if (operation.arrived == 0) {
    operation.site = site;
    operation.accumulates = 0;
  } else if (operation.site != site) {
    fault("the lanes of a simdgroup are at different simdgroup_matrix operations");
  }
  return operation;
}

struct alignas(32) Matrix {
  float at[8][8];
};

METAL_FUNC void gather(Matrix& matrix, const Pair (&parts)[SIMD_WIDTH]) {
#pragma clang loop unroll(full)
  for (uint32_t lane = 0; lane < SIMD_WIDTH; lane++)
    __builtin_memcpy(&matrix.at[matrix_row(lane)][matrix_column(lane)], &parts[lane], sizeof(Pair));
}

METAL_FUNC void scatter(const Matrix& matrix, Pair (&parts)[SIMD_WIDTH]) {
#pragma clang loop unroll(full)
  for (uint32_t lane = 0; lane < SIMD_WIDTH; lane++)
    __builtin_memcpy(&parts[lane], &matrix.at[matrix_row(lane)][matrix_column(lane)], sizeof(Pair));
}

// Computes c += a * b, where each element is a sum in the order of the columns of a, rounded every
// time.
inline void multiply_accumulate(MatrixOperation& operation) {
  typedef float Row __attribute__((ext_vector_type(8)));
  Matrix a, b, c;
  gather(a, operation.a);
  gather(b, operation.b);
  gather(c, operation.c);
  Row sums[8];
  __builtin_memcpy(sums, &c, sizeof(c));
#pragma clang loop unroll(full)
  for (int k = 0; k < 8; k++) {
    Row row;
    __builtin_memcpy(&row, b.at[k], sizeof(row));
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i++) sums[i] += a.at[i][k] * row;
  }
  __builtin_memcpy(&c, sums, sizeof(c));
  scatter(c, operation.c);
}

}  // namespace msl

namespace metal {

template <typename T, int R = 8, int C = 8>
class simdgroup_matrix {
  static_assert(R == 8 && C == 8, "Metal has matrices of 8 x 8 only");

 public:
  typedef vec<T, 2> storage_type;

  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal) {
    uint32_t row = msl::matrix_row(msl::current->lane);
    uint32_t column = msl::matrix_column(msl::current->lane);
    elements[0] = row == column ? diagonal : T(0);
    elements[1] = row == column + 1 ? diagonal : T(0);
  }
  simdgroup_matrix(const simdgroup_matrix& other) : elements(other.thread_elements()) {}
  simdgroup_matrix& operator=(const simdgroup_matrix& other) {
    thread_elements() = other.thread_elements();
    return *this;
  }
  ~simdgroup_matrix() { settle(); }

  METAL_FUNC storage_type& thread_elements() {
    settle();
    return elements;
  }
  METAL_FUNC const storage_type& thread_elements() const {
    settle();
    return elements;
  }

  // Waits for the operations which have this matrix as their result.
  METAL_FUNC void settle() const {
    if (pending) msl::matrix_wait(msl::current->matrices);
  }

  template <typename D, typename A, typename B>
  friend void msl_multiply(simdgroup_matrix<D, 8, 8>&, const simdgroup_matrix<A, 8, 8>&,
                           const simdgroup_matrix<B, 8, 8>&, bool, msl::Pair);

 private:
  storage_type elements;
  uint32_t pending = 0;
};

typedef simdgroup_matrix<float> simdgroup_float8x8;
typedef simdgroup_matrix<half> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat> simdgroup_bfloat8x8;

template <typename T, int R, int C = R>
METAL_FUNC simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, R, C> result;
  result.thread_elements() = value;
  return result;
}

template <typename T, typename U>
METAL_FUNC void simdgroup_load(simdgroup_matrix<T, 8, 8>& matrix, const U* source, ulong stride = 8,
                               ulong2 origin = 0, bool transpose = false) {
  source += origin.y * stride + origin.x;
  uint row = msl::matrix_row(msl::current->lane), column = msl::matrix_column(msl::current->lane);
  vec<T, 2>& elements = matrix.thread_elements();
  for (uint i = 0; i < 2; i++)
    elements[i] =
        T(transpose ? source[(column + i) * stride + row] : source[row * stride + column + i]);
}

template <typename T, typename U>
METAL_FUNC void simdgroup_store(const simdgroup_matrix<T, 8, 8>& matrix, U* target,
                                ulong stride = 8, ulong2 origin = 0, bool transpose = false) {
  target += origin.y * stride + origin.x;
  uint row = msl::matrix_row(msl::current->lane), column = msl::matrix_column(msl::current->lane);
  const vec<T, 2>& elements = matrix.thread_elements();
  for (uint i = 0; i < 2; i++)
    (transpose ? target[(column + i) * stride + row] : target[row * stride + column + i]) =
        U(elements[i]);
}

// d = a * b + c, where c is d itself with `accumulates`.
template <typename D, typename A, typename B>
MSL_WAITS void msl_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                            const simdgroup_matrix<B, 8, 8>& b, bool accumulates, msl::Pair c) {
  uint32_t lane = msl::current->lane;
  const vec<A, 2>& a_part = a.thread_elements();
  const vec<B, 2>& b_part = b.thread_elements();
  msl::MatrixOperation& operation = msl::next_matrix_operation(__builtin_return_address(0));
  operation.a[lane] = {float(a_part[0]), float(a_part[1])};
  operation.b[lane] = {float(b_part[0]), float(b_part[1])};
  operation.c[lane] = c;
  operation.accumulates |= uint32_t(accumulates) << lane;
  operation.result[lane] = &d;
  d.pending++;
  if (++operation.arrived < msl::SIMD_WIDTH) return;

  typedef simdgroup_matrix<D, 8, 8> Result;
  for (uint32_t i = 0; i < msl::SIMD_WIDTH; i++) {
    const vec<D, 2>& old = static_cast<Result*>(operation.result[i])->elements;
    if (operation.accumulates >> i & 1) operation.c[i] = {float(old[0]), float(old[1])};
  }
  msl::multiply_accumulate(operation);
  for (uint32_t i = 0; i < msl::SIMD_WIDTH; i++) {
    Result& result = *static_cast<Result*>(operation.result[i]);
    result.elements[0] = D(operation.c[i][0]);
    result.elements[1] = D(operation.c[i][1]);
    result.pending--;
  }
  operation.arrived = 0;
  msl::current->simdgroup->matrices_done++;
}

template <typename D, typename A, typename B, typename C>
METAL_FUNC void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d,
                                              const simdgroup_matrix<A, 8, 8>& a,
                                              const simdgroup_matrix<B, 8, 8>& b,
                                              const simdgroup_matrix<C, 8, 8>& c) {
  if ((const void*)&c == (const void*)&d) {
    msl_multiply(d, a, b, true, msl::Pair(0));
  } else {
    const vec<C, 2>& elements = c.thread_elements();
    msl_multiply(d, a, b, false, msl::Pair{float(elements[0]), float(elements[1])});
  }
}

template <typename D, typename A, typename B>
METAL_FUNC void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                   const simdgroup_matrix<B, 8, 8>& b) {
  msl_multiply(d, a, b, false, msl::Pair(0));
}

}  // namespace metal
