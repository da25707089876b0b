/**
 * @file
 * How a text is continued.
 */
#ifndef METAL_CANDLE_GENERATE_OPTIONS_HPP
#define METAL_CANDLE_GENERATE_OPTIONS_HPP

#include "metal_candle/options.hpp"

#include <cstddef>
#include <cstdint>
#include <string_view>

MCANDLE_NAMESPACE_BEGIN

namespace detail {

struct generate_options_traits {
    using c_type = mcandle_generate_options;
    static c_type *make() noexcept { return mcandle_generate_options_new(); }
    static void free(c_type *options) noexcept { mcandle_generate_options_free(options); }
    static mcandle_status from_json(const char *json, std::size_t length, c_type **options,
                                    mcandle_error **error) noexcept {
        return mcandle_generate_options_from_json(json, length, options, error);
    }
    static mcandle_status to_json(const c_type *options, mcandle_string **json,
                                  mcandle_error **error) noexcept {
        return mcandle_generate_options_to_json(options, json, error);
    }
};

} // namespace detail

/** How a text is continued. */
class generate_options : public basic_options<generate_options, detail::generate_options_traits> {
public:
    using basic_options::basic_options;

    /** Sets the most tokens to generate. */
    generate_options &max_tokens(std::size_t max_tokens) {
        mcandle_generate_options_set_max_tokens(get(), max_tokens);
        return self();
    }

    /** Sets the number of tokens before which no token that ends the text is chosen. */
    generate_options &min_tokens(std::size_t min_tokens) {
        mcandle_generate_options_set_min_tokens(get(), min_tokens);
        return self();
    }

    /** Sets whether to go on after a token by which the model ends the text. */
    generate_options &ignore_eos(bool ignore_eos) {
        mcandle_generate_options_set_ignore_eos(get(), ignore_eos);
        return self();
    }

    /** Sets the seconds after which a generation ends, with what there is; 0 for no limit. */
    generate_options &max_time(double max_time) {
        mcandle_generate_options_set_max_time(get(), max_time);
        return self();
    }

    /** Sets how many of the most likely tokens each token is reported with. */
    generate_options &top_logprobs(std::size_t top_logprobs) {
        mcandle_generate_options_set_top_logprobs(get(), top_logprobs);
        return self();
    }

    /** Sets whether special tokens are left out of the text. */
    generate_options &skip_special_tokens(bool skip_special_tokens) {
        mcandle_generate_options_set_skip_special_tokens(get(), skip_special_tokens);
        return self();
    }

    /** Sets how many prompt tokens are computed at once; memory grows with it. */
    generate_options &prefill_chunk(std::size_t prefill_chunk) {
        mcandle_generate_options_set_prefill_chunk(get(), prefill_chunk);
        return self();
    }

    /** Sets the most tokens of context to keep; 0 for the model's limit alone. */
    generate_options &max_kv_size(std::size_t max_kv_size) {
        mcandle_generate_options_set_max_kv_size(get(), max_kv_size);
        return self();
    }

    /** Sets the most bytes that keys and values of the context may take; 0 for no limit. */
    generate_options &max_kv_bytes(std::uint64_t max_kv_bytes) {
        mcandle_generate_options_set_max_kv_bytes(get(), max_kv_bytes);
        return self();
    }

    /** Sets whether a full context drops its older half and goes on. */
    generate_options &context_shift(bool context_shift) {
        mcandle_generate_options_set_context_shift(get(), context_shift);
        return self();
    }

    /** Sets how many of the first tokens a shift of the context keeps. */
    generate_options &keep(std::size_t keep) {
        mcandle_generate_options_set_keep(get(), keep);
        return self();
    }

    /** Sets how many tokens are drafted at once from the text so far; 0 for none. */
    generate_options &prompt_lookup_num_tokens(std::size_t prompt_lookup_num_tokens) {
        mcandle_generate_options_set_prompt_lookup_num_tokens(get(), prompt_lookup_num_tokens);
        return self();
    }

    /** Sets how many tokens are drafted at once where the generator has a draft model. */
    generate_options &num_draft_tokens(std::size_t num_draft_tokens) {
        mcandle_generate_options_set_num_draft_tokens(get(), num_draft_tokens);
        return self();
    }

    /** Sets the temperature of sampling; 0 for always the most likely token. */
    generate_options &temperature(double temperature) {
        mcandle_generate_options_set_temperature(get(), temperature);
        return self();
    }

    /** Sets how many of the most likely tokens are sampled from; 0 for all. */
    generate_options &top_k(std::size_t top_k) {
        mcandle_generate_options_set_top_k(get(), top_k);
        return self();
    }

    /** Sets the probability that the most likely tokens must reach together to be sampled from. */
    generate_options &top_p(double top_p) {
        mcandle_generate_options_set_top_p(get(), top_p);
        return self();
    }

    /** Sets the least probability to sample from, as a share of that of the most likely token. */
    generate_options &min_p(double min_p) {
        mcandle_generate_options_set_min_p(get(), min_p);
        return self();
    }

    /** Sets the probability that the most typical tokens must reach together to be sampled from. */
    generate_options &typical_p(double typical_p) {
        mcandle_generate_options_set_typical_p(get(), typical_p);
        return self();
    }

    /** Sets how often a token is drawn without the top choices (XTC). */
    generate_options &xtc_probability(double xtc_probability) {
        mcandle_generate_options_set_xtc_probability(get(), xtc_probability);
        return self();
    }

