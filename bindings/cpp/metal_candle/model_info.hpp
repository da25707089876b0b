/**
 * @file
 * What a stored model is.
 */
#ifndef METAL_CANDLE_MODEL_INFO_HPP
#define METAL_CANDLE_MODEL_INFO_HPP

#include "metal_candle/device.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

MCANDLE_NAMESPACE_BEGIN

/** What a stored model is, found by its headers without loading its weights. */
class model_info : public handle<mcandle_model_info, mcandle_model_info_free> {
public:
    using handle::handle;

    /** Finds out what a stored model is, which model::load() would load. */
    static result<model_info> inspect(const std::filesystem::path &path) {
        return detail::call<model_info>([&](auto *info, auto *error) {
            return mcandle_model_inspect(detail::terminated(path).c_str(), info, error);
        });
    }

    /** Gives the format in which a model is stored, such as "safetensors" or "gguf". */
    std::string_view format() const noexcept { return mcandle_model_info_format(get()); }

    /** Gives the family of a model, such as "qwen2". */
    std::string_view architecture() const noexcept {
        return mcandle_model_info_architecture(get());
    }

    /** Gives the encoding of most of the weights that stay quantised, such as "Q4_K"; empty where
     * none is. */
    std::string_view quantization() const noexcept {
        const char *name = mcandle_model_info_quantization(get());
        return name == nullptr ? std::string_view() : std::string_view(name);
    }

    /** Gives the number of parameters. */
    std::uint64_t parameter_count() const noexcept {
        return mcandle_model_info_parameter_count(get());
    }

    /** Gives the most tokens that prompt and generated text can have together. */
    std::size_t context_length() const noexcept { return mcandle_model_info_context_length(get()); }

    /** Gives the bytes that the weights take in a number format, which is not dtype::automatic. */
    result<std::uint64_t> weights_size(dtype dtype) const {
        return detail::call<std::uint64_t>([&](auto *bytes, auto *error) {
            return mcandle_model_info_weights_size(get(), detail::number(dtype), bytes, error);
        });
    }

    /** Gives the bytes that keys and values of so many tokens take in a number format, which is not
     * dtype::automatic. */
    result<std::uint64_t> cache_size(std::size_t tokens, dtype dtype,
                                     cache_type cache_type = mcandle::cache_type::full) const {
        return detail::call<std::uint64_t>([&](auto *bytes, auto *error) {
            return mcandle_model_info_cache_size(get(), tokens, detail::number(dtype),
                                                 detail::number(cache_type), bytes, error);
        });
    }

    /** Gives all that was found out as a JSON object. */
    result<std::string> json() const {
        return detail::call<std::string>(
            [&](auto *json, auto *error) { return mcandle_model_info_json(get(), json, error); });
    }
};

MCANDLE_NAMESPACE_END

#endif
