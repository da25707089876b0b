/**
 * @file
 * What the wrapper is compiled for: with exceptions or without, and with training or without.
 */
#ifndef METAL_CANDLE_CONFIG_HPP
#define METAL_CANDLE_CONFIG_HPP

#include "metal_candle.h"

#if defined(__has_include)
#if __has_include(<version>)
#include <version>
#endif
#endif

/**
 * @def MCANDLE_NO_EXCEPTIONS
 *
 * Defined where the compiler has exceptions turned off. A program that has them on may define it
 * too: then operations give an mcandle::expected instead of throwing.
 */
#if !defined(MCANDLE_NO_EXCEPTIONS) && !defined(__cpp_exceptions) && !defined(_CPPUNWIND)
#define MCANDLE_NO_EXCEPTIONS
#endif

/* Operations of the same name give other types without exceptions, so their symbols differ too:
 * files of both kinds can be linked together. */
#if defined(MCANDLE_NO_EXCEPTIONS)
#define MCANDLE_NAMESPACE_BEGIN                                                                    \
    namespace mcandle {                                                                            \
    inline namespace no_exceptions {
#define MCANDLE_NAMESPACE_END                                                                      \
    }                                                                                              \
    }
#else
#define MCANDLE_NAMESPACE_BEGIN namespace mcandle {
#define MCANDLE_NAMESPACE_END }
#endif

#endif
