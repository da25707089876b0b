// Runs the threadgroups of a dispatch. Compiled once, and shared by all compiled libraries.
//
// Each thread of a threadgroup is a fiber with a stack of its own. Within a simdgroup one fiber
// runs until it has to wait, then the next; when all of them wait, what they wait for is resolved.
// A threadgroup barrier lets all simdgroups go on when every thread has reached it or has returned.
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <mutex>
#include <new>

#include "fiber.h"
#include "fiber_switch.h"

namespace msl {

__thread Thread* current;

namespace {

constexpr size_t STACK_BYTES = 64 * 1024;
constexpr size_t PAGE_BYTES = 4096;
// Behind each object in threadgroup memory lie bytes which nobody may write.
constexpr uint32_t CANARY_BYTES = 128;
constexpr unsigned char CANARY = 0xc5;
// Uninitialised threadgroup memory reads as NaN, or as -1.
constexpr unsigned char POISON = 0xff;
constexpr uint32_t MAX_VARIABLES = 64;
constexpr uint32_t BUFFERS = 31;
constexpr size_t ARENA_BYTES =
    MAX_THREADGROUP_BYTES + (MAX_VARIABLES + BUFFERS + 1) * (CANARY_BYTES + 64);

typedef void (*Entry)(const MslDispatch&);

struct Variable {
  const void* id;
  const char* name;
  uint32_t offset, end;
};

uint32_t aligned(uint32_t size) { return (size + 63) & ~63u; }

uint32_t volume(const Position& size) { return size.x * size.y * size.z; }

Position position_of(uint64_t index, const Position& size) {
  return {uint32_t(index % size.x), uint32_t(index / size.x % size.y),
          uint32_t(index / (uint64_t(size.x) * size.y))};
}

// All that one OS thread needs to run threadgroups. Workers are kept for the next dispatch.
struct Worker : Group {
  Thread threads[MAX_THREADS];
  SimdGroup simdgroups[MAX_SIMDGROUPS];
  char* stacks;
  void* scheduler;
  Worker* next_free;

  Entry entry;
  const char* error;
  char message[128];
  uint64_t diverged;
  // The allotments of the host and the kernel's own variables, in the order of their addresses.
  Variable variables[MAX_VARIABLES];
  uint32_t variable_count, arena_end, threadgroup_bytes;

  Worker();
  void start(const MslFunction& function, const MslDispatch& with);
  void place_dynamic_memory();
  void add_variable(const void* id, const char* name, uint32_t bytes);
  const char* overwritten();
  void run_threadgroup(uint64_t id);
  void run_serial();
  void run_fibers();
  void run_simdgroup(SimdGroup& simdgroup);
  uint32_t lanes_with_matrices(const SimdGroup& simdgroup);
  void resolve_operation(SimdGroup& simdgroup);
  bool open_barrier(uint32_t simdgroup_count);
  void prepare(Thread& thread, uint32_t index, void (*main)());
  void switch_to(Thread& thread);
};

Worker& worker() { return *static_cast<Worker*>(current->group); }

// Goes on with another lane of the simdgroup, or with the scheduler if there is none.
void leave(void** save) {
  SimdGroup& simdgroup = *current->simdgroup;
  if (simdgroup.ready) {
    Thread* next = current - current->lane + __builtin_ctz(simdgroup.ready);
    current = next;
    msl_switch(save, next->stack_pointer);
  } else {
    msl_switch(save, worker().scheduler);
  }
}

void wait_in(uint32_t SimdGroup::* lanes, const void* site) {
  if (!current->group->fibers) fault("a thread waits in a kernel that runs without fibers");
  SimdGroup& simdgroup = *current->simdgroup;
  uint32_t bit = 1u << current->lane;
  simdgroup.sites[current->lane] = site;
  simdgroup.ready &= ~bit;
  simdgroup.*lanes |= bit;
  leave(&current->stack_pointer);
}

void fiber_main() {
  worker().entry(*current->group->dispatch);
  current->simdgroup->ready &= ~(1u << current->lane);
  void* unused;
  leave(&unused);
  __builtin_trap();
}

// A kernel whose threads never wait runs them all on one fiber; `current` is the same object for
// all.
void serial_main() {
  Thread& thread = *current;
  uint32_t count = volume(thread.group->size);
  for (uint32_t index = 0; index < count; index++) {
    thread.index = index;
    thread.lane = index % SIMD_WIDTH;
    thread.simdgroup_index = index / SIMD_WIDTH;
    thread.position = position_of(index, thread.group->size);
    worker().entry(*thread.group->dispatch);
  }
  void* unused;
  msl_switch(&unused, worker().scheduler);
  __builtin_trap();
}

void resolve_nothing(Slot*, uint32_t) {}

Worker::Worker() {
  arena = new (std::align_val_t(64)) unsigned char[ARENA_BYTES];
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  size_t bytes = STACK_BYTES * MAX_THREADS;
  stacks = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0));
  if (stacks == MAP_FAILED) return;  // which start() reports
  // An overflow of a stack shall not write into the next one.
  for (uint32_t i = 0; i < MAX_THREADS; i++)
    mprotect(stacks + i * STACK_BYTES, PAGE_BYTES, PROT_NONE);
}