    /** Sets the least probability of a top choice of XTC. */
    generate_options &xtc_threshold(double xtc_threshold) {
        mcandle_generate_options_set_xtc_threshold(get(), xtc_threshold);
        return self();
    }

    /** Sets the factor by which tokens that occurred are made less likely. */
    generate_options &repetition_penalty(double repetition_penalty) {
        mcandle_generate_options_set_repetition_penalty(get(), repetition_penalty);
        return self();
    }

    /** Sets what is subtracted from the logits of tokens that occurred, once for each token. */
    generate_options &presence_penalty(double presence_penalty) {
        mcandle_generate_options_set_presence_penalty(get(), presence_penalty);
        return self();
    }

    /** Sets what is subtracted from the logit of a token as often as it occurred. */
    generate_options &frequency_penalty(double frequency_penalty) {
        mcandle_generate_options_set_frequency_penalty(get(), frequency_penalty);
        return self();
    }

    /** Sets the number of last tokens in which these three look for a token; 0 for all. */
    generate_options &penalty_last_n(std::size_t penalty_last_n) {
        mcandle_generate_options_set_penalty_last_n(get(), penalty_last_n);
        return self();
    }

    /** Sets the size of the penalty on going on with a repetition (DRY); 0 for none. */
    generate_options &dry_multiplier(double dry_multiplier) {
        mcandle_generate_options_set_dry_multiplier(get(), dry_multiplier);
        return self();
    }

    /** Sets the growth of the DRY penalty with each further token of a repetition. */
    generate_options &dry_base(double dry_base) {
        mcandle_generate_options_set_dry_base(get(), dry_base);
        return self();
    }

    /** Sets the shortest repetition that has a DRY penalty, in tokens. */
    generate_options &dry_allowed_length(std::size_t dry_allowed_length) {
        mcandle_generate_options_set_dry_allowed_length(get(), dry_allowed_length);
        return self();
    }

    /** Sets the number of last tokens in which DRY looks for repetitions; 0 for all. */
    generate_options &dry_penalty_last_n(std::size_t dry_penalty_last_n) {
        mcandle_generate_options_set_dry_penalty_last_n(get(), dry_penalty_last_n);
        return self();
    }

    /** Sets the seed of sampling. The same seed, model and device give the same tokens. */
    generate_options &seed(std::uint64_t seed) {
        mcandle_generate_options_set_seed(get(), seed);
        return self();
    }

    /** Adds a token that ends the text, beside those that the model names. */
    generate_options &stop_token_id(std::uint32_t id) {
        mcandle_generate_options_add_stop_token_id(get(), id);
        return self();
    }

    /** Sets what is added to the logit of a token before anything else; negative infinity for a
     * token that must not be drawn. */
    generate_options &logit_bias(std::uint32_t id, float bias) {
        mcandle_generate_options_set_logit_bias(get(), id, bias);
        return self();
    }

    /** Adds a stop string: where it is generated, the text ends before it. */
    generate_options &stop(std::string_view stop) {
        return set([&](auto *error) {
            return mcandle_generate_options_add_stop(get(), stop.data(), stop.size(), error);
        });
    }

    /** Adds a text that ends a repetition for DRY. */
    generate_options &dry_sequence_breaker(std::string_view breaker) {
        return set([&](auto *error) {
            return mcandle_generate_options_add_dry_sequence_breaker(get(), breaker.data(),
                                                                     breaker.size(), error);
        });
    }

    /** Sets a JSON schema that the text must meet, in the place of any schema, expression or
     * grammar. What is supported the C header tells. */
    generate_options &json_schema(std::string_view json_schema) {
        return set([&](auto *error) {
            return mcandle_generate_options_set_json_schema(get(), json_schema.data(),
                                                            json_schema.size(), error);
        });
    }

    /** Sets a regular expression that must match all of the text, in the place of any schema,
     * expression or grammar. */
    generate_options &regex(std::string_view regex) {
        return set([&](auto *error) {
            return mcandle_generate_options_set_regex(get(), regex.data(), regex.size(), error);
        });
    }

    /** Sets a context-free grammar that the text must follow, in the place of any schema,
     * expression or grammar. */
    generate_options &lark(std::string_view lark) {
        return set([&](auto *error) {
            return mcandle_generate_options_set_lark(get(), lark.data(), lark.size(), error);
        });
    }

    /** Removes all stop strings. */
    generate_options &clear_stop() {
        mcandle_generate_options_clear_stop(get());
        return self();
    }

    /** Removes all tokens that stop_token_id() added. */
    generate_options &clear_stop_token_ids() {
        mcandle_generate_options_clear_stop_token_ids(get());
        return self();
    }

    /** Removes all texts that end a repetition for DRY, those of the default included. */
    generate_options &clear_dry_sequence_breakers() {
        mcandle_generate_options_clear_dry_sequence_breakers(get());
        return self();
    }

    /** Removes what logit_bias() set, for all tokens. */
    generate_options &clear_logit_bias() {
        mcandle_generate_options_clear_logit_bias(get());
        return self();
    }

    /** Removes what the text must be: schema, expression or grammar. */
    generate_options &clear_grammar() {
        mcandle_generate_options_clear_grammar(get());
        return self();
    }
};

MCANDLE_NAMESPACE_END

#endif
