/* All options, what chunks and generations tell, grammars, logits callbacks, and what generators
 * keep.
 *
 * Usage: sampling PROMPT SESSION, a file that does not exist.
 */
/* NULL is passed on purpose. */
#define MCANDLE_NO_NULLABILITY
#include "test.h"

#include <math.h>

/* Every option with a value that is not its default. */
#define ALL_OPTIONS                                                                                \
    "{\"max_tokens\":9,\"min_tokens\":2,\"sampling\":{\"temperature\":0.5,\"top_k\":3,"            \
    "\"top_p\":0.75,\"min_p\":0.25,\"typical_p\":0.875,\"xtc_probability\":0.125,"                 \
    "\"xtc_threshold\":0.375,\"repetition_penalty\":1.5,\"presence_penalty\":-0.5,"                \
    "\"frequency_penalty\":0.625,\"penalty_last_n\":11,\"dry_multiplier\":0.5625,"                 \
    "\"dry_base\":1.25,\"dry_allowed_length\":4,\"dry_penalty_last_n\":13,"                        \
    "\"dry_sequence_breakers\":[\";\",\"}\"],\"logit_bias\":{\"5\":-1.5,\"6\":false},\"seed\":7}," \
    "\"stop\":[\"a\\n\",\"b\"],\"stop_token_ids\":[3,4],\"ignore_eos\":true,"                      \
    "\"grammar\":{\"regex\":\"a+\"},\"max_time\":1.5,\"top_logprobs\":8,"                          \
    "\"skip_special_tokens\":false,\"prefill_chunk\":16,\"max_kv_size\":64,"                       \
    "\"max_kv_bytes\":1048576,"                                                                    \
    "\"context_shift\":true,\"keep\":6,\"prompt_lookup_num_tokens\":10,\"num_draft_tokens\":12}"

static const char *prompt, *session;

static mcandle_generation *generate(mcandle_generator *generator,
                                    const mcandle_generate_options *options) {
    mcandle_generation *generation = NULL;
    SUCCEEDS(mcandle_generator_generate(generator, prompt, strlen(prompt), options, NULL, NULL,
                                        &generation, error));
    return generation;
}

/* Generates, gives the first token, and checks why the generation ended. */
static uint32_t first_token(mcandle_generator *generator, const mcandle_generate_options *options,
                            mcandle_finish_reason reason) {
    mcandle_generation *generation = generate(generator, options);
    size_t count = 0;
    const uint32_t *ids = mcandle_generation_tokens(generation, &count);
    uint32_t first = count > 0 ? ids[0] : UINT32_MAX;
    CHECK(mcandle_generation_finish_reason(generation) == reason);
    mcandle_generation_free(generation);
    return first;
}

static void check_json(const mcandle_generate_options *options, const char *expected) {
    mcandle_string *json = NULL;
    SUCCEEDS(mcandle_generate_options_to_json(options, &json, error));
    if (strcmp(mcandle_string_data(json), expected) != 0) {
        fprintf(stderr, "%s\nis not\n%s\n", mcandle_string_data(json), expected);
        exit(1);
    }
    mcandle_string_free(json);
}

