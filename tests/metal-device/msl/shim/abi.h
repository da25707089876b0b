// What a compiled library exports. The host has its own copy of these declarations.
#pragma once
#include <stdint.h>

extern "C" {
typedef struct {
  const char* name;
  void* entry;
  int32_t fibers;  // whether its threads wait for each other
} MslFunction;

typedef struct {
  const char* name;
  int32_t index;
  void* address;
  uint64_t size;
} MslConstant;

typedef struct {
  void* buffers[31];  // by index; never null
  uint32_t threadgroup_offsets[31];
  uint32_t threadgroup_bytes;
  uint32_t threads_per_grid[3], threadgroups_per_grid[3], threads_per_threadgroup[3];
} MslDispatch;

// Both tables end with a null name.
__attribute__((visibility("default"))) extern const MslFunction msl_functions[];
__attribute__((visibility("default"))) extern const MslConstant msl_constants[];

// Runs the threadgroups [first, last) on the calling thread. Returns 0, or 1 with a message in
// `error`. Adds to `diverged` the number of times that threads of a simdgroup, or of a threadgroup
// at a barrier, waited at different places.
int32_t msl_run(const MslFunction* function, const MslDispatch* dispatch, uint64_t first,
                uint64_t last, uint64_t* diverged, char* error, uint64_t error_size);
}
