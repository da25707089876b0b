/**
 * @file
 * How a data set is read.
 */
#ifndef METAL_CANDLE_DATASET_OPTIONS_HPP
#define METAL_CANDLE_DATASET_OPTIONS_HPP

#include "metal_candle/options.hpp"

#include <cstddef>
#include <cstdint>
#include <string_view>

MCANDLE_NAMESPACE_BEGIN

/** Which tokens of a row are not scored. */
enum class loss_mask : std::int32_t {
    none = MCANDLE_LOSS_MASK_NONE,     /**< All are, but the first. */
    prompt = MCANDLE_LOSS_MASK_PROMPT, /**< Those before the completion, middle or last answer. */
    assistant = MCANDLE_LOSS_MASK_ASSISTANT, /**< Those that the assistant does not write. */
};

/** What happens where a row cannot be used. */
enum class bad_row : std::int32_t {
    stop = MCANDLE_BAD_ROW_STOP, /**< The data set fails. */
    skip = MCANDLE_BAD_ROW_SKIP, /**< The row is left out and reported. */
};

namespace detail {

struct dataset_options_traits {
    using c_type = mcandle_dataset_options;
    static c_type *make() noexcept { return mcandle_dataset_options_new(); }
    static void free(c_type *options) noexcept { mcandle_dataset_options_free(options); }
    static mcandle_status from_json(const char *json, std::size_t length, c_type **options,
                                    mcandle_error **error) noexcept {
        return mcandle_dataset_options_from_json(json, length, options, error);
    }
    static mcandle_status to_json(const c_type *options, mcandle_string **json,
                                  mcandle_error **error) noexcept {
        return mcandle_dataset_options_to_json(options, json, error);
    }
};

} // namespace detail

/** How a data set is read. */
class dataset_options : public basic_options<dataset_options, detail::dataset_options_traits> {
public:
    using basic_options::basic_options;

    /** Sets the most tokens of a row; what is longer is cut at the end and counted. */
    dataset_options &max_seq_length(std::size_t max_seq_length) {
        mcandle_dataset_options_set_max_seq_length(get(), max_seq_length);
        return self();
    }

    /** Sets which tokens of a row are scored. */
    dataset_options &mask(loss_mask mask) {
        mcandle_dataset_options_set_mask(get(), detail::number(mask));
        return self();
    }

    /** Sets what happens where a row cannot be used. */
    dataset_options &on_bad_row(bad_row on_bad_row) {
        mcandle_dataset_options_set_on_bad_row(get(), detail::number(on_bad_row));
        return self();
    }

    /** Sets the size up to which a file is kept in memory as tokens. */
    dataset_options &max_bytes_in_memory(std::uint64_t max_bytes_in_memory) {
        mcandle_dataset_options_set_max_bytes_in_memory(get(), max_bytes_in_memory);
        return self();
    }

    /**
     * Sets the key under which rows have one of their parts.
     *
     * @param part "text", "prompt", "completion", "messages", "tools", "prefix", "suffix",
     * "middle", "chosen" or "rejected".
     * @param key The key.
     */
    dataset_options &field(std::string_view part, std::string_view key) {
        return set([&](auto *error) {
            return mcandle_dataset_options_set_field(get(), detail::terminated(part).c_str(),
                                                     detail::terminated(key).c_str(), error);
        });
    }
};

MCANDLE_NAMESPACE_END

#endif
