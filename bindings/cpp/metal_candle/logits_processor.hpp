/**
 * @file
 * Functions that change logits, which C keeps beyond a call.
 */
#ifndef METAL_CANDLE_LOGITS_PROCESSOR_HPP
#define METAL_CANDLE_LOGITS_PROCESSOR_HPP

#include "metal_candle/callback.hpp"
#include "metal_candle/span.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

MCANDLE_NAMESPACE_BEGIN

namespace detail {

/** A function that changes logits, with the place where its exception waits for the call to end. C
 * frees it. */
template <class Function> class logits_processor {
public:
    /** An exception also ends the whole run of a batch, where there is one. */
    logits_processor(Function function, std::shared_ptr<caught> thrown, const mcandle_batch *batch)
        : function_(std::move(function)), thrown_(std::move(thrown)), batch_(batch) {}

    static bool call(const std::uint32_t *tokens, std::size_t token_count, float *logits,
                     std::size_t logit_count, void *self) noexcept {
        auto &processor = *static_cast<logits_processor *>(self);
        const bool goes_on = processor.thrown_->run([&]() -> decltype(auto) {
            return processor.function_(span<const std::uint32_t>(tokens, token_count),
                                       span<float>(logits, logit_count));
        });
        if (!goes_on && processor.thrown_->holds()) {
            mcandle_batch_cancel(processor.batch_);
        }
        return goes_on;
    }

    static void free(void *self) noexcept { delete static_cast<logits_processor *>(self); }

private:
    Function function_;
    std::shared_ptr<caught> thrown_;
    const mcandle_batch *batch_;
};

} // namespace detail

MCANDLE_NAMESPACE_END

#endif
