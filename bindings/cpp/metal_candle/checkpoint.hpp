/**
 * @file
 * Checkpoints of training runs.
 */
#ifndef METAL_CANDLE_CHECKPOINT_HPP
#define METAL_CANDLE_CHECKPOINT_HPP

#include "metal_candle/handle.hpp"

#include <cstddef>
#include <filesystem>
#include <optional>
#include <vector>

MCANDLE_NAMESPACE_BEGIN

/** A checkpoint in an output directory. */
struct checkpoint {
    std::filesystem::path path; /**< Its directory. */
    std::size_t step;           /**< The steps done before it. */
};

/** The checkpoint of the evaluation with the lowest loss. */
struct best_checkpoint {
    std::filesystem::path path; /**< Its directory. */
    std::size_t step;           /**< The steps done before it. */
    double loss;                /**< Its validation loss. */
};

/** Finds the checkpoint with the most steps in an output directory; nothing where there is none. */
inline result<std::optional<std::filesystem::path>>
latest_checkpoint(const std::filesystem::path &output_dir) {
    using found = std::optional<std::filesystem::path>;
    using text = handle<mcandle_string, mcandle_string_free>;
    const auto checkpoint = detail::attempt_call<text>([&](auto *path, auto *error) {
        return mcandle_latest_checkpoint(detail::terminated(output_dir).c_str(), path, error);
    });
    if (!checkpoint) {
        return detail::fail<found>(checkpoint.error());
    }
    return *checkpoint ? found(detail::to_path(mcandle_string_data(checkpoint->get()))) : found();
}

/** Finds the checkpoint of the evaluation with the lowest loss in an output directory; nothing
 * where no such checkpoint was written. */
inline result<std::optional<best_checkpoint>>
find_best_checkpoint(const std::filesystem::path &output_dir) {
    using found = std::optional<best_checkpoint>;
    using text = handle<mcandle_string, mcandle_string_free>;
    std::size_t step = 0;
    double loss = 0;
    const auto checkpoint = detail::attempt_call<text>([&](auto *path, auto *error) {
        return mcandle_checkpoint_best(detail::terminated(output_dir).c_str(), path, &step, &loss,
                                       error);
    });
    if (!checkpoint) {
        return detail::fail<found>(checkpoint.error());
    }
    if (!*checkpoint) {
        return found();
    }
    return found(
        best_checkpoint{detail::to_path(mcandle_string_data(checkpoint->get())), step, loss});
}

/** Lists the checkpoints in an output directory that are whole, by their steps. */
inline result<std::vector<checkpoint>> list_checkpoints(const std::filesystem::path &output_dir) {
    using list = handle<mcandle_checkpoints, mcandle_checkpoints_free>;
    const auto checkpoints = detail::attempt_call<list>([&](auto *out, auto *error) {
        return mcandle_checkpoint_list(detail::terminated(output_dir).c_str(), out, error);
    });
    if (!checkpoints) {
        return detail::fail<std::vector<checkpoint>>(checkpoints.error());
    }
    const mcandle_checkpoints *c = checkpoints->get();
    std::vector<checkpoint> found;
    for (std::size_t i = 0; i < mcandle_checkpoints_length(c); i++) {
        found.push_back(
            {detail::to_path(mcandle_checkpoints_path(c, i)), mcandle_checkpoints_step(c, i)});
    }
    return found;
}

MCANDLE_NAMESPACE_END

#endif
