// Every setter of options, against the JSON that the library writes.
#include "test.hpp"

#include <cmath>

namespace {

void check_parts(const std::string &json, std::initializer_list<const char *> parts) {
    for (const char *part : parts) {
        if (json.find(part) == std::string::npos) {
            test::fail(__FILE__, __LINE__, std::string(part) + " is not in " + json);
        }
    }
}

} // namespace

TEST(generate_options_are_set) {
    mcandle::generate_options options;
    options.max_tokens(90).min_tokens(3).ignore_eos(true).max_time(2.5).top_logprobs(4);
    options.skip_special_tokens(false).prefill_chunk(64).max_kv_size(300).context_shift(true);
    options.max_kv_bytes(1 << 30)
        .keep(5)
        .prompt_lookup_num_tokens(6)
        .num_draft_tokens(7)
        .stop("END")
        .stop_token_id(8);
    options.temperature(0.5).top_k(9).top_p(0.75).min_p(0.125).typical_p(0.875);
    options.xtc_probability(0.25).xtc_threshold(0.375).repetition_penalty(1.25);
    options.presence_penalty(0.0625).frequency_penalty(-0.5).penalty_last_n(11);
    options.dry_multiplier(0.8125).dry_base(1.5).dry_allowed_length(12).dry_penalty_last_n(13);
    options.clear_dry_sequence_breakers().dry_sequence_breaker("#").logit_bias(14, 1.5f);
    options.logit_bias(15, -INFINITY).seed(16);
    check_parts(options.to_json(), {"\"max_tokens\":90",
                                    "\"min_tokens\":3",
                                    "\"ignore_eos\":true",
                                    "\"max_time\":2.5",
                                    "\"top_logprobs\":4",
                                    "\"skip_special_tokens\":false",
                                    "\"prefill_chunk\":64",
                                    "\"max_kv_size\":300",
                                    "\"max_kv_bytes\":1073741824",
                                    "\"context_shift\":true",
                                    "\"keep\":5",
                                    "\"num_draft_tokens\":7",
                                    "\"prompt_lookup_num_tokens\":6",
                                    "\"stop\":[\"END\"]",
                                    "\"stop_token_ids\":[8]",
                                    "\"temperature\":0.5",
                                    "\"top_k\":9",
                                    "\"top_p\":0.75",
                                    "\"min_p\":0.125",
                                    "\"typical_p\":0.875",
                                    "\"xtc_probability\":0.25",
                                    "\"xtc_threshold\":0.375",
                                    "\"repetition_penalty\":1.25",
                                    "\"frequency_penalty\":-0.5",
                                    "\"presence_penalty\":0.0625",
                                    "\"penalty_last_n\":11",
                                    "\"dry_multiplier\":0.8125",
                                    "\"dry_base\":1.5",
                                    "\"dry_allowed_length\":12",
                                    "\"dry_penalty_last_n\":13",
                                    "\"dry_sequence_breakers\":[\"#\"]",
                                    "\"logit_bias\":{\"14\":1.5,\"15\":false}",
                                    "\"seed\":16"});

    const mcandle::generate_options copy = options;
    CHECK(copy.to_json() == options.to_json());
    CHECK(mcandle::generate_options::from_json(copy.to_json()).to_json() == options.to_json());
    options.clear_stop().clear_stop_token_ids().clear_logit_bias();
    check_parts(options.to_json(), {"\"stop\":[]", "\"stop_token_ids\":[]", "\"logit_bias\":{}"});
    CHECK(copy.to_json() != options.to_json());
    FAILS(mcandle::generate_options::from_json("{\"max_token\": 1}"), invalid_argument,
          "max_token");
}

TEST(grammars_hold_the_text) {
    auto generator = mcandle::generator::create(test::model());
    mcandle::generate_options options;
    options.max_tokens(32).regex("[0-9]{3}");
    const auto digits = generator.generate(test::PROMPT, options);
    CHECK(digits.text().size() == 3 &&
          digits.text().find_first_not_of("0123456789") == std::string_view::npos);
    options.lark("start: \"yes\" | \"no\"");
    const auto answer = generator.generate(test::PROMPT, options);
    CHECK(answer.text() == "yes" || answer.text() == "no");
    options.json_schema("{\"enum\": [7]}");
    CHECK(generator.generate(test::PROMPT, options).text() == "7");
    CHECK(mcandle::generate_options(options).to_json() == options.to_json());
    options.clear_grammar();
    check_parts(options.to_json(), {"\"grammar\":null"});
}

