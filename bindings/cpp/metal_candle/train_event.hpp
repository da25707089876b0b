/**
 * @file
 * What a training run tells.
 */
#ifndef METAL_CANDLE_TRAIN_EVENT_HPP
#define METAL_CANDLE_TRAIN_EVENT_HPP

#include "metal_candle/handle.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

MCANDLE_NAMESPACE_BEGIN

/** What an event of training is. There may be more in later versions. */
enum class train_event_kind : std::int32_t {
    step = MCANDLE_TRAIN_EVENT_STEP,             /**< A step is done. */
    evaluation = MCANDLE_TRAIN_EVENT_EVALUATION, /**< The validation rows were evaluated. */
    checkpoint = MCANDLE_TRAIN_EVENT_CHECKPOINT, /**< A checkpoint is safe on disk. */
    start = MCANDLE_TRAIN_EVENT_START,           /**< A run, or its resumption, begins. */
    end = MCANDLE_TRAIN_EVENT_END,               /**< The run is over. */
};

/** Why a training run ended. */
enum class train_stop : std::int32_t {
    finished = MCANDLE_TRAIN_STOP_FINISHED,             /**< All steps are done. */
    cancelled = MCANDLE_TRAIN_STOP_CANCELLED,           /**< It was stopped. */
    early_stopping = MCANDLE_TRAIN_STOP_EARLY_STOPPING, /**< The validation loss no longer fell. */
};

/** How a training run ended, which a Holder owns or points to. */
template <class Holder> class basic_train_summary : public Holder {
public:
    using Holder::get;
    using Holder::Holder;

    /** Gives the number of steps done in all. */
    std::size_t steps() const noexcept { return mcandle_train_summary_steps(get()); }

    /** Gives the loss of the last step; NaN where none was done. */
    double loss() const noexcept { return mcandle_train_summary_loss(get()); }

    /** Gives the last loss of the validation rows; NaN where there was none. */
    double validation_loss() const noexcept { return mcandle_train_summary_validation_loss(get()); }

    /** Tells whether the run was stopped before its last step. */
    bool cancelled() const noexcept { return mcandle_train_summary_cancelled(get()); }

    /** Gives why the run ended. */
    train_stop stop_reason() const noexcept {
        return static_cast<train_stop>(mcandle_train_summary_stop_reason(get()));
    }

    /** Gives the number of steps done before the evaluation with the lowest loss. */
    std::size_t best_step() const noexcept { return mcandle_train_summary_best_step(get()); }

    /** Gives the lowest loss of the validation rows; NaN where there was none. */
    double best_loss() const noexcept { return mcandle_train_summary_best_loss(get()); }

    /** Gives the checkpoint with the lowest validation loss; empty where there is none. */
    std::filesystem::path best_path() const {
        return detail::to_path(mcandle_train_summary_best_path(get()));
    }

    /** Gives the number of tokens since the first step. */
    std::size_t tokens() const noexcept { return mcandle_train_summary_tokens(get()); }

    /** Gives the seconds that the run took. */
    double seconds() const noexcept { return mcandle_train_summary_seconds(get()); }
};

/** How a training run ended. */
using train_summary =
    basic_train_summary<handle<mcandle_train_summary, mcandle_train_summary_free>>;

/** How a training run ended, during the callback that is told of the end. */
using train_summary_view = basic_train_summary<detail::pointer<mcandle_train_summary>>;

/** Something that happened in training; it lives only during the callback that is told of it. What
 * an event does not tell is 0. */
class train_event {
public:
    /** The type of C. */
    using c_type = mcandle_train_event;

    /** Wraps what C tells. */
    explicit train_event(const mcandle_train_event *event) noexcept : event_(event) {}

    /** Gives the kind of the event. */
    train_event_kind kind() const noexcept {
        return static_cast<train_event_kind>(mcandle_train_event_kind_of(get()));
    }

    /** Gives everything that the event says as JSON, as it is a line of metrics.jsonl. */
    std::string_view json() const noexcept { return mcandle_train_event_json(get()); }

    /** Gives the number of steps done. */
    std::size_t step() const noexcept { return mcandle_train_event_step(get()); }

    /** Gives the number of steps of the whole run, at a start or step. */
    std::size_t total_steps() const noexcept { return mcandle_train_event_total_steps(get()); }

    /** Gives how often every training row was seen, at a step. */
    double epoch() const noexcept { return mcandle_train_event_epoch(get()); }

    /** Gives the mean negative log-likelihood of a target token, or the mean loss of a pair, at a
     * step or evaluation. */
    double loss() const noexcept { return mcandle_train_event_loss(get()); }