static void options_are_those_of_json(void) {
    mcandle_generate_options *options = mcandle_generate_options_new(), *read = NULL;
    mcandle_string *json = NULL, *defaults = NULL;
    SUCCEEDS(mcandle_generate_options_to_json(options, &defaults, error));
    mcandle_generate_options_set_max_tokens(options, 9);
    mcandle_generate_options_set_min_tokens(options, 2);
    mcandle_generate_options_set_temperature(options, 0.5);
    mcandle_generate_options_set_top_k(options, 3);
    mcandle_generate_options_set_top_p(options, 0.75);
    mcandle_generate_options_set_min_p(options, 0.25);
    mcandle_generate_options_set_typical_p(options, 0.875);
    mcandle_generate_options_set_xtc_probability(options, 0.125);
    mcandle_generate_options_set_xtc_threshold(options, 0.375);
    mcandle_generate_options_set_repetition_penalty(options, 1.5);
    mcandle_generate_options_set_presence_penalty(options, -0.5);
    mcandle_generate_options_set_frequency_penalty(options, 0.625);
    mcandle_generate_options_set_penalty_last_n(options, 11);
    mcandle_generate_options_set_dry_multiplier(options, 0.5625);
    mcandle_generate_options_set_dry_base(options, 1.25);
    mcandle_generate_options_set_dry_allowed_length(options, 4);
    mcandle_generate_options_set_dry_penalty_last_n(options, 13);
    mcandle_generate_options_clear_dry_sequence_breakers(options);
    SUCCEEDS(mcandle_generate_options_add_dry_sequence_breaker(options, ";", 1, error));
    SUCCEEDS(mcandle_generate_options_add_dry_sequence_breaker(options, "}", 1, error));
    mcandle_generate_options_set_logit_bias(options, 9, 1);
    mcandle_generate_options_clear_logit_bias(options);
    mcandle_generate_options_set_logit_bias(options, 6, (float)-INFINITY);
    mcandle_generate_options_set_logit_bias(options, 5, 1);
    mcandle_generate_options_set_logit_bias(options, 5, -1.5f);
    mcandle_generate_options_set_seed(options, 7);
    SUCCEEDS(mcandle_generate_options_add_stop(options, "c", 1, error));
    mcandle_generate_options_clear_stop(options);
    SUCCEEDS(mcandle_generate_options_add_stop(options, "a\n", 2, error));
    SUCCEEDS(mcandle_generate_options_add_stop(options, "b, and what is beyond", 1, error));
    mcandle_generate_options_add_stop_token_id(options, 5);
    mcandle_generate_options_clear_stop_token_ids(options);
    mcandle_generate_options_add_stop_token_id(options, 3);
    mcandle_generate_options_add_stop_token_id(options, 4);
    mcandle_generate_options_set_ignore_eos(options, true);
    SUCCEEDS(mcandle_generate_options_set_lark(options, "start: \"x\"", 10, error));
    SUCCEEDS(mcandle_generate_options_set_regex(options, "a+", 2, error));
    mcandle_generate_options_set_max_time(options, 1.5);
    mcandle_generate_options_set_top_logprobs(options, 8);
    mcandle_generate_options_set_skip_special_tokens(options, false);
    mcandle_generate_options_set_prefill_chunk(options, 16);
    mcandle_generate_options_set_max_kv_size(options, 64);
    mcandle_generate_options_set_max_kv_bytes(options, 1048576);
    mcandle_generate_options_set_context_shift(options, true);
    mcandle_generate_options_set_keep(options, 6);
    mcandle_generate_options_set_prompt_lookup_num_tokens(options, 10);
    mcandle_generate_options_set_num_draft_tokens(options, 12);
    check_json(options, ALL_OPTIONS);
    SUCCEEDS(mcandle_generate_options_from_json(ALL_OPTIONS, strlen(ALL_OPTIONS), &read, error));
    check_json(read, ALL_OPTIONS);

    /* What says that there is none. */
    mcandle_generate_options_clear_grammar(options);
    mcandle_generate_options_set_max_time(options, 0);
    mcandle_generate_options_set_max_kv_size(options, 0);
    mcandle_generate_options_set_max_kv_bytes(options, 0);
    SUCCEEDS(mcandle_generate_options_to_json(options, &json, error));
    CHECK(strstr(mcandle_string_data(json), "\"grammar\":null,\"max_time\":null,") != NULL);
    CHECK(strstr(mcandle_string_data(json), "\"max_kv_size\":null,\"max_kv_bytes\":null,") != NULL);
    mcandle_generate_options_free(read);
    SUCCEEDS(mcandle_generate_options_from_json("{}", 2, &read, error));
    check_json(read, mcandle_string_data(defaults));
    mcandle_string_free(json);
    mcandle_string_free(defaults);
    mcandle_generate_options_free(read);
    mcandle_generate_options_free(options);
}

/* The log-probabilities that chunks gave. */
typedef struct {
    float logprobs[8];
    size_t count;
} record;

