/**
 * @file
 * How a model is fine-tuned.
 */
#ifndef METAL_CANDLE_TRAIN_OPTIONS_HPP
#define METAL_CANDLE_TRAIN_OPTIONS_HPP

#include "metal_candle/options.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

MCANDLE_NAMESPACE_BEGIN

/** What a training run changes. */
enum class method : std::int32_t {
    lora = MCANDLE_METHOD_LORA, /**< An adapter beside the model. */
    full = MCANDLE_METHOD_FULL, /**< The weights of the model. */
};

/** How gradients change weights. */
enum class optimizer : std::int32_t {
    adamw = MCANDLE_OPTIMIZER_ADAMW, /**< AdamW. */
    adam = MCANDLE_OPTIMIZER_ADAM,   /**< Adam, whose decay of weights is part of the gradient. */
    sgd = MCANDLE_OPTIMIZER_SGD,     /**< Stochastic gradient descent. */
    adafactor = MCANDLE_OPTIMIZER_ADAFACTOR, /**< Adafactor, which keeps next to nothing. */
    muon = MCANDLE_OPTIMIZER_MUON, /**< Muon for matrices between hidden states, and AdamW. */
};

/** How the learning rate falls. */
enum class schedule : std::int32_t {
    constant = MCANDLE_SCHEDULE_CONSTANT, /**< It stays. */
    linear = MCANDLE_SCHEDULE_LINEAR,     /**< It falls along a line. */
    cosine = MCANDLE_SCHEDULE_COSINE,     /**< It falls along half a cosine. */
};

/** How rows are put together to batches. */
enum class batching : std::int32_t {
    plain = MCANDLE_BATCHING_PLAIN,                   /**< As they are, padded. */
    length_buckets = MCANDLE_BATCHING_LENGTH_BUCKETS, /**< Those of similar length. */
    packed = MCANDLE_BATCHING_PACKED,                 /**< Several as one, without padding. */
};

namespace detail {

struct train_options_traits {
    using c_type = mcandle_train_options;
    static c_type *make() noexcept { return mcandle_train_options_new(); }
    static void free(c_type *options) noexcept { mcandle_train_options_free(options); }
    static mcandle_status from_json(const char *json, std::size_t length, c_type **options,
                                    mcandle_error **error) noexcept {
        return mcandle_train_options_from_json(json, length, options, error);
    }
    static mcandle_status to_json(const c_type *options, mcandle_string **json,
                                  mcandle_error **error) noexcept {
        return mcandle_train_options_to_json(options, json, error);
    }
};

} // namespace detail

/** How a model is fine-tuned. */
class train_options : public basic_options<train_options, detail::train_options_traits> {
public:
    using basic_options::basic_options;

    /** Sets what is trained. */
    train_options &method(mcandle::method method) {
        mcandle_train_options_set_method(get(), detail::number(method));
        return self();
    }

    /** Sets how many of the last layers are trained; 0 for all. */
    train_options &num_layers(std::size_t num_layers) {
        mcandle_train_options_set_num_layers(get(), num_layers);
        return self();
    }

    /** Sets the rank of the adapter. */
    train_options &rank(std::size_t rank) {
        mcandle_train_options_set_rank(get(), rank);
        return self();
    }

    /** Sets the strength of the adapter before division by its rank: lora_alpha of PEFT. */
    train_options &alpha(double alpha) {
        mcandle_train_options_set_alpha(get(), alpha);
        return self();
    }

    /** Sets the strength of the adapter itself: scale of mlx-lm. */
    train_options &scale(double scale) {
        mcandle_train_options_set_scale(get(), scale);
        return self();
    }

    /** Sets the share of the inputs of the adapter that training drops. */
    train_options &dropout(double dropout) {
        mcandle_train_options_set_dropout(get(), dropout);
        return self();
    }

    /** Sets whether alpha is divided by the square root of the rank. */
    train_options &use_rslora(bool use_rslora) {
        mcandle_train_options_set_use_rslora(get(), use_rslora);
        return self();
    }

