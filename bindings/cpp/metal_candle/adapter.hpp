/**
 * @file
 * LoRA adapters.
 */
#ifndef METAL_CANDLE_ADAPTER_HPP
#define METAL_CANDLE_ADAPTER_HPP

#include "metal_candle/handle.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

MCANDLE_NAMESPACE_BEGIN

class model;

/** The format of an adapter's directory. */
enum class adapter_format : std::int32_t {
    peft = MCANDLE_ADAPTER_FORMAT_PEFT, /**< That of Hugging Face's PEFT. */
    mlx = MCANDLE_ADAPTER_FORMAT_MLX,   /**< That of mlx-lm. */
};

/** A LoRA adapter: low-rank changes to the weights of one model. It is never written, so any number
 * of generators, on any threads, can use one at the same time. */
class adapter : public handle<mcandle_adapter, mcandle_adapter_free> {
public:
    using handle::handle;

    /** Loads an adapter that PEFT, mlx-lm or this library saved.
     *
     * @param path The directory.
     * @param model The model that the adapter is for; it need not outlive the adapter.
     */
    static result<adapter> load(const std::filesystem::path &path, const model &model);

    /** Saves the adapter to a directory, which is made where it does not exist. */
    result<void> save(const std::filesystem::path &path) const {
        return detail::call<void>([&](auto *error) {
            return mcandle_adapter_save(get(), detail::terminated(path).c_str(), error);
        });
    }

    /** Saves the adapter in a format, in the place of an adapter that is there in any. */
    result<void> save(const std::filesystem::path &path, adapter_format format) const {
        return detail::call<void>([&](auto *error) {
            return mcandle_adapter_save_as(get(), detail::terminated(path).c_str(),
                                           detail::number(format), error);
        });
    }

    /** Gives the number of parameters. */
    std::uint64_t parameter_count() const noexcept {
        return mcandle_adapter_parameter_count(get());
    }

    /** Gives the rank. */
    std::size_t rank() const noexcept { return mcandle_adapter_rank(get()); }
};

/** One of the adapters of a model, as it was when they were listed. */
struct adapter_entry {
    std::string name;              /**< Its name among those of the model. */
    std::size_t rank;              /**< Its rank. */
    std::uint64_t parameter_count; /**< The number of its parameters. */
    bool use_dora;                 /**< Whether it is DoRA. */
    bool is_active;                /**< Whether it acts. */
    double weight;                 /**< How much of it acts where it does. */
};

MCANDLE_NAMESPACE_END

#endif
