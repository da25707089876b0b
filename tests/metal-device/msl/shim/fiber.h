// The threads of a threadgroup as the code of a kernel sees them. Each is a fiber, so that it can
// wait for others in the middle of a function; ../shim/runtime.cpp switches between them.
#pragma once
#include "abi.h"
#include "types.h"

namespace msl {

constexpr uint32_t SIMD_WIDTH = 32;
constexpr uint32_t MAX_THREADS = 1024;
constexpr uint32_t MAX_SIMDGROUPS = MAX_THREADS / SIMD_WIDTH;
constexpr uint32_t MAX_THREADGROUP_BYTES = 32768;

struct Position {
  uint32_t x, y, z;
};

// What the threads of a threadgroup have in common.
struct Group {
  Position position, size;
  const MslDispatch* dispatch;
  unsigned char* arena;  // threadgroup memory
  uint32_t threadgroup_offsets[31];
  bool fibers;
};

// What a thread brings into an operation of its simdgroup, and afterwards what it takes out of it.
struct Slot {
  alignas(32) unsigned char bytes[32];
  uint32_t argument;
};

// Computes an operation of a simdgroup for all its active lanes at once.
typedef void (*Resolve)(Slot* slots, uint32_t active);

typedef float Pair __attribute__((ext_vector_type(2)));

// A multiplication of simdgroup matrices that some lanes have asked for already: see
// simdgroup_matrix.h.
struct MatrixOperation {
  Pair a[SIMD_WIDTH], b[SIMD_WIDTH], c[SIMD_WIDTH];  // each lane's part
  void* result[SIMD_WIDTH];
  uint32_t accumulates;  // the lanes whose part of c is the one of the result
  uint32_t arrived = 0;
  const void* site;
};
constexpr uint32_t MATRIX_OPERATIONS = 64;

struct SimdGroup {
  Slot slots[SIMD_WIDTH];
  const void* sites[SIMD_WIDTH];
  Resolve resolve[SIMD_WIDTH];
  // Masks of lanes. A lane in none of them has returned from the kernel.
  uint32_t ready, in_operation, in_matrix, in_barrier;
  // A ring: operation i is operations[i % MATRIX_OPERATIONS]; all before `matrices_done` are
  // computed.
  MatrixOperation operations[MATRIX_OPERATIONS];
  uint32_t matrices_done;
};

struct Thread {
  Position position;
  uint32_t index, lane, simdgroup_index;
  uint32_t matrices;         // how many operations on simdgroup matrices it has asked for
  uint32_t awaits_matrices;  // how many must be done before it goes on
  SimdGroup* simdgroup;
  Group* group;
  void* stack_pointer;
};

// Fibers never change their OS thread, so that a compiler may keep the address of `current`.
extern __attribute__((tls_model("initial-exec"))) __thread Thread* current;

// Ends the dispatch with an error.
[[noreturn]] void fault(const char* message);

// A wait is `convergent` so that the optimiser keeps one call of it one call: its return address,
// the site, is how threads are recognised to wait for the same thing.
#define MSL_WAITS __attribute__((noinline, convergent))

MSL_WAITS void threadgroup_wait();
MSL_WAITS void simdgroup_wait();
MSL_WAITS void operation_wait(const void* site, Resolve resolve);
MSL_WAITS void matrix_wait(uint32_t operations);

// The memory of a variable of the threadgroup; `id` tells variables apart.
void* threadgroup_memory(const void* id, size_t size, const char* name);

template <typename T, typename Id>
T& threadgroup_variable(const char* name) {
  static const char id = 0;
  return *static_cast<T*>(threadgroup_memory(&id, sizeof(T), name));
}

}  // namespace msl

namespace metal {

struct mem_flags {
  static constexpr int mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4;
};

// The memory of the simulation is coherent: which memory a barrier orders makes no difference.
METAL_FUNC void threadgroup_barrier(int) { msl::threadgroup_wait(); }
METAL_FUNC void simdgroup_barrier(int) { msl::simdgroup_wait(); }

}  // namespace metal
