/**
 * @file
 * What is continued: a text, token ids, a conversation, or code with a middle missing.
 */
#ifndef METAL_CANDLE_REQUEST_HPP
#define METAL_CANDLE_REQUEST_HPP

#include "metal_candle/callback.hpp"
#include "metal_candle/fim.hpp"
#include "metal_candle/generate_options.hpp"
#include "metal_candle/generation.hpp"

#include <memory>
#include <optional>
#include <string>
#include <utility>

MCANDLE_NAMESPACE_BEGIN

namespace detail {

/* Each of these makes one call of C, or starts it on a thread of the library. A stream keeps copies
 * of the texts, and a call points to them; their types say which. */

template <class Text> struct text_request {
    Text prompt;

    std::optional<error> refusal() const { return std::nullopt; }

    mcandle_status operator()(mcandle_generator *generator, const mcandle_generate_options *options,
                              mcandle_chunk_callback callback, void *user_data,
                              mcandle_generation **generation, mcandle_error **error) const {
        return mcandle_generator_generate(generator, prompt.data(), prompt.size(), options,
                                          callback, user_data, generation, error);
    }

    mcandle_status start(mcandle_generator *generator, const mcandle_generate_options *options,
                         mcandle_chunk_callback callback, mcandle_generation_completion completion,
                         void *user_data, mcandle_error **error) const {
        return mcandle_generator_generate_async(generator, prompt.data(), prompt.size(), options,
                                                callback, completion, user_data, error);
    }
};

template <class Ids> struct ids_request {
    Ids ids;

    std::optional<error> refusal() const { return std::nullopt; }

    mcandle_status operator()(mcandle_generator *generator, const mcandle_generate_options *options,
                              mcandle_chunk_callback callback, void *user_data,
                              mcandle_generation **generation, mcandle_error **error) const {
        return mcandle_generator_generate_from_ids(generator, ids.data(), ids.size(), options,
                                                   callback, user_data, generation, error);
    }

    mcandle_status start(mcandle_generator *generator, const mcandle_generate_options *options,
                         mcandle_chunk_callback callback, mcandle_generation_completion completion,
                         void *user_data, mcandle_error **error) const {
        return mcandle_generator_generate_from_ids_async(generator, ids.data(), ids.size(), options,
                                                         callback, completion, user_data, error);
    }
};

template <class Text> struct chat_request {
    Text messages;
    Text chat_options;

    std::optional<error> refusal() const { return std::nullopt; }

    mcandle_status operator()(mcandle_generator *generator, const mcandle_generate_options *options,
                              mcandle_chunk_callback callback, void *user_data,
                              mcandle_generation **generation, mcandle_error **error) const {
        return mcandle_generator_chat(generator, messages.data(), messages.size(),
                                      data_or_null(chat_options), chat_options.size(), options,
                                      callback, user_data, generation, error);
    }

    mcandle_status start(mcandle_generator *generator, const mcandle_generate_options *options,
                         mcandle_chunk_callback callback, mcandle_generation_completion completion,
                         void *user_data, mcandle_error **error) const {
        return mcandle_generator_chat_async(generator, messages.data(), messages.size(),
                                            data_or_null(chat_options), chat_options.size(),
                                            options, callback, completion, user_data, error);
    }
};

template <class Text, class Context> struct fim_request {
    Text prefix;
    Text suffix;
    Context context;

    std::optional<error> refusal() const { return context.refusal(); }

    mcandle_status operator()(mcandle_generator *generator, const mcandle_generate_options *options,
                              mcandle_chunk_callback callback, void *user_data,
                              mcandle_generation **generation, mcandle_error **error) const {
        return mcandle_generator_complete(generator, prefix.data(), prefix.size(), suffix.data(),
                                          suffix.size(), context.get(), options, callback,
                                          user_data, generation, error);
    }

    mcandle_status start(mcandle_generator *generator, const mcandle_generate_options *options,
                         mcandle_chunk_callback callback, mcandle_generation_completion completion,
                         void *user_data, mcandle_error **error) const {
        return mcandle_generator_complete_async(generator, prefix.data(), prefix.size(),
                                                suffix.data(), suffix.size(), context.get(),
                                                options, callback, completion, user_data, error);
    }
};

/** Generates on this thread. What the callbacks threw is thrown; what C says is given. */
template <class Request, class OnToken>
expected<generation> generate(mcandle_generator *generator, const Request &request,
                              const generate_options &options, OnToken &on_token,
                              const stop_signal &stop,
                              const std::shared_ptr<caught> &thrown_by_processor) {
    if (auto refusal = options.refusal()) {
        return *std::move(refusal);
    }
    if (auto refusal = request.refusal()) {
        return *std::move(refusal);
    }
    listener<chunk, OnToken> told(on_token, stop);
    [[maybe_unused]] const auto cancel =
        stop.on_request([generator] { mcandle_generator_cancel(generator); });
    auto outcome = attempt_call<generation>([&](auto *generation, auto *error) {
        return request(generator, options.get(), &tell<chunk, OnToken>, &told, generation, error);
    });
    told.rethrow();
    if (!outcome && outcome.error().status() == status::cancelled) {
        thrown_by_processor->rethrow();
    }
    return outcome;
}

} // namespace detail

MCANDLE_NAMESPACE_END

#endif