static bool on_chunk(const mcandle_chunk *chunk, void *user_data) {
    record *r = (record *)user_data;
    size_t tokens = 0, logprobs = 0;
    const uint32_t *top = mcandle_chunk_top_tokens(chunk, &tokens);
    const float *likely = mcandle_chunk_top_logprobs(chunk, &logprobs);
    CHECK(r->count < sizeof r->logprobs / sizeof *r->logprobs);
    CHECK(tokens == 3 && logprobs == 3 && mcandle_chunk_sequence(chunk) == 0);
    CHECK(mcandle_chunk_top_tokens(chunk, NULL) == top);
    /* The choice is greedy. */
    CHECK(top[0] == mcandle_chunk_token(chunk) && likely[0] == mcandle_chunk_logprob(chunk));
    CHECK(likely[0] < 0 && likely[0] >= likely[1] && likely[1] >= likely[2] && top[1] != top[2]);
    r->logprobs[r->count++] = mcandle_chunk_logprob(chunk);
    return true;
}

static void tokens_come_with_their_likelihood(mcandle_generator *generator,
                                              mcandle_generate_options *options) {
    record r = {{0}, 0};
    mcandle_generation *generation = NULL;
    size_t count = 0, tokens = 0;
    const float *logprobs;
    mcandle_generate_options_set_top_logprobs(options, 3);
    SUCCEEDS(mcandle_generator_generate(generator, prompt, strlen(prompt), options, on_chunk, &r,
                                        &generation, error));
    logprobs = mcandle_generation_logprobs(generation, &count);
    mcandle_generation_tokens(generation, &tokens);
    CHECK(count > 0 && count == tokens && count == r.count);
    CHECK(memcmp(logprobs, r.logprobs, count * sizeof *logprobs) == 0);
    CHECK(mcandle_generation_drafted_tokens(generation) == 0);
    mcandle_generation_free(generation);
    mcandle_generate_options_set_top_logprobs(options, 0);
}

static void every_end_has_its_reason(mcandle_generator *generator,
                                     mcandle_generate_options *options) {
    mcandle_generation *whole = generate(generator, options), *part;
    size_t length, stop_length, part_length, prompt_tokens;
    const char *text = mcandle_generation_text(whole, &length), *stop;
    uint32_t first = *mcandle_generation_tokens(whole, NULL);
    CHECK(mcandle_generation_finish_reason(whole) == MCANDLE_FINISH_LENGTH && length > 1);
    stop = mcandle_generation_stop_string(whole, &stop_length);
    CHECK(strcmp(stop, "") == 0 && stop_length == 0);
    prompt_tokens = mcandle_generation_prompt_tokens(whole);

    SUCCEEDS(mcandle_generate_options_add_stop(options, "never", 5, error));
    SUCCEEDS(mcandle_generate_options_add_stop(options, text + 1, length - 1, error));
    part = generate(generator, options);
    CHECK(mcandle_generation_finish_reason(part) == MCANDLE_FINISH_STOP_STRING);
    stop = mcandle_generation_stop_string(part, &stop_length);
    CHECK(stop_length == length - 1 && memcmp(stop, text + 1, stop_length) == 0);
    CHECK(memcmp(mcandle_generation_text(part, &part_length), text, 1) == 0 && part_length == 1);
    /* All of the prompt had been read. */
    CHECK(mcandle_generation_cached_tokens(part) == prompt_tokens);
    mcandle_generation_free(part);
    mcandle_generation_free(whole);
    mcandle_generate_options_clear_stop(options);

    mcandle_generate_options_add_stop_token_id(options, first);
    CHECK(first_token(generator, options, MCANDLE_FINISH_STOP) == UINT32_MAX);
    mcandle_generate_options_clear_stop_token_ids(options);
    mcandle_generate_options_set_max_time(options, 1e-9);
    CHECK(first_token(generator, options, MCANDLE_FINISH_TIME_LIMIT) == UINT32_MAX);
    mcandle_generate_options_set_max_time(options, 0);
    mcandle_generate_options_set_max_kv_size(options, prompt_tokens + 1);
    CHECK(first_token(generator, options, MCANDLE_FINISH_CONTEXT_FULL) == first);
    mcandle_generate_options_set_max_kv_size(options, 0);
    mcandle_generate_options_set_logit_bias(options, first, (float)-INFINITY);
    CHECK(first_token(generator, options, MCANDLE_FINISH_LENGTH) != first);
    mcandle_generate_options_clear_logit_bias(options);
}

