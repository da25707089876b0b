// A C target needs a source file. This one holds the header against the compiler that Swift imports it with.
#include "metal_candle.h"
