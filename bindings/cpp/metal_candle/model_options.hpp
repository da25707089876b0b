/**
 * @file
 * How a model is loaded.
 */
#ifndef METAL_CANDLE_MODEL_OPTIONS_HPP
#define METAL_CANDLE_MODEL_OPTIONS_HPP

#include "metal_candle/device.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>

MCANDLE_NAMESPACE_BEGIN

/** How a model is loaded. What is not set is as the library has it. Setters give the options again,
 * so they chain; what is out of range is reported by the call that loads. */
class model_options {
public:
    /** Sets the device. */
    model_options &device(mcandle::device device) {
        device_ = device;
        return *this;
    }

    /** Sets the number format. */
    model_options &dtype(mcandle::dtype dtype) {
        dtype_ = dtype;
        return *this;
    }

    /**
     * Keeps the weights of the linear maps in fewer bits, as MLX does.
     *
     * @param bits The bits of a weight, 4 or 8; 0 keeps weights as they are stored.
     * @param group_size The weights that share a scale: 32, 64 or 128.
     */
    model_options &quantization(std::size_t bits, std::size_t group_size) {
        quantization_ = {bits, group_size};
        return *this;
    }

    /** Sets the most bytes that the weights may take; a model that takes more is refused with
     * status::out_of_memory. 0 for no limit. */
    model_options &memory_budget(std::uint64_t bytes) {
        memory_budget_ = bytes;
        return *this;
    }

    /** Makes the options of C, without a callback. */
    handle<mcandle_model_options, mcandle_model_options_free> make() const {
        handle<mcandle_model_options, mcandle_model_options_free> made(mcandle_model_options_new());
        if (device_) {
            mcandle_model_options_set_device(made.get(), detail::number(*device_));
        }
        if (dtype_) {
            mcandle_model_options_set_dtype(made.get(), detail::number(*dtype_));
        }
        if (quantization_) {
            mcandle_model_options_set_quantization(made.get(), quantization_->bits,
                                                   quantization_->group_size);
        }
        if (memory_budget_) {
            mcandle_model_options_set_memory_budget(made.get(), *memory_budget_);
        }
        return made;
    }

private:
    struct quantization_setting {
        std::size_t bits;
        std::size_t group_size;
    };

    std::optional<mcandle::device> device_;
    std::optional<mcandle::dtype> dtype_;
    std::optional<quantization_setting> quantization_;
    std::optional<std::uint64_t> memory_budget_;
};

MCANDLE_NAMESPACE_END

#endif
