// Scalars, vectors, matrices and the conversions between them.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <limits>
#include <type_traits>

#define METAL_FUNC inline __attribute__((always_inline))

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;
typedef __bf16 bfloat;

// clang calls these to round to bfloat, and libgcc has them only from version 13 on.
extern "C" __attribute__((weak, visibility("hidden"))) bfloat __truncsfbf2(float value) {
  uint32_t bits = __builtin_bit_cast(uint32_t, value);
  bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  uint32_t rounded = is_nan ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
  return __builtin_bit_cast(bfloat, uint16_t(rounded >> 16));
}

extern "C" __attribute__((weak, visibility("hidden"))) bfloat __truncdfbf2(double value) {
  return __truncsfbf2(float(value));
}

#define MSL_VECTORS(T)                                \
  typedef T T##2 __attribute__((ext_vector_type(2))); \
  typedef T T##3 __attribute__((ext_vector_type(3))); \
  typedef T T##4 __attribute__((ext_vector_type(4)));
MSL_VECTORS(bool)
MSL_VECTORS(char)
MSL_VECTORS(uchar)
MSL_VECTORS(short)
MSL_VECTORS(ushort)
MSL_VECTORS(int)
MSL_VECTORS(uint)
MSL_VECTORS(long)
MSL_VECTORS(ulong)
MSL_VECTORS(half)
MSL_VECTORS(bfloat)
MSL_VECTORS(float)
#undef MSL_VECTORS

struct packed_int3 {
  int x, y, z;
};
struct packed_float3 {
  float x, y, z;
};

namespace msl {

template <typename T>
struct Vector {
  static constexpr bool is_vector = false;
};
template <typename T, int N>
struct Vector<T __attribute__((ext_vector_type(N)))> {
  static constexpr bool is_vector = true;
  static constexpr int size = N;
  typedef T Element;
};
template <typename T>
constexpr bool is_vector = Vector<T>::is_vector;
template <typename T>
using Element = typename Vector<T>::Element;

template <typename V, typename T>
METAL_FUNC constexpr void append(V& vector, int& size, T value) {
  if constexpr (is_vector<T>) {
    for (int i = 0; i < Vector<T>::size; i++) vector[size++] = (Element<V>)value[i];
  } else {
    vector[size++] = (Element<V>)value;
  }
}

// Metal's `float4(a, b)`: one scalar for all elements, or scalars and vectors in a row.
template <typename V, typename T, typename... More>
METAL_FUNC constexpr V make(T first, More... more) {
  V vector = {};
  if constexpr (sizeof...(more) == 0 && !is_vector<T>) {
    for (int i = 0; i < Vector<V>::size; i++) vector[i] = (Element<V>)first;
  } else {
    int size = 0;
    append(vector, size, first);
    (append(vector, size, more), ...);
  }
  return vector;
}
template <typename V>
METAL_FUNC constexpr V make() {
  return V{};
}

// Metal's `(float4)x`, which is translated to `Convert<float4>{}->*x`.
template <typename V>
struct Convert {};
template <typename V, typename T>
METAL_FUNC constexpr V operator->*(Convert<V>, const T& value) {
  return make<V>(value);
}

// Metal's static_cast. clang has no conversion between half and bfloat but by way of float.
template <typename To, typename From>
METAL_FUNC constexpr To cast(From&& value) {
  typedef std::remove_cv_t<std::remove_reference_t<From>> Plain;
  constexpr bool through_float = (std::is_same_v<To, half> && std::is_same_v<Plain, bfloat>) ||
                                 (std::is_same_v<To, bfloat> && std::is_same_v<Plain, half>);
  if constexpr (through_float) {
    return To(float(value));
  } else if constexpr (is_vector<To> && is_vector<Plain>) {
    return make<To>(value);
  } else {
    return static_cast<To>(value);
  }
}

}  // namespace msl

