// Operations among the lanes of a simdgroup. They take in the lanes that wait at the same place;
// reading from another lane, which Metal leaves undefined, gives a value of bits all set (a NaN, or
// -1).
#pragma once
#include "fiber.h"
#include "math.h"

namespace msl {

template <typename T, Resolve resolve>
MSL_WAITS T simd_operation(T value, uint32_t argument) {
  static_assert(sizeof(T) <= sizeof(Slot::bytes), "the value does not fit into a slot");
  Slot& slot = current->simdgroup->slots[current->lane];
  __builtin_memcpy(slot.bytes, &value, sizeof(T));
  slot.argument = argument;
  operation_wait(__builtin_return_address(0), resolve);
  __builtin_memcpy(&value, slot.bytes, sizeof(T));
  return value;
}

template <typename T>
T read(const Slot& slot) {
  T value;
  __builtin_memcpy(&value, slot.bytes, sizeof(T));
  return value;
}

inline bool is_active(uint32_t active, uint32_t lane) {
  return lane < SIMD_WIDTH && active >> lane & 1;
}

// All active lanes get the sum, or what else Combine computes of two values.
template <typename T, typename Combine>
void resolve_reduce(Slot* slots, uint32_t active) {
  uint32_t lane = __builtin_ctz(active);
  T result = read<T>(slots[lane]);
  while (++lane < SIMD_WIDTH)
    if (is_active(active, lane)) result = Combine::of(result, read<T>(slots[lane]));
  for (lane = 0; lane < SIMD_WIDTH; lane++)
    if (is_active(active, lane)) __builtin_memcpy(slots[lane].bytes, &result, sizeof(T));
}

// Each lane gets what the lanes before it, and with `inclusive` the lane itself, give together.
template <typename T, typename Combine, bool inclusive>
void resolve_prefix(Slot* slots, uint32_t active) {
  T result = Combine::template first<T>();
  for (uint32_t lane = 0; lane < SIMD_WIDTH; lane++) {
    if (!is_active(active, lane)) continue;
    T next = Combine::of(result, read<T>(slots[lane]));
    __builtin_memcpy(slots[lane].bytes, inclusive ? &next : &result, sizeof(T));
    result = next;
  }
}

// Each lane gets the value of another one, of Source::of(its lane, its argument).
template <typename T, typename Source>
void resolve_shuffle(Slot* slots, uint32_t active) {
  T values[SIMD_WIDTH];
  __builtin_memset(values, 0xff, sizeof(values));
  for (uint32_t lane = 0; lane < SIMD_WIDTH; lane++)
    if (is_active(active, lane)) values[lane] = read<T>(slots[lane]);
  for (uint32_t lane = 0; lane < SIMD_WIDTH; lane++) {
    if (!is_active(active, lane)) continue;
    uint32_t source = Source::of(lane, slots[lane].argument);
    __builtin_memcpy(slots[lane].bytes, &values[source % SIMD_WIDTH], sizeof(T));
  }
}

#define MSL_COMBINE(NAME, EXPRESSION)  \
  struct NAME {                        \
    template <typename T>              \
    static METAL_FUNC T of(T a, T b) { \
      return T(EXPRESSION);            \
    }                                  \
    template <typename T>              \
    static METAL_FUNC T first();       \
  };
MSL_COMBINE(Sum, a + b)
MSL_COMBINE(Product, a* b)
MSL_COMBINE(Min, metal::min(a, b))
MSL_COMBINE(Max, metal::max(a, b))
MSL_COMBINE(And, a& b)
MSL_COMBINE(Or, a | b)
MSL_COMBINE(Xor, a ^ b)
#undef MSL_COMBINE
template <typename T>
METAL_FUNC T Sum::first() {
  return T(0);
}
template <typename T>
METAL_FUNC T Product::first() {
  return T(1);
}

struct Exactly {
  static uint32_t of(uint32_t, uint32_t argument) { return argument; }
};
// The shuffles up and down do not wrap: a lane without a source keeps its value.
struct Down {
  static uint32_t of(uint32_t lane, uint32_t by) {
    return lane + by < SIMD_WIDTH ? lane + by : lane;
  }
};
struct Up {
  static uint32_t of(uint32_t lane, uint32_t by) { return lane >= by ? lane - by : lane; }
};
struct Toggle {
  static uint32_t of(uint32_t lane, uint32_t mask) { return lane ^ mask; }
};

}  // namespace msl

namespace metal {

#define MSL_OPERATION(NAME, ...)                          \
  template <typename T>                                   \
  METAL_FUNC T NAME(T value) {                            \
    return msl::simd_operation<T, __VA_ARGS__>(value, 0); \
  }
MSL_OPERATION(simd_sum, msl::resolve_reduce<T, msl::Sum>)
MSL_OPERATION(simd_product, msl::resolve_reduce<T, msl::Product>)
MSL_OPERATION(simd_min, msl::resolve_reduce<T, msl::Min>)
MSL_OPERATION(simd_max, msl::resolve_reduce<T, msl::Max>)
MSL_OPERATION(simd_and, msl::resolve_reduce<T, msl::And>)
MSL_OPERATION(simd_or, msl::resolve_reduce<T, msl::Or>)
MSL_OPERATION(simd_xor, msl::resolve_reduce<T, msl::Xor>)
MSL_OPERATION(simd_prefix_exclusive_sum, msl::resolve_prefix<T, msl::Sum, false>)
MSL_OPERATION(simd_prefix_inclusive_sum, msl::resolve_prefix<T, msl::Sum, true>)
MSL_OPERATION(simd_prefix_exclusive_product, msl::resolve_prefix<T, msl::Product, false>)
MSL_OPERATION(simd_prefix_inclusive_product, msl::resolve_prefix<T, msl::Product, true>)
#undef MSL_OPERATION

#define MSL_SHUFFLE(NAME, SOURCE)                                                         \
  template <typename T>                                                                   \
  METAL_FUNC T NAME(T value, ushort argument) {                                           \
    return msl::simd_operation<T, msl::resolve_shuffle<T, msl::SOURCE>>(value, argument); \
  }
MSL_SHUFFLE(simd_shuffle, Exactly)
MSL_SHUFFLE(simd_broadcast, Exactly)
MSL_SHUFFLE(simd_shuffle_down, Down)
MSL_SHUFFLE(simd_shuffle_up, Up)
MSL_SHUFFLE(simd_shuffle_xor, Toggle)
#undef MSL_SHUFFLE

METAL_FUNC bool simd_all(bool value) { return simd_and(int(value)); }
METAL_FUNC bool simd_any(bool value) { return simd_or(int(value)); }

}  // namespace metal