static void check_text(mcandle_generator *generator, const mcandle_generate_options *options,
                       const char *expected) {
    mcandle_generation *generation = generate(generator, options);
    CHECK(strcmp(mcandle_generation_text(generation, NULL), expected) == 0);
    CHECK(mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_STOP);
    mcandle_generation_free(generation);
}

static void a_grammar_decides(mcandle_generator *generator) {
    static const char SCHEMA[] = "{\"const\": [true, null]}", LARK[] = "start: \"xy\" \"z\"";
    mcandle_generate_options *options = mcandle_generate_options_new();
    SUCCEEDS(mcandle_generate_options_set_json_schema(options, SCHEMA, strlen(SCHEMA), error));
    check_text(generator, options, "[true, null]");
    SUCCEEDS(mcandle_generate_options_set_regex(options, "q{3}", 4, error));
    check_text(generator, options, "qqq");
    SUCCEEDS(mcandle_generate_options_set_lark(options, LARK, strlen(LARK), error));
    check_text(generator, options, "xyz");
    mcandle_generate_options_free(options);
}

/* What a logits callback does, and what it saw. */
typedef struct {
    mcandle_generator *generator;
    uint32_t forbidden;
    bool result;
    size_t tokens;
    size_t calls;
    size_t freed;
} processor;

static bool on_logits(const uint32_t *tokens, size_t token_count, float *logits, size_t logit_count,
                      void *user_data) {
    processor *p = (processor *)user_data;
    CHECK(p->freed == 0 && tokens[0] < logit_count && logit_count == 6144);
    CHECK(p->calls == 0 || token_count == p->tokens + 1);
    p->tokens = token_count;
    p->calls++;
    logits[p->forbidden] = (float)-INFINITY;
    FAILS(mcandle_generator_truncate(p->generator, 0, error), MCANDLE_BUSY,
          "`generator` is in use");
    return p->result;
}

static void on_free(void *user_data) {
    processor *p = (processor *)user_data;
    p->freed++;
}

static void a_callback_changes_logits(const mcandle_model *model,
                                      mcandle_generate_options *options) {
    mcandle_generator *generator = NULL;
    mcandle_generation *generation = UNTOUCHED;
    processor first = {0}, second = {0}, third = {0}, none = {0};
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    first.generator = second.generator = third.generator = generator;
    first.forbidden = first_token(generator, options, MCANDLE_FINISH_LENGTH);
    first.result = true;
    SUCCEEDS(mcandle_generator_set_logits_processor(generator, on_logits, &first, on_free, error));
    CHECK(first_token(generator, options, MCANDLE_FINISH_LENGTH) != first.forbidden);
    CHECK(first.calls > 1 && first.freed == 0);

    /* Another one takes its place, and fails the generation. */
    SUCCEEDS(mcandle_generator_set_logits_processor(generator, on_logits, &second, on_free, error));
    CHECK(first.freed == 1 && second.freed == 0);
    /* FAILS calls twice, and each time it is the first token. */
    FAILS(mcandle_generator_generate(generator, prompt, strlen(prompt), options, NULL, NULL,
                                     &generation, (second.calls = 0, error)),
          MCANDLE_CANCELLED, "cancelled");
    CHECK((void *)generation == UNTOUCHED && second.calls == 1 && second.freed == 0);

    /* None takes its place, and what came with none is freed; so it is where the call fails. */
    SUCCEEDS(mcandle_generator_set_logits_processor(generator, NULL, &none, on_free, error));
    CHECK(second.freed == 1 && none.freed == 1);
    CHECK(first_token(generator, options, MCANDLE_FINISH_LENGTH) == first.forbidden);
    none.freed = 0;
    CHECK(mcandle_generator_set_logits_processor(NULL, on_logits, &none, on_free, NULL) ==
          MCANDLE_NULL_POINTER);
    CHECK(none.freed == 1 && none.calls == 0);

    /* The last one is freed with the generator; a destructor is not needed. */
    SUCCEEDS(mcandle_generator_set_logits_processor(generator, on_logits, &none, NULL, error));
    SUCCEEDS(mcandle_generator_set_logits_processor(generator, on_logits, &third, on_free, error));
    CHECK(third.freed == 0);
    mcandle_generator_free(generator);
    CHECK(first.freed == 1 && second.freed == 1 && third.freed == 1 && third.calls == 0);
    CHECK(none.freed == 1);
}

