// The switch from one stack to another, the only part that depends on the processor.
#pragma once
#include <string.h>

// Saves the registers that a function must preserve, and restores those of another stack.
extern "C" void msl_switch(void** save, void* restore);

#if defined(__x86_64__)
constexpr int SAVED_REGISTERS = 6;
asm(R"(
  .text
  .hidden msl_switch
  .global msl_switch
  .type msl_switch, @function
msl_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

// A stack from which msl_switch returns into `entry`.
static void* new_stack(char* top, void (*entry)()) {
  void** stack = reinterpret_cast<void**>(top);
  *--stack = nullptr;  // keeps the alignment which the entry of a function expects
  *--stack = reinterpret_cast<void*>(entry);
  for (int i = 0; i < SAVED_REGISTERS; i++) *--stack = nullptr;
  return stack;
}
#elif defined(__aarch64__)
// Written by the calling convention's rules, but not tested: there was no such machine at hand.
constexpr int SAVED_REGISTERS = 20;
asm(R"(
  .text
  .hidden msl_switch
  .global msl_switch
  .type msl_switch, %function
msl_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");

static void* new_stack(char* top, void (*entry)()) {
  void** stack = reinterpret_cast<void**>(top) - SAVED_REGISTERS;
  memset(stack, 0, SAVED_REGISTERS * sizeof(void*));
  stack[11] = reinterpret_cast<void*>(entry);  // x30, the return address
  return stack;
}
#else
#error "the switch between fibers is written for x86-64 and aarch64"
#endif
