// Passes its arguments to a kernel. The translator says where each comes from; its type is the
// kernel's.
#pragma once
#include "fiber.h"

namespace msl {

enum class BuiltinName {
  dispatch_threads_per_threadgroup,
  simdgroup_index_in_threadgroup,
  simdgroups_per_threadgroup,
  thread_index_in_simdgroup,
  thread_index_in_threadgroup,
  thread_position_in_grid,
  thread_position_in_threadgroup,
  threadgroup_position_in_grid,
  threadgroups_per_grid,
  threads_per_grid,
  threads_per_simdgroup,
  threads_per_threadgroup,
};

inline Position position(const uint32_t (&values)[3]) { return {values[0], values[1], values[2]}; }

inline Position builtin(BuiltinName name) {
  const Thread& thread = *current;
  const Group& group = *thread.group;
  Position declared = position(group.dispatch->threads_per_threadgroup);
  switch (name) {
    case BuiltinName::dispatch_threads_per_threadgroup:
      return declared;
    case BuiltinName::simdgroup_index_in_threadgroup:
      return {thread.simdgroup_index, 0, 0};
    case BuiltinName::simdgroups_per_threadgroup:
      return {(group.size.x * group.size.y * group.size.z + SIMD_WIDTH - 1) / SIMD_WIDTH, 0, 0};
    case BuiltinName::thread_index_in_simdgroup:
      return {thread.lane, 0, 0};
    case BuiltinName::thread_index_in_threadgroup:
      return {thread.index, 0, 0};
    case BuiltinName::thread_position_in_grid:
      return {group.position.x * declared.x + thread.position.x,
              group.position.y * declared.y + thread.position.y,
              group.position.z * declared.z + thread.position.z};
    case BuiltinName::thread_position_in_threadgroup:
      return thread.position;
    case BuiltinName::threadgroup_position_in_grid:
      return group.position;
    case BuiltinName::threadgroups_per_grid:
      return position(group.dispatch->threadgroups_per_grid);
    case BuiltinName::threads_per_grid:
      return position(group.dispatch->threads_per_grid);
    case BuiltinName::threads_per_simdgroup:
      return {SIMD_WIDTH, 0, 0};
    case BuiltinName::threads_per_threadgroup:
      return group.size;
  }
}

template <int index>
struct Buffer {
  template <typename T>
  static METAL_FUNC T get(const MslDispatch& dispatch) {
    if constexpr (std::is_reference_v<T>) {
      return *static_cast<std::remove_reference_t<T>*>(dispatch.buffers[index]);
    } else {
      return static_cast<T>(dispatch.buffers[index]);
    }
  }
};

template <int index>
struct Threadgroup {
  template <typename T>
  static METAL_FUNC T get(const MslDispatch&) {
    const Group& group = *current->group;
    return reinterpret_cast<T>(group.arena + group.threadgroup_offsets[index]);
  }
};

template <BuiltinName name>
struct Builtin {
  template <typename T>
  static METAL_FUNC T get(const MslDispatch&) {
    Position value = builtin(name);
    if constexpr (is_vector<T>) {
      T vector;
      vector[0] = value.x;
      vector[1] = value.y;
      if constexpr (Vector<T>::size > 2) vector[2] = value.z;
      return vector;
    } else {
      return T(value.x);
    }
  }
};

template <typename... P>
struct Parameters {};

template <typename... T, typename... P>
METAL_FUNC void call(const MslDispatch& dispatch, void (*kernel)(T...), Parameters<P...>) {
  kernel(P::template get<T>(dispatch)...);
}

}  // namespace msl