static void check_context(const mcandle_generator *generator, size_t length) {
    mcandle_tokens *context = NULL;
    SUCCEEDS(mcandle_generator_context(generator, &context, error));
    CHECK(mcandle_tokens_length(context) == length);
    mcandle_tokens_free(context);
}

static void generators_keep_what_they_read(const mcandle_model *model,
                                           mcandle_generate_options *options) {
    mcandle_generator *generator = NULL, *fork = NULL, *later = NULL;
    mcandle_generation *first, *again;
    mcandle_tokens *context = NULL;
    size_t prompt_tokens, count, read;
    SUCCEEDS(mcandle_generator_new_with_cache_type(model, MCANDLE_CACHE_INT8, &generator, error));
    first = generate(generator, options);
    prompt_tokens = mcandle_generation_prompt_tokens(first);
    mcandle_generation_tokens(first, &count);
    CHECK(mcandle_generation_cached_tokens(first) == 0 && count > 0);
    read = prompt_tokens + count - 1;

    /* A fork goes its own way, from the ids that were read. */
    SUCCEEDS(mcandle_generator_fork(generator, &fork, error));
    SUCCEEDS(mcandle_generator_truncate(generator, 1, error));
    check_context(generator, 1);
    SUCCEEDS(mcandle_generator_context(fork, &context, error));
    CHECK(mcandle_tokens_length(context) == read);
    SUCCEEDS(mcandle_generator_generate_from_ids(fork, mcandle_tokens_data(context), prompt_tokens,
                                                 options, NULL, NULL, &again, error));
    CHECK(mcandle_generation_cached_tokens(again) == prompt_tokens);
    CHECK(strcmp(mcandle_generation_text(first, NULL), mcandle_generation_text(again, NULL)) == 0);
    mcandle_generation_free(again);
    again = generate(generator, options);
    CHECK(mcandle_generation_cached_tokens(again) == 1);
    mcandle_generation_free(again);

    /* So does a generator that goes on from a file. */
    SUCCEEDS(mcandle_generator_save_session(fork, session, error));
    SUCCEEDS(mcandle_generator_new(model, &later, error));
    SUCCEEDS(mcandle_generator_load_session(later, session, error));
    check_context(later, read);
    mcandle_generator_free(later);

    /* A model is always right about itself. */
    SUCCEEDS(mcandle_generator_set_draft_model(fork, model, error));
    mcandle_generate_options_set_num_draft_tokens(options, 2);
    again = generate(fork, options);
    CHECK(mcandle_generation_drafted_tokens(again) > 0);
    CHECK(mcandle_generation_accepted_tokens(again) > 0);
    mcandle_generation_free(again);
    SUCCEEDS(mcandle_generator_set_draft_model(fork, NULL, error));
    again = generate(fork, options);
    CHECK(mcandle_generation_drafted_tokens(again) == 0);
    mcandle_generation_free(again);
    mcandle_generation_free(first);
    mcandle_tokens_free(context);
    mcandle_generator_free(fork);
    mcandle_generator_free(generator);
}

static double length_of(const mcandle_floats *vector) {
    const float *values = mcandle_floats_data(vector);
    double sum = 0;
    size_t i;
    for (i = 0; i < mcandle_floats_length(vector); i++) {
        sum += (double)values[i] * values[i];
    }
    return sqrt(sum);
}

