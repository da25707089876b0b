// Metal's language and standard library, as far as the kernels of candle use them, for x86-64 and
// aarch64 Linux and clang 19.
#pragma once
#include "types.h"
#include "math.h"
#include "fiber.h"
#include "simd.h"
#include "simdgroup_matrix.h"
#include "atomic.h"
#include "bind.h"

using namespace metal;