    /** Sets whether the lengths of the rows of weights are trained apart from their directions. */
    train_options &use_dora(bool use_dora) {
        mcandle_train_options_set_use_dora(get(), use_dora);
        return self();
    }

    /** Sets which projections the adapter changes: names with commas between them, such as
     * "q_proj,v_proj". */
    train_options &target_modules(std::string_view names) {
        mcandle_train_options_set_target_modules(get(), detail::terminated(names).c_str());
        return self();
    }

    /** Sets which projections the adapter changes: a regular expression for whole names such as
     * model.layers.3.self_attn.q_proj. */
    train_options &target_pattern(std::string_view pattern) {
        mcandle_train_options_set_target_pattern(get(), detail::terminated(pattern).c_str());
        return self();
    }

    /** Sets the optimizer, with its defaults but for what the next setters change. */
    train_options &optimizer(mcandle::optimizer optimizer) {
        mcandle_train_options_set_optimizer(get(), detail::number(optimizer));
        return self();
    }

    /** Sets what AdamW and Adam add to their denominator; for Muon the least norm to divide by. */
    train_options &eps(double eps) {
        mcandle_train_options_set_eps(get(), eps);
        return self();
    }

    /** Sets the share of each weight that is taken away per step and unit of learning rate. */
    train_options &weight_decay(double weight_decay) {
        mcandle_train_options_set_weight_decay(get(), weight_decay);
        return self();
    }

    /** Sets the share of the last direction that the next step of SGD or Muon keeps. */
    train_options &momentum(double momentum) {
        mcandle_train_options_set_momentum(get(), momentum);
        return self();
    }

    /** Sets the L2 norm that gradients are scaled down to; 0 for no limit. */
    train_options &max_grad_norm(double max_grad_norm) {
        mcandle_train_options_set_max_grad_norm(get(), max_grad_norm);
        return self();
    }

    /** Sets the highest learning rate. */
    train_options &learning_rate(double learning_rate) {
        mcandle_train_options_set_learning_rate(get(), learning_rate);
        return self();
    }

    /** Sets what a falling learning rate does not fall below. */
    train_options &min_learning_rate(double min_learning_rate) {
        mcandle_train_options_set_min_learning_rate(get(), min_learning_rate);
        return self();
    }

    /** Sets the steps over which the learning rate rises from 0. */
    train_options &warmup_steps(std::size_t warmup_steps) {
        mcandle_train_options_set_warmup_steps(get(), warmup_steps);
        return self();
    }

    /** Sets how the learning rate falls, in the place of any schedule set before. */
    train_options &schedule(mcandle::schedule schedule) {
        mcandle_train_options_set_schedule(get(), detail::number(schedule));
        return self();
    }

    /** Multiplies the learning rate by a factor each step after the warm-up, in the place of any
     * schedule set before. */
    train_options &schedule_exponential(double gamma) {
        mcandle_train_options_set_schedule_exponential(get(), gamma);
        return self();
    }

    /** Sets the number of optimizer steps. */
    train_options &steps(std::size_t steps) {
        mcandle_train_options_set_steps(get(), steps);
        return self();
    }

    /** Sets the number of passes over the training rows, in the place of a number of steps. */
    train_options &epochs(double epochs) {
        mcandle_train_options_set_epochs(get(), epochs);
        return self();
    }

    /** Sets the number of rows in a batch, or of packs where rows are packed. */
    train_options &batch_size(std::size_t batch_size) {
        mcandle_train_options_set_batch_size(get(), batch_size);
        return self();
    }

    /** Sets how many batches make one step. */
    train_options &gradient_accumulation(std::size_t batches) {
        mcandle_train_options_set_gradient_accumulation(get(), batches);
        return self();
    }

    /** Sets how rows are put together to batches. */
    train_options &batching(mcandle::batching batching) {
        mcandle_train_options_set_batching(get(), detail::number(batching));
        return self();
    }