static void texts_have_scores(mcandle_generator *generator, const mcandle_tokenizer *tokenizer) {
    mcandle_tokens *tokens = NULL;
    mcandle_floats *logits = NULL, *logprobs = NULL, *mean = NULL, *last = NULL;
    const uint32_t *ids;
    size_t count, scored = 0, i;
    double perplexity = 0, sum_nll = 0, nll = 0, highest = -INFINITY, total = 0, expected;
    SUCCEEDS(mcandle_tokenizer_encode(tokenizer, prompt, strlen(prompt), true, &tokens, error));
    ids = mcandle_tokens_data(tokens);
    count = mcandle_tokens_length(tokens);

    SUCCEEDS(mcandle_generator_logprobs(generator, ids, count, &logprobs, error));
    CHECK(mcandle_floats_length(logprobs) == count - 1);
    for (i = 0; i < count - 1; i++) {
        nll -= mcandle_floats_data(logprobs)[i];
    }
    SUCCEEDS(mcandle_generator_perplexity(generator, ids, count, 2048, 1024, &perplexity, &sum_nll,
                                          &scored, error));
    CHECK(scored == count - 1 && fabs(sum_nll - nll) < 1e-3);
    CHECK(fabs(perplexity / exp(nll / (double)scored) - 1) < 1e-3);
    SUCCEEDS(mcandle_generator_perplexity(generator, ids, 2, 2, 1, &perplexity, NULL, NULL, error));
    CHECK(fabs(perplexity / exp(-mcandle_floats_data(logprobs)[0]) - 1) < 1e-3);

    SUCCEEDS(mcandle_generator_next_logits(generator, ids, count - 1, &logits, error));
    CHECK(mcandle_floats_length(logits) == 6144);
    for (i = 0; i < 6144; i++) {
        highest = fmax(highest, mcandle_floats_data(logits)[i]);
    }
    for (i = 0; i < 6144; i++) {
        total += exp(mcandle_floats_data(logits)[i] - highest);
    }
    expected = mcandle_floats_data(logits)[ids[count - 1]] - highest - log(total);
    CHECK(fabs(mcandle_floats_data(logprobs)[count - 2] - expected) < 1e-2);

    SUCCEEDS(mcandle_generator_embed(generator, ids, count, MCANDLE_POOLING_MEAN, true, &mean,
                                     error));
    SUCCEEDS(mcandle_generator_embed(generator, ids, count, MCANDLE_POOLING_LAST, false, &last,
                                     error));
    CHECK(mcandle_floats_length(mean) == 256 && mcandle_floats_length(last) == 256);
    CHECK(fabs(length_of(mean) - 1) < 1e-3 && fabs(length_of(last) - 1) > 1e-2);
    mcandle_floats_free(mean);
    mcandle_floats_free(last);
    mcandle_floats_free(logits);
    mcandle_floats_free(logprobs);
    mcandle_tokens_free(tokens);
}

int main(int argc, char **argv) {
    mcandle_model *model = NULL;
    mcandle_tokenizer *tokenizer = NULL;
    mcandle_generator *generator = NULL;
    mcandle_generate_options *options = mcandle_generate_options_new();
    CHECK(argc == 3);
    prompt = argv[1];
    session = argv[2];
    mcandle_generate_options_set_max_tokens(options, 4);
    mcandle_generate_options_set_ignore_eos(options, true);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    SUCCEEDS(mcandle_model_tokenizer(model, &tokenizer, error));
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    options_are_those_of_json();
    tokens_come_with_their_likelihood(generator, options);
    if (!is_light()) {
        every_end_has_its_reason(generator, options);
        a_grammar_decides(generator);
    }
    a_callback_changes_logits(model, options);
    generators_keep_what_they_read(model, options);
    texts_have_scores(generator, tokenizer);
    mcandle_generate_options_free(options);
    mcandle_generator_free(generator);
    mcandle_tokenizer_free(tokenizer);
    mcandle_model_free(model);
    return 0;
}