namespace metal {

using std::conditional;
using std::conditional_t;
using std::declval;
using std::enable_if;
using std::enable_if_t;
using std::false_type;
using std::integral_constant;
using std::is_convertible_v;
using std::is_floating_point;
using std::is_floating_point_v;
using std::is_integral;
using std::is_integral_v;
using std::is_same;
using std::is_same_v;
using std::is_signed_v;
using std::is_unsigned_v;
using std::make_unsigned;
using std::make_unsigned_t;
using std::remove_cv_t;
using std::remove_reference_t;
using std::true_type;

template <typename T, int N>
using vec = T __attribute__((ext_vector_type(N)));

template <typename T>
struct vec_elements {
  static constexpr int value = 1;
};
template <typename T, int N>
struct vec_elements<T __attribute__((ext_vector_type(N)))> {
  static constexpr int value = N;
};

template <typename T>
struct __is_valid_simdgroup_type {
  static constexpr bool value =
      (std::is_arithmetic_v<T> || std::is_same_v<T, half>) && sizeof(T) < 8;
};

// candle's kernels specialise this one, as Metal's numeric_limits inherit from it.
template <typename T>
struct _numeric_limits_impl : std::numeric_limits<T> {
  static constexpr T quiet_NaN() { return std::numeric_limits<T>::quiet_NaN(); }
};
template <>
struct _numeric_limits_impl<half> {
  static constexpr half max() { return half(65504.0f); }
  static constexpr half lowest() { return half(-65504.0f); }
  static constexpr half min() { return half(6.103515625e-05f); }
  static constexpr half epsilon() { return half(0.0009765625f); }
  static constexpr half infinity() { return half(__builtin_inff()); }
  static constexpr half quiet_NaN() { return half(__builtin_nanf("")); }
};
template <>
struct _numeric_limits_impl<bfloat> {
  static constexpr bfloat max() { return bfloat(3.38953139e38f); }
  static constexpr bfloat lowest() { return bfloat(-3.38953139e38f); }
  static constexpr bfloat min() { return bfloat(1.17549435e-38f); }
  static constexpr bfloat epsilon() { return bfloat(0.0078125f); }
  static constexpr bfloat infinity() { return bfloat(__builtin_inff()); }
  static constexpr bfloat quiet_NaN() { return bfloat(__builtin_nanf("")); }
};
template <typename T>
struct numeric_limits : _numeric_limits_impl<T> {};

template <typename T>
struct _fp_encoding_traits;
template <>
struct _fp_encoding_traits<float> {
  static constexpr uint sign_mask = 0x80000000u, inf_mask = 0x7f800000u;
};

template <typename T, typename U>
METAL_FUNC T as_type(U value) {
  static_assert(sizeof(T) == sizeof(U), "as_type keeps the size");
  T result;
  __builtin_memcpy(&result, &value, sizeof(T));
  return result;
}

// C columns of R rows.
template <typename T, int C, int R>
struct matrix {
  vec<T, R> columns[C];

  matrix() = default;
  template <typename U>
  matrix(U diagonal) : columns{} {
    for (int i = 0; i < C && i < R; i++) columns[i][i] = T(diagonal);
  }
  template <typename U>
  explicit matrix(const matrix<U, C, R>& other) {
    for (int c = 0; c < C; c++)
      for (int r = 0; r < R; r++) columns[c][r] = T(other.columns[c][r]);
  }

  vec<T, R>& operator[](int c) { return columns[c]; }
  const vec<T, R>& operator[](int c) const { return columns[c]; }
};

template <typename T, int C, int R>
METAL_FUNC vec<T, C> operator*(vec<T, R> v, const matrix<T, C, R>& m) {
  vec<T, C> result = {};
  for (int c = 0; c < C; c++)
    for (int r = 0; r < R; r++) result[c] += v[r] * m.columns[c][r];
  return result;
}

template <typename T, int C, int R>
METAL_FUNC vec<T, R> operator*(const matrix<T, C, R>& m, vec<T, C> v) {
  vec<T, R> result = {};
  for (int c = 0; c < C; c++) result += m.columns[c] * v[c];
  return result;
}

typedef matrix<float, 4, 4> float4x4;
typedef matrix<half, 4, 4> half4x4;
typedef matrix<float, 2, 4> float2x4;
typedef matrix<half, 2, 4> half2x4;

}  // namespace metal
