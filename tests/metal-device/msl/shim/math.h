// Functions of numbers. Those of half and bfloat are computed as float and rounded once.
#pragma once
#include "types.h"

namespace metal {

#define MSL_FUNCTION(NAME, EXPRESSION)                                                           \
  METAL_FUNC float NAME(float x) { return EXPRESSION; }                                          \
  METAL_FUNC half NAME(half x) { return half(NAME(float(x))); }                                  \
  METAL_FUNC bfloat NAME(bfloat x) { return bfloat(NAME(float(x))); }                            \
  template <typename T, typename = std::enable_if_t<msl::is_vector<T> || std::is_integral_v<T>>> \
  METAL_FUNC auto NAME(T x) {                                                                    \
    if constexpr (msl::is_vector<T>) {                                                           \
      for (int i = 0; i < msl::Vector<T>::size; i++) x[i] = NAME(msl::Element<T>(x[i]));         \
      return x;                                                                                  \
    } else {                                                                                     \
      return NAME(float(x));                                                                     \
    }                                                                                            \
  }

MSL_FUNCTION(acos, __builtin_acosf(x))
MSL_FUNCTION(asin, __builtin_asinf(x))
MSL_FUNCTION(atan, __builtin_atanf(x))
MSL_FUNCTION(ceil, __builtin_ceilf(x))
MSL_FUNCTION(cos, __builtin_cosf(x))
MSL_FUNCTION(cosh, __builtin_coshf(x))
MSL_FUNCTION(exp, __builtin_expf(x))
MSL_FUNCTION(exp2, __builtin_exp2f(x))
MSL_FUNCTION(fabs, __builtin_fabsf(x))
MSL_FUNCTION(floor, __builtin_floorf(x))
MSL_FUNCTION(log, __builtin_logf(x))
MSL_FUNCTION(log10, __builtin_log10f(x))
MSL_FUNCTION(log2, __builtin_log2f(x))
MSL_FUNCTION(rint, __builtin_rintf(x))
MSL_FUNCTION(round, __builtin_roundf(x))
MSL_FUNCTION(rsqrt, 1.0f / __builtin_sqrtf(x))
// The sign of NaN is 0 in Metal.
MSL_FUNCTION(sign, x > 0 ? 1.0f : x < 0 ? -1.0f : x == 0 ? x : 0.0f)
MSL_FUNCTION(sin, __builtin_sinf(x))
MSL_FUNCTION(sinh, __builtin_sinhf(x))
MSL_FUNCTION(sqrt, __builtin_sqrtf(x))
MSL_FUNCTION(tan, __builtin_tanf(x))
MSL_FUNCTION(tanh, __builtin_tanhf(x))
MSL_FUNCTION(trunc, __builtin_truncf(x))
#undef MSL_FUNCTION

METAL_FUNC bool isnan(float x) { return x != x; }
METAL_FUNC bool isinf(float x) { return __builtin_isinf(x); }
METAL_FUNC bool isfinite(float x) { return __builtin_isfinite(x); }

METAL_FUNC float pow(float a, float b) { return __builtin_powf(a, b); }
METAL_FUNC half pow(half a, half b) { return half(__builtin_powf(a, b)); }
METAL_FUNC bfloat pow(bfloat a, bfloat b) { return bfloat(__builtin_powf(a, b)); }
template <typename A, typename B,
          typename = std::enable_if_t<!std::is_same_v<A, B> || std::is_integral_v<A>>>
METAL_FUNC float pow(A a, B b) {
  return __builtin_powf(float(a), float(b));
}
METAL_FUNC float powr(float a, float b) { return __builtin_powf(a, b); }
METAL_FUNC float fmod(float a, float b) { return __builtin_fmodf(a, b); }
METAL_FUNC float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
METAL_FUNC float ldexp(float a, int b) { return __builtin_ldexpf(a, b); }
METAL_FUNC float sincos(float x, float& cosine) {
  cosine = __builtin_cosf(x);
  return __builtin_sinf(x);
}

template <typename T>
METAL_FUNC T divide(T a, T b) {
  return a / b;
}

METAL_FUNC float abs(float x) { return __builtin_fabsf(x); }
METAL_FUNC half abs(half x) { return half(__builtin_fabsf(x)); }
METAL_FUNC bfloat abs(bfloat x) { return bfloat(__builtin_fabsf(x)); }
template <typename T>
METAL_FUNC std::enable_if_t<std::is_integral_v<T>, T> abs(T x) {
  return x < 0 ? -x : x;
}

// If one argument is NaN, the result is the other one.
template <typename T>
METAL_FUNC T min(T a, T b) {
  if constexpr (msl::is_vector<T>) {
    for (int i = 0; i < msl::Vector<T>::size; i++)
      a[i] = min(msl::Element<T>(a[i]), msl::Element<T>(b[i]));
    return a;
  } else {
    return a != a || b < a ? b : a;
  }
}
template <typename T>
METAL_FUNC T max(T a, T b) {
  if constexpr (msl::is_vector<T>) {
    for (int i = 0; i < msl::Vector<T>::size; i++)
      a[i] = max(msl::Element<T>(a[i]), msl::Element<T>(b[i]));
    return a;
  } else {
    return a != a || b > a ? b : a;
  }
}
template <typename A, typename B,
          typename = std::enable_if_t<!std::is_same_v<A, B> && !msl::is_vector<A>>>
METAL_FUNC auto min(A a, B b) {
  typedef std::common_type_t<A, B> T;
  return min(T(a), T(b));
}
template <typename A, typename B,
          typename = std::enable_if_t<!std::is_same_v<A, B> && !msl::is_vector<A>>>
METAL_FUNC auto max(A a, B b) {
  typedef std::common_type_t<A, B> T;
  return max(T(a), T(b));
}
template <typename T>
METAL_FUNC T fmin(T a, T b) {
  return min(a, b);
}
template <typename T>
METAL_FUNC T fmax(T a, T b) {
  return max(a, b);
}
template <typename T>
METAL_FUNC T clamp(T x, T low, T high) {
  return min(max(x, low), high);
}
template <typename T>
METAL_FUNC T select(T a, T b, bool second) {
  return second ? b : a;
}

METAL_FUNC uint clz(uint x) { return x ? __builtin_clz(x) : 32; }
METAL_FUNC uint ctz(uint x) { return x ? __builtin_ctz(x) : 32; }
METAL_FUNC uint popcount(uint x) { return __builtin_popcount(x); }

template <typename V>
METAL_FUNC msl::Element<V> dot(V a, V b) {
  msl::Element<V> sum = 0;
  for (int i = 0; i < msl::Vector<V>::size; i++) sum += a[i] * b[i];
  return sum;
}
template <typename V>
METAL_FUNC bool all(V v) {
  bool result = true;
  for (int i = 0; i < msl::Vector<V>::size; i++) result = result && v[i];
  return result;
}
template <typename V>
METAL_FUNC bool any(V v) {
  bool result = false;
  for (int i = 0; i < msl::Vector<V>::size; i++) result = result || v[i];
  return result;
}

// Fast and precise functions are the same ones here.
namespace fast {
using namespace metal;
}
namespace precise {
using namespace metal;
}

}  // namespace metal
