/**
 * @file
 * What the library tells.
 */
#ifndef METAL_CANDLE_LOG_HPP
#define METAL_CANDLE_LOG_HPP

#include "metal_candle/callback.hpp"

#include <cstdint>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>

MCANDLE_NAMESPACE_BEGIN

/** How much a message matters. A lower number matters more. */
enum class log_level : std::int32_t {
    error = MCANDLE_LOG_ERROR, /**< A defect of the library. */
    warn = MCANDLE_LOG_WARN,   /**< Something that is probably not what is meant. */
    info = MCANDLE_LOG_INFO,   /**< What happens seldom: a model was loaded, a training began. */
    debug = MCANDLE_LOG_DEBUG, /**< What helps to find out why something is as it is. */
    trace = MCANDLE_LOG_TRACE, /**< What happens all the time. */
};

/**
 * Lets a function receive what the library has to tell, in the whole process, in the place of any
 * before.
 *
 * @param level The most that is told.
 * @param on_message Takes a log_level, the part of the library, and the message, both as
 * std::string_view. Several threads may call it at the same time. An exception that it throws is
 * dropped.
 */
template <class OnMessage> result<void> set_log_callback(log_level level, OnMessage &&on_message) {
    using function = std::decay_t<OnMessage>;
    auto owned = std::make_unique<function>(std::forward<OnMessage>(on_message));
    const mcandle_log_callback callback = [](mcandle_log_level one, const char *target,
                                             const char *message, void *self) noexcept {
        detail::caught dropped;
        dropped.run([&] {
            (*static_cast<function *>(self))(static_cast<log_level>(one), std::string_view(target),
                                             std::string_view(message));
        });
    };
    const mcandle_free_callback release = [](void *self) noexcept {
        delete static_cast<function *>(self);
    };
    return detail::call<void>([&](auto *error) {
        return mcandle_set_log_callback(callback, detail::number(level), owned.release(), release,
                                        error);
    });
}

/** Lets no function receive what the library has to tell. */
inline result<void> clear_log_callback() {
    return detail::call<void>([](auto *error) {
        return mcandle_set_log_callback(nullptr, MCANDLE_LOG_ERROR, nullptr, nullptr, error);
    });
}

MCANDLE_NAMESPACE_END

#endif