    /** Sets the most tokens of a pack, where rows are packed. */
    train_options &pack_length(std::size_t pack_length) {
        mcandle_train_options_set_pack_length(get(), pack_length);
        return self();
    }

    /** Sets whether rows come in another order in each epoch. */
    train_options &shuffle(bool shuffle) {
        mcandle_train_options_set_shuffle(get(), shuffle);
        return self();
    }

    /** Sets the seed of the first weights of the adapter, the order of rows, and dropout. */
    train_options &seed(std::uint64_t seed) {
        mcandle_train_options_set_seed(get(), seed);
        return self();
    }

    /** Sets whether layers are computed again in the backward pass instead of kept. */
    train_options &grad_checkpoint(bool grad_checkpoint) {
        mcandle_train_options_set_grad_checkpoint(get(), grad_checkpoint);
        return self();
    }

    /** Sets the share of each target that is spread over the whole vocabulary. */
    train_options &label_smoothing(double label_smoothing) {
        mcandle_train_options_set_label_smoothing(get(), label_smoothing);
        return self();
    }

    /** Learns from preferences by odds ratio preference optimisation, with the weight of the odds
     * ratio. */
    train_options &preference_orpo(double lambda) {
        mcandle_train_options_set_preference_orpo(get(), lambda);
        return self();
    }

    /** Sets the steps between evaluations on the validation rows; 0 for none. */
    train_options &eval_every(std::size_t steps) {
        mcandle_train_options_set_eval_every(get(), steps);
        return self();
    }

    /** Sets the most batches of an evaluation; 0 for all. */
    train_options &eval_batches(std::size_t batches) {
        mcandle_train_options_set_eval_batches(get(), batches);
        return self();
    }

    /** Sets after how many evaluations in a row without a better loss the run ends; 0 for no such
     * end. */
    train_options &early_stopping_patience(std::size_t evaluations) {
        mcandle_train_options_set_early_stopping_patience(get(), evaluations);
        return self();
    }

    /** Sets by how much a loss must be below the best one to be better. */
    train_options &early_stopping_min_delta(double min_delta) {
        mcandle_train_options_set_early_stopping_min_delta(get(), min_delta);
        return self();
    }

    /** Sets the steps between checkpoints, which need an output directory; 0 for none. */
    train_options &save_every(std::size_t steps) {
        mcandle_train_options_set_save_every(get(), steps);
        return self();
    }

    /** Sets how many of the newest checkpoints are kept, beside the best; 0 for all. */
    train_options &keep_checkpoints(std::size_t count) {
        mcandle_train_options_set_keep_checkpoints(get(), count);
        return self();
    }

    /** Sets where checkpoints, metrics.jsonl and loss.svg are written, and at the end what was
     * trained. */
    train_options &output_dir(const std::filesystem::path &path) {
        mcandle_train_options_set_output_dir(get(), detail::terminated(path).c_str());
        return self();
    }

    /** Sets the decay of the means of gradients and of squared gradients of AdamW and Adam. */
    train_options &betas(double beta1, double beta2) {
        mcandle_train_options_set_betas(get(), beta1, beta2);
        return self();
    }

    /** Multiplies the learning rate by a factor each so many steps after the warm-up, in the place
     * of any schedule set before. */
    train_options &schedule_step(std::size_t step_size, double gamma) {
        mcandle_train_options_set_schedule_step(get(), step_size, gamma);
        return self();
    }

    /** Learns from preferences by direct preference optimisation.
     *
     * @param beta How closely the model is held to the one before training; 0.1 is usual.
     * @param label_smoothing The share of pairs that may be the wrong way round; 0 is usual.
     */
    train_options &preference_dpo(double beta, double label_smoothing = 0) {
        mcandle_train_options_set_preference_dpo(get(), beta, label_smoothing);
        return self();
    }

    /** Learns from texts again. */
    train_options &clear_preference() {
        mcandle_train_options_clear_preference(get());
        return self();
    }
};

MCANDLE_NAMESPACE_END

#endif