void Worker::start(const MslFunction& function, const MslDispatch& with) {
  dispatch = &with;
  entry = reinterpret_cast<Entry>(function.entry);
  fibers = function.fibers;
  error = stacks == MAP_FAILED ? "no memory for the stacks" : nullptr;
  diverged = 0;
  variable_count = arena_end = threadgroup_bytes = 0;
  place_dynamic_memory();
}

// The host lays its allotments out one after the other; here canaries come between.
void Worker::place_dynamic_memory() {
  memcpy(threadgroup_offsets, dispatch->threadgroup_offsets, sizeof(threadgroup_offsets));
  threadgroup_bytes = dispatch->threadgroup_bytes;
  if (threadgroup_bytes > MAX_THREADGROUP_BYTES) {
    error = "more than 32 KB of threadgroup memory";
    return;
  }
  uint32_t start = 0;
  while (start < threadgroup_bytes) {
    uint32_t end = threadgroup_bytes;
    for (uint32_t offset : dispatch->threadgroup_offsets)
      if (offset > start && offset < end) end = offset;
    for (uint32_t i = 0; i < BUFFERS; i++)
      if (dispatch->threadgroup_offsets[i] == start) threadgroup_offsets[i] = arena_end;
    add_variable(nullptr, "of the host", end - start);
    start = end;
  }
}

void Worker::add_variable(const void* id, const char* name, uint32_t bytes) {
  uint32_t end = arena_end + bytes;
  variables[variable_count++] = {id, name, arena_end, end};
  arena_end = aligned(end) + CANARY_BYTES;
  memset(arena + variables[variable_count - 1].offset, POISON, bytes);
  memset(arena + end, CANARY, arena_end - end);
}

// The name of an object in threadgroup memory behind which something was written.
const char* Worker::overwritten() {
  for (uint32_t i = 0; i < variable_count; i++) {
    uint32_t next = i + 1 < variable_count ? variables[i + 1].offset : arena_end;
    for (uint32_t at = variables[i].end; at < next; at++)
      if (arena[at] != CANARY) return variables[i].name;
  }
  return nullptr;
}

void Worker::prepare(Thread& thread, uint32_t index, void (*main)()) {
  SimdGroup& simdgroup = simdgroups[index / SIMD_WIDTH];
  // Stacks at equal distances would all use the same few lines of the cache.
  uint32_t colour = index * 7 % 32 * 128;
  char* top = stacks + STACK_BYTES * (index + 1) - 256 - colour;
  thread = {position_of(index, size),
            index,
            index % SIMD_WIDTH,
            index / SIMD_WIDTH,
            0,
            0,
            &simdgroup,
            this,
            new_stack(top, main)};
  simdgroup.ready |= 1u << thread.lane;
}

void Worker::switch_to(Thread& thread) {
  current = &thread;
  msl_switch(&scheduler, thread.stack_pointer);
}