    /** Gives e to the power of the loss of the validation rows, at an evaluation. */
    double perplexity() const noexcept { return mcandle_train_event_perplexity(get()); }

    /** Tells whether an evaluation has the lowest loss so far, or a checkpoint the weights of that
     * one. */
    bool best() const noexcept { return mcandle_train_event_best(get()); }

    /** Gives the learning rate of a step. */
    double learning_rate() const noexcept { return mcandle_train_event_learning_rate(get()); }

    /** Gives the L2 norm of the gradient of a step, before clipping. */
    double grad_norm() const noexcept { return mcandle_train_event_grad_norm(get()); }

    /** Gives the number of tokens of a step, or at a start of all training rows. */
    std::size_t tokens() const noexcept { return mcandle_train_event_tokens(get()); }

    /** Gives the number of tokens that are scored, in a step or at a start in all training rows. */
    std::size_t target_tokens() const noexcept { return mcandle_train_event_target_tokens(get()); }

    /** Gives the number of tokens since the first step, at a step. */
    std::size_t tokens_so_far() const noexcept { return mcandle_train_event_tokens_so_far(get()); }

    /** Gives the speed of a step. */
    double tokens_per_second() const noexcept {
        return mcandle_train_event_tokens_per_second(get());
    }

    /** Gives the seconds since the run began, at a step, evaluation or end. */
    double seconds_elapsed() const noexcept { return mcandle_train_event_seconds_elapsed(get()); }

    /** Gives the seconds that the remaining steps will take, at a step. */
    double seconds_remaining() const noexcept {
        return mcandle_train_event_seconds_remaining(get());
    }

    /** Gives the bytes that the process holds, at a step. */
    std::uint64_t memory() const noexcept { return mcandle_train_event_memory(get()); }

    /** Gives the most bytes that the process has held, at a step. */
    std::uint64_t peak_memory() const noexcept { return mcandle_train_event_peak_memory(get()); }

    /** Gives the mean reward of the chosen answers of a step; NaN without preferences. */
    double reward_chosen() const noexcept { return mcandle_train_event_reward_chosen(get()); }

    /** Gives the mean reward of the rejected answers of a step; NaN without preferences. */
    double reward_rejected() const noexcept { return mcandle_train_event_reward_rejected(get()); }

    /** Gives the mean of the differences of rewards in a step; NaN without preferences. */
    double reward_margin() const noexcept { return mcandle_train_event_reward_margin(get()); }

    /** Gives the share of the pairs of a step whose chosen answer has the higher reward; NaN
     * without preferences. */
    double reward_accuracy() const noexcept { return mcandle_train_event_reward_accuracy(get()); }

    /** Gives how many numbers are trained, at a start. */
    std::uint64_t trainable_parameters() const noexcept {
        return mcandle_train_event_trainable_parameters(get());
    }

    /** Gives how many numbers there are in all, at a start. */
    std::uint64_t parameters() const noexcept { return mcandle_train_event_parameters(get()); }

    /** Gives the number of training rows, at a start. */
    std::size_t rows() const noexcept { return mcandle_train_event_rows(get()); }

    /** Gives how many training rows were cut, at a start. */
    std::size_t truncated() const noexcept { return mcandle_train_event_truncated(get()); }

    /** Gives how many training rows were left out, at a start. */
    std::size_t skipped() const noexcept { return mcandle_train_event_skipped(get()); }

    /** Gives the number of batches in which every training row comes once, at a start. */
    std::size_t batches_per_epoch() const noexcept {
        return mcandle_train_event_batches_per_epoch(get());
    }

    /** Gives the share of the places of a packed batch that hold tokens, at a start; 0 where rows
     * are not packed. */
    double pack_efficiency() const noexcept { return mcandle_train_event_pack_efficiency(get()); }

    /** Gives what is trained, at a start: "lora", "dora", "qlora", "qdora" or "full". */
    std::string_view method() const noexcept { return mcandle_train_event_method(get()); }

    /** Gives what the loss rewards, at a start: "sft", "dpo" or "orpo". */
    std::string_view objective() const noexcept { return mcandle_train_event_objective(get()); }

    /** Gives the directory of a checkpoint. */
    std::filesystem::path path() const { return detail::to_path(mcandle_train_event_path(get())); }

    /** Gives how the run ended, at its end. */
    std::optional<train_summary_view> summary() const {
        const mcandle_train_summary *summary = mcandle_train_event_summary(get());
        return summary == nullptr ? std::nullopt : std::optional<train_summary_view>(summary);
    }

    /** Gives the event of C. */
    const mcandle_train_event *get() const noexcept { return event_; }

private:
    const mcandle_train_event *event_;
};

MCANDLE_NAMESPACE_END

#endif
