// Atomics. Threadgroups of a dispatch run on several OS threads, so they have to be real ones.
#pragma once
#include "types.h"

namespace metal {

enum memory_order { memory_order_relaxed };

template <typename T>
struct atomic {
  T value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;

template <typename T>
METAL_FUNC T atomic_load_explicit(const atomic<T>* object, memory_order) {
  T value;
  __atomic_load(&object->value, &value, __ATOMIC_RELAXED);
  return value;
}

template <typename T, typename U>
METAL_FUNC void atomic_store_explicit(atomic<T>* object, U value, memory_order) {
  T converted = T(value);
  __atomic_store(&object->value, &converted, __ATOMIC_RELAXED);
}

template <typename T, typename U>
METAL_FUNC T atomic_fetch_add_explicit(atomic<T>* object, U value, memory_order order) {
  T old = atomic_load_explicit(object, order), sum;
  do {
    sum = old + T(value);
  } while (!__atomic_compare_exchange(&object->value, &old, &sum, false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED));
  return old;
}

}  // namespace metal