void Worker::run_threadgroup(uint64_t id) {
  auto edge = [](uint32_t position, uint32_t threads, uint32_t grid) {
    uint64_t start = uint64_t(position) * threads;
    return start >= grid ? 0 : grid - start < threads ? uint32_t(grid - start) : threads;
  };
  Position groups = {dispatch->threadgroups_per_grid[0], dispatch->threadgroups_per_grid[1],
                     dispatch->threadgroups_per_grid[2]};
  position = position_of(id, groups);
  const uint32_t* threads = dispatch->threads_per_threadgroup;
  const uint32_t* grid = dispatch->threads_per_grid;
  size = {edge(position.x, threads[0], grid[0]), edge(position.y, threads[1], grid[1]),
          edge(position.z, threads[2], grid[2])};
  uint64_t declared = uint64_t(threads[0]) * threads[1] * threads[2];
  if (declared > MAX_THREADS) {
    error = "more than 1024 threads per threadgroup";
    return;
  }
  for (uint32_t i = 0; i < variable_count; i++)
    memset(arena + variables[i].offset, POISON, variables[i].end - variables[i].offset);
  if (volume(size) == 0) return;
  if (fibers) {
    run_fibers();
  } else {
    run_serial();
  }
  if (error) return;
  const char* name = overwritten();
  if (!name) return;
  snprintf(message, sizeof(message), "a write past the end of threadgroup memory `%s`", name);
  error = message;
}

void Worker::run_serial() {
  prepare(threads[0], 0, serial_main);
  switch_to(threads[0]);
}

void Worker::run_fibers() {
  uint32_t count = volume(size);
  uint32_t simdgroup_count = (count + SIMD_WIDTH - 1) / SIMD_WIDTH;
  for (uint32_t i = 0; i < simdgroup_count; i++) {
    SimdGroup& simdgroup = simdgroups[i];
    simdgroup.ready = simdgroup.in_operation = simdgroup.in_matrix = simdgroup.in_barrier = 0;
    simdgroup.matrices_done = 0;
  }
  for (uint32_t i = 0; i < count; i++) prepare(threads[i], i, fiber_main);
  do {
    for (uint32_t i = 0; i < simdgroup_count && !error; i++) run_simdgroup(simdgroups[i]);
  } while (!error && open_barrier(simdgroup_count));
}

// Until all lanes have returned or wait for the rest of the threadgroup.
void Worker::run_simdgroup(SimdGroup& simdgroup) {
  Thread* first = &threads[(&simdgroup - simdgroups) * SIMD_WIDTH];
  while (!error) {
    if (simdgroup.ready) {
      switch_to(first[__builtin_ctz(simdgroup.ready)]);
    } else if (uint32_t done = lanes_with_matrices(simdgroup)) {
      simdgroup.ready = done;
      simdgroup.in_matrix &= ~done;
    } else if (simdgroup.in_operation) {
      resolve_operation(simdgroup);
    } else if (simdgroup.operations[simdgroup.matrices_done % MATRIX_OPERATIONS].arrived) {
      error = "simdgroup_matrix operation with inactive lanes";
    } else {
      return;
    }
  }
}

// The lanes that wait for simdgroup matrices which are computed by now.
uint32_t Worker::lanes_with_matrices(const SimdGroup& simdgroup) {
  uint32_t lanes = 0;
  const Thread* first = &threads[(&simdgroup - simdgroups) * SIMD_WIDTH];
  for (uint32_t left = simdgroup.in_matrix; left; left &= left - 1) {
    uint32_t lane = __builtin_ctz(left);
    if (first[lane].awaits_matrices <= simdgroup.matrices_done) lanes |= 1u << lane;
  }
  return lanes;
}

// Resolves the operation with the lowest address: a lane in it may still come to a later one, where
// others wait.
void Worker::resolve_operation(SimdGroup& simdgroup) {
  const void* site = nullptr;
  for (uint32_t lane = 0; lane < SIMD_WIDTH; lane++)
    if (simdgroup.in_operation >> lane & 1 && (!site || simdgroup.sites[lane] < site))
      site = simdgroup.sites[lane];
  uint32_t active = 0;
  for (uint32_t lane = 0; lane < SIMD_WIDTH; lane++)
    active |= uint32_t(simdgroup.sites[lane] == site) << lane;
  active &= simdgroup.in_operation;
  if ((simdgroup.in_operation | simdgroup.in_matrix | simdgroup.in_barrier) != active) diverged++;
  simdgroup.resolve[__builtin_ctz(active)](simdgroup.slots, active);
  simdgroup.in_operation &= ~active;
  simdgroup.ready = active;
}