TEST(what_is_refused_is_reported_by_the_call_that_uses_it) {
    auto generator = mcandle::generator::create(test::model());
    mcandle::generate_options options;
    options.stop("\xff").json_schema("{").max_tokens(4);
    CHECK(options.refusal()->status() == mcandle::status::invalid_utf8);
    FAILS(generator.generate(test::PROMPT, options), invalid_utf8, "stop");
    FAILS(options.to_json(), invalid_utf8, "stop");
    const mcandle::generate_options copy = options;
    FAILS(generator.generate(test::PROMPT, copy), invalid_utf8, "stop");

    mcandle::generate_options range;
    range.top_p(7);
    CHECK(!range.refusal());
    FAILS(generator.generate(test::PROMPT, range), invalid_argument, "top_p");
    const mcandle::generate_options copied = range;
    FAILS(generator.generate(test::PROMPT, copied), invalid_argument, "top_p");
}

TEST(train_options_are_set) {
    mcandle::train_options options;
    options.method(mcandle::method::lora).num_layers(2).rank(4).alpha(6).dropout(0.25);
    options.use_rslora(true).use_dora(true).target_modules("q_proj,v_proj").eps(1e-6);
    options.optimizer(mcandle::optimizer::adamw).betas(0.75, 0.875).weight_decay(0.0625);
    options.max_grad_norm(2).learning_rate(0.5).min_learning_rate(0.125).warmup_steps(3);
    options.schedule(mcandle::schedule::cosine).steps(20).batch_size(5).gradient_accumulation(7);
    options.batching(mcandle::batching::packed).pack_length(128).shuffle(false).seed(9);
    options.grad_checkpoint(true).label_smoothing(0.5).eval_every(10).eval_batches(11);
    options.early_stopping_patience(12).early_stopping_min_delta(0.375).save_every(13);
    options.keep_checkpoints(14).output_dir("größe");
    check_parts(options.to_json(), {"\"num_layers\":2",
                                    "\"rank\":4",
                                    "\"alpha\":6.0",
                                    "\"dropout\":0.25",
                                    "\"use_rslora\":true",
                                    "\"use_dora\":true",
                                    "[\"q_proj\",\"v_proj\"]",
                                    "\"beta1\":0.75,\"beta2\":0.875",
                                    "\"eps\":",
                                    "\"weight_decay\":0.0625",
                                    "\"max_grad_norm\":2.0",
                                    "\"learning_rate\":0.5",
                                    "\"min_learning_rate\":0.125",
                                    "\"warmup_steps\":3",
                                    "\"schedule\":\"cosine\"",
                                    "\"steps\":20",
                                    "\"batch_size\":5",
                                    "\"gradient_accumulation\":7",
                                    "\"batching\":\"packed\"",
                                    "\"pack_length\":128",
                                    "\"shuffle\":false",
                                    "\"seed\":9",
                                    "\"grad_checkpoint\":true",
                                    "\"label_smoothing\":0.5",
                                    "\"eval_every\":10",
                                    "\"eval_batches\":11",
                                    "\"early_stopping_patience\":12",
                                    "\"early_stopping_min_delta\":0.375",
                                    "\"save_every\":13",
                                    "\"keep_checkpoints\":14",
                                    "\"output_dir\":\"größe\""});
    const mcandle::train_options copy = options;
    CHECK(copy.to_json() == options.to_json());

    mcandle::train_options others;
    others.scale(20).target_pattern(".*q_proj").optimizer(mcandle::optimizer::sgd).momentum(0.5);
    others.schedule_step(6, 0.5).epochs(2.5).preference_dpo(0.25, 0.125);
    check_parts(others.to_json(),
                {"\"scale\":20.0", "q_proj", "\"momentum\":0.5", "\"step_size\":6", "\"gamma\":0.5",
                 "\"epochs\":2.5", "\"name\":\"dpo\"", "\"beta\":0.25"});
    others.schedule_exponential(0.75).preference_orpo(0.5);
    check_parts(others.to_json(), {"exponential", "\"gamma\":0.75", "orpo", "0.5"});
    others.clear_preference();
    check_parts(others.to_json(), {"\"preference\":null"});
    FAILS(mcandle::train_options::from_json("{\"rank\": 1}"), invalid_argument, "rank");
}

TEST(dataset_options_are_set) {
    mcandle::dataset_options options;
    options.max_seq_length(64).mask(mcandle::loss_mask::prompt).on_bad_row(mcandle::bad_row::skip);
    options.max_bytes_in_memory(1000).field("prompt", "question");
    check_parts(options.to_json(),
                {"\"max_seq_length\":64", "\"mask\":\"prompt\"", "\"on_bad_row\":\"skip\"",
                 "\"max_bytes_in_memory\":1000", "\"prompt\":\"question\""});
    CHECK(mcandle::dataset_options(options).to_json() == options.to_json());
    options.field("no part", "x");
    FAILS(options.to_json(), invalid_argument, "no part");
}
