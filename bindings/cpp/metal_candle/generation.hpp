/**
 * @file
 * What is generated.
 */
#ifndef METAL_CANDLE_GENERATION_HPP
#define METAL_CANDLE_GENERATION_HPP

#include "metal_candle/handle.hpp"
#include "metal_candle/span.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

MCANDLE_NAMESPACE_BEGIN

/** Why a generation ended. */
enum class finish_reason : std::int32_t {
    stop = MCANDLE_FINISH_STOP,                 /**< The model ended the text. */
    length = MCANDLE_FINISH_LENGTH,             /**< The most tokens were generated. */
    cancelled = MCANDLE_FINISH_CANCELLED,       /**< It was stopped. */
    stop_string = MCANDLE_FINISH_STOP_STRING,   /**< A stop string was generated. */
    context_full = MCANDLE_FINISH_CONTEXT_FULL, /**< The context is full. */
    time_limit = MCANDLE_FINISH_TIME_LIMIT,     /**< The time is over. */
};

/** One generated token, as a callback is told of it; it lives only during the callback. token keeps
 * what it says. */
class chunk {
public:
    /** The type of C. */
    using c_type = mcandle_chunk;

    /** Wraps what C tells. */
    explicit chunk(const mcandle_chunk *told) noexcept : chunk_(told) {}

    /** Gives the number of the text that the token belongs to, in a batch. */
    std::size_t sequence() const noexcept { return mcandle_chunk_sequence(chunk_); }

    /** Gives the place of the token among the generated ones, from 0. */
    std::size_t index() const noexcept { return mcandle_chunk_index(chunk_); }

    /** Gives the id of the token. */
    std::uint32_t token() const noexcept { return mcandle_chunk_token(chunk_); }

    /** Gives the text that became complete with the token, which may be empty: whole UTF-8
     * characters only. */
    std::string_view text() const noexcept {
        return detail::text_of(
            [this](std::size_t *length) { return mcandle_chunk_text(chunk_, length); });
    }

    /** Gives the natural logarithm of the probability of the token under the model. */
    float logprob() const noexcept { return mcandle_chunk_logprob(chunk_); }

    /** Gives the most likely tokens in its place, the most likely first: as many as
     * generate_options::top_logprobs() asked for. */
    span<const std::uint32_t> top_tokens() const noexcept {
        std::size_t count = 0;
        const std::uint32_t *tokens = mcandle_chunk_top_tokens(chunk_, &count);
        return {tokens, count};
    }

    /** Gives the logarithms of the probabilities of top_tokens(), in the same order. */
    span<const float> top_logprobs() const noexcept {
        std::size_t count = 0;
        const float *logprobs = mcandle_chunk_top_logprobs(chunk_, &count);
        return {logprobs, count};
    }

    /** Gives the chunk of C. */
    const mcandle_chunk *get() const noexcept { return chunk_; }

private:
    const mcandle_chunk *chunk_;
};

/** One generated token, as a stream gives it. */
struct token {
    token() = default;

    /** Copies what a chunk says. */
    explicit token(const chunk &chunk)
        : id(chunk.token()),
          index(chunk.index()),
          text(chunk.text()),
          logprob(chunk.logprob()),
          top_tokens(chunk.top_tokens().begin(), chunk.top_tokens().end()),
          top_logprobs(chunk.top_logprobs().begin(), chunk.top_logprobs().end()) {}

    std::uint32_t id = 0;                  /**< Its id. */
    std::size_t index = 0;                 /**< Its place among the generated ones. */
    std::string text;                      /**< The text that became complete with it. */
    float logprob = 0;                     /**< The logarithm of its probability. */
    std::vector<std::uint32_t> top_tokens; /**< The most likely tokens in its place. */
    std::vector<float> top_logprobs;       /**< The logarithms of their probabilities. */
};

/** A finished generation, which a Holder owns or points to. */
template <class Holder> class basic_generation : public Holder {
public:
    using Holder::get;
    using Holder::Holder;

    /** Gives the generated text, without special tokens and stop string. */
    std::string_view text() const noexcept {
        return detail::text_of(
            [this](std::size_t *length) { return mcandle_generation_text(get(), length); });
    }

    /** Gives the generated tokens, without the one that ended the text. */
    span<const std::uint32_t> tokens() const noexcept {
        std::size_t count = 0;
        const std::uint32_t *tokens = mcandle_generation_tokens(get(), &count);
        return {tokens, count};
    }

    /** Gives the logarithm of the probability of each generated token. */
    span<const float> logprobs() const noexcept {
        std::size_t count = 0;
        const float *logprobs = mcandle_generation_logprobs(get(), &count);
        return {logprobs, count};
    }

    /** Gives the number of tokens of the prompt. */
    std::size_t prompt_tokens() const noexcept { return mcandle_generation_prompt_tokens(get()); }

    /** Gives how many tokens of the prompt had been read before. */
    std::size_t cached_tokens() const noexcept { return mcandle_generation_cached_tokens(get()); }

    /** Gives the seconds from the call to the first token. */
    double time_to_first_token() const noexcept {
        return mcandle_generation_time_to_first_token(get());
    }

    /** Gives the speed after the first token. */
    double tokens_per_second() const noexcept {
        return mcandle_generation_tokens_per_second(get());
    }

    /** Gives the reason why the generation ended. */
    mcandle::finish_reason finish_reason() const noexcept {
        return static_cast<mcandle::finish_reason>(mcandle_generation_finish_reason(get()));
    }

    /** Gives the stop string that ended the generation; empty where none did. */
    std::string_view stop_string() const noexcept {
        return detail::text_of(
            [this](std::size_t *length) { return mcandle_generation_stop_string(get(), length); });
    }

    /** Gives the number of tokens that were drafted. */
    std::size_t drafted_tokens() const noexcept { return mcandle_generation_drafted_tokens(get()); }

    /** Gives how many of the drafted tokens were right. */
    std::size_t accepted_tokens() const noexcept {
        return mcandle_generation_accepted_tokens(get());
    }
};

/** A finished generation. */
using generation = basic_generation<handle<mcandle_generation, mcandle_generation_free>>;

/** A finished generation that lives as long as the results that it is among. */
using generation_view = basic_generation<detail::pointer<mcandle_generation>>;

MCANDLE_NAMESPACE_END

#endif
