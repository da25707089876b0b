/**
 * @file
 * metal-candle for C++17 and later: run and fine-tune language models.
 *
 *     auto model = mcandle::model::load("assets/tiny-coder");
 *     auto generator = mcandle::generator::create(model);
 *     for (const mcandle::token &token : generator.stream("fn main() {"))
 *         std::cout << token.text << std::flush;
 *
 * Everything is in the namespace mcandle, and in these headers alone: they call the functions of
 * metal_candle.h, which tells more about each, and have to be linked with the same library.
 *
 * - What fails throws an mcandle::error, which has a status and a message. mcandle::attempt() gives
 * an mcandle::expected instead; so does every operation where the compiler has no exceptions.
 * - Objects own what they wrap. They move and do not copy; options copy.
 * - Text is UTF-8. Paths are std::filesystem::path.
 * - Callbacks are any functions. An exception that one throws ends the operation, and comes out of
 * the call that began it.
 * - Operations that take long take an mcandle::stop_signal, which in C++20 a std::stop_token is.
 * - A const member may run at the same time as others on the same object; another must be alone,
 *   except that generators, batches and trainers fail with status::busy instead of breaking.
 */
#ifndef METAL_CANDLE_HPP
#define METAL_CANDLE_HPP

#include "metal_candle/adapter.hpp"
#include "metal_candle/batch.hpp"
#include "metal_candle/chat.hpp"
#include "metal_candle/device.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/fim.hpp"
#include "metal_candle/generate_options.hpp"
#include "metal_candle/generation.hpp"
#include "metal_candle/generator.hpp"
#include "metal_candle/log.hpp"
#include "metal_candle/model.hpp"
#include "metal_candle/model_info.hpp"
#include "metal_candle/model_options.hpp"
#include "metal_candle/span.hpp"
#include "metal_candle/stream.hpp"
#include "metal_candle/task.hpp"
#include "metal_candle/tokenizer.hpp"
#include "metal_candle/tool_calls.hpp"

#if defined(MCANDLE_TRAINING)
#include "metal_candle/dataset.hpp"
#include "metal_candle/trainer.hpp"
#endif

#endif
