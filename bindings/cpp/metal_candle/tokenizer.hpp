/**
 * @file
 * Text and token ids.
 */
#ifndef METAL_CANDLE_TOKENIZER_HPP
#define METAL_CANDLE_TOKENIZER_HPP

#include "metal_candle/handle.hpp"
#include "metal_candle/span.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

MCANDLE_NAMESPACE_BEGIN

/** Turns text into token ids and back; model::tokenizer() makes one. Any number of threads can use
 * one at the same time. */
class tokenizer : public handle<mcandle_tokenizer, mcandle_tokenizer_free> {
public:
    using handle::handle;

    /**
     * Turns text into token ids.
     *
     * @param text The text in UTF-8.
     * @param add_special_tokens Whether to add what the model expects at the start.
     */
    result<std::vector<std::uint32_t>> encode(std::string_view text,
                                              bool add_special_tokens = true) const {
        return detail::call<std::vector<std::uint32_t>>([&](auto *tokens, auto *error) {
            return mcandle_tokenizer_encode(get(), text.data(), text.size(), add_special_tokens,
                                            tokens, error);
        });
    }

    /**
     * Turns token ids into text.
     *
     * @param ids The token ids.
     * @param skip_special_tokens Whether to leave tokens such as the end of the text out.
     */
    result<std::string> decode(span<const std::uint32_t> ids,
                               bool skip_special_tokens = true) const {
        return detail::call<std::string>([&](auto *text, auto *error) {
            return mcandle_tokenizer_decode(get(), ids.data(), ids.size(), skip_special_tokens,
                                            text, error);
        });
    }
};

MCANDLE_NAMESPACE_END

#endif