// Lets the threads pass that wait at a barrier. Others may have returned: hardware tolerates that.
bool Worker::open_barrier(uint32_t simdgroup_count) {
  const void* site = nullptr;
  bool same = true;
  for (uint32_t i = 0; i < simdgroup_count; i++) {
    SimdGroup& simdgroup = simdgroups[i];
    for (uint32_t lane = 0; lane < SIMD_WIDTH; lane++) {
      if (!(simdgroup.in_barrier >> lane & 1)) continue;
      if (!site) site = simdgroup.sites[lane];
      same = same && simdgroup.sites[lane] == site;
    }
    simdgroup.ready = simdgroup.in_barrier;
    simdgroup.in_barrier = 0;
  }
  if (!same) diverged++;
  return site != nullptr;
}

// The workers that no dispatch uses at the moment.
std::mutex free_workers_lock;
Worker* free_workers;

Worker* take_worker() {
  {
    std::lock_guard<std::mutex> guard(free_workers_lock);
    if (Worker* found = free_workers) {
      free_workers = found->next_free;
      return found;
    }
  }
  return new Worker();
}

void give_worker(Worker* worker) {
  std::lock_guard<std::mutex> guard(free_workers_lock);
  worker->next_free = free_workers;
  free_workers = worker;
}

}  // namespace

void fault(const char* message) {
  Worker& running = worker();
  if (!running.error) running.error = message;
  void* unused;
  msl_switch(&unused, running.scheduler);
  __builtin_trap();
}

void threadgroup_wait() { wait_in(&SimdGroup::in_barrier, __builtin_return_address(0)); }

void simdgroup_wait() { operation_wait(__builtin_return_address(0), resolve_nothing); }

void operation_wait(const void* site, Resolve resolve) {
  current->simdgroup->resolve[current->lane] = resolve;
  wait_in(&SimdGroup::in_operation, site);
}

void matrix_wait(uint32_t operations) {
  current->awaits_matrices = operations;
  wait_in(&SimdGroup::in_matrix, nullptr);
}

void* threadgroup_memory(const void* id, size_t bytes, const char* name) {
  Worker& running = worker();
  for (uint32_t i = 0; i < running.variable_count; i++)
    if (running.variables[i].id == id) return running.arena + running.variables[i].offset;
  running.threadgroup_bytes += aligned(bytes);
  if (running.threadgroup_bytes > MAX_THREADGROUP_BYTES)
    fault("more than 32 KB of threadgroup memory");
  if (running.variable_count == MAX_VARIABLES) fault("too many threadgroup variables");
  running.add_variable(id, name, bytes);
  return running.arena + running.variables[running.variable_count - 1].offset;
}

}  // namespace msl

// What the compiler calls instead of dividing by zero.
extern "C" void __ubsan_handle_divrem_overflow_minimal_abort() { msl::fault("integer division by zero"); }

int32_t msl_run(const MslFunction* function, const MslDispatch* dispatch, uint64_t first,
                uint64_t last, uint64_t* diverged, char* error, uint64_t error_size) {
  msl::Worker* worker = msl::take_worker();
  worker->start(*function, *dispatch);
  for (uint64_t id = first; id < last && !worker->error; id++) worker->run_threadgroup(id);
  *diverged += worker->diverged;
  bool failed = worker->error;
  if (failed) {
    const msl::Position& at = worker->position;
    snprintf(error, error_size, "kernel `%s`, threadgroup (%u, %u, %u): %s", function->name, at.x,
             at.y, at.z, worker->error);
    // Operations that only some lanes have asked for shall not be continued by the next dispatch.
    for (msl::SimdGroup& simdgroup : worker->simdgroups)
      for (msl::MatrixOperation& operation : simdgroup.operations) operation.arrived = 0;
  }
  msl::give_worker(worker);
  return failed;
}
