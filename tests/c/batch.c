/* Many texts at once: each is what it is alone, ends on its own, and fails on its own.
 *
 * Usage: batch PROMPT
 */
#define _POSIX_C_SOURCE 200809L
#include "test.h"

#include <pthread.h>

enum { TEXTS = 3 };

static const char *prompts[TEXTS];

/* The chunks of each text, and what a callback does. */
typedef struct {
    mcandle_batch *batch;
    char text[TEXTS][8192];
    size_t chunks[TEXTS];
    /* The text that ends after its first token; TEXTS for none. */
    size_t ends;
    bool reenters;
    bool cancels;
    bool signals;
    pthread_mutex_t mutex;
    pthread_cond_t told;
    bool started;
} stream;

static bool on_chunk(const mcandle_chunk *chunk, void *user_data) {
    stream *s = (stream *)user_data;
    size_t length = 0, sequence = mcandle_chunk_sequence(chunk);
    const char *text = mcandle_chunk_text(chunk, &length);
    CHECK(sequence < TEXTS && mcandle_chunk_index(chunk) == s->chunks[sequence]);
    CHECK(strlen(s->text[sequence]) + length < sizeof s->text[sequence]);
    strcat(s->text[sequence], text);
    s->chunks[sequence]++;
    if (s->reenters) {
        size_t count = 0;
        FAILS(mcandle_batch_run(s->batch, NULL, NULL, NULL, error), MCANDLE_BUSY,
              "`batch` is in use");
        FAILS(mcandle_batch_step(s->batch, NULL, NULL, NULL, error), MCANDLE_BUSY,
              "`batch` is in use");
        FAILS(mcandle_batch_push(s->batch, "a", 1, NULL, NULL, error), MCANDLE_BUSY,
              "`batch` is in use");
        FAILS(mcandle_batch_length(s->batch, &count, error), MCANDLE_BUSY, "`batch` is in use");
        FAILS(mcandle_batch_cancel_sequence(s->batch, 0, NULL, error), MCANDLE_BUSY,
              "`batch` is in use");
        s->reenters = false;
    }
    if (s->cancels) {
        mcandle_batch_cancel(s->batch);
    }
    if (s->signals) {
        pthread_mutex_lock(&s->mutex);
        s->started = true;
        pthread_cond_signal(&s->told);
        pthread_mutex_unlock(&s->mutex);
    }
    return sequence != s->ends;
}

static size_t count_of(const mcandle_generation *generation) {
    size_t count = 0;
    mcandle_generation_tokens(generation, &count);
    return count;
}

/* The generation of a text, which did not fail. */
static const mcandle_generation *of(const mcandle_batch_results *results, size_t sequence) {
    size_t i;
    for (i = 0; i < mcandle_batch_results_length(results); i++) {
        if (mcandle_batch_results_sequence(results, i) == sequence) {
            CHECK(mcandle_batch_results_error(results, i) == NULL);
            CHECK(mcandle_batch_results_generation(results, i) != NULL);
            return mcandle_batch_results_generation(results, i);
        }
    }
    CHECK(!"a result is missing");
    return NULL;
}

static size_t length_of(const mcandle_batch *batch) {
    size_t length = SIZE_MAX;
    SUCCEEDS(mcandle_batch_length(batch, &length, error));
    return length;
}

static mcandle_batch *batch_of_all(const mcandle_model *model,
                                   mcandle_generate_options *const *options) {
    mcandle_batch *batch = NULL;
    size_t sequence = 0, i;
    SUCCEEDS(mcandle_batch_new(model, TEXTS - 1, &batch, error));
    SUCCEEDS(mcandle_batch_set_adapter(batch, NULL, error));
    for (i = 0; i < TEXTS; i++) {
        SUCCEEDS(mcandle_batch_push(batch, prompts[i], strlen(prompts[i]), options[i], &sequence,
                                    error));
        CHECK(sequence == i);
    }
    CHECK(length_of(batch) == TEXTS);
    return batch;
}

static void check_alone(const mcandle_model *model, mcandle_generate_options *const *options,
                        const mcandle_batch_results *results) {
    size_t i;
    for (i = 0; i < TEXTS; i++) {
        mcandle_generator *generator = NULL;
        mcandle_generation *alone = NULL;
        const mcandle_generation *found = of(results, i);
        SUCCEEDS(mcandle_generator_new(model, &generator, error));
        SUCCEEDS(mcandle_generator_generate(generator, prompts[i], strlen(prompts[i]), options[i],
                                            NULL, NULL, &alone, error));
        CHECK(count_of(alone) > 0 && count_of(alone) == count_of(found));
        CHECK(memcmp(mcandle_generation_tokens(alone, NULL), mcandle_generation_tokens(found, NULL),
                     count_of(alone) * sizeof(uint32_t)) == 0);
        CHECK(mcandle_generation_finish_reason(found) == MCANDLE_FINISH_LENGTH);
        mcandle_generation_free(alone);
        mcandle_generator_free(generator);
    }
}

static void each_text_is_what_it_is_alone(const mcandle_model *model,
                                          mcandle_generate_options *const *options) {
    mcandle_batch *batch = batch_of_all(model, options);
    mcandle_batch_results *results = NULL;
    stream s = {0};
    size_t i;
    s.batch = batch;
    s.ends = TEXTS;
    s.reenters = true;
    SUCCEEDS(mcandle_batch_run(batch, on_chunk, &s, &results, error));
    CHECK(!s.reenters && length_of(batch) == 0);
    CHECK(mcandle_batch_results_length(results) == TEXTS);
    for (i = 0; i < TEXTS; i++) {
        CHECK(strcmp(mcandle_generation_text(of(results, i), NULL), s.text[i]) == 0);
        CHECK(s.chunks[i] == count_of(of(results, i)));
    }
    CHECK(mcandle_batch_results_sequence(results, TEXTS) == 0);
    CHECK(mcandle_batch_results_generation(results, TEXTS) == NULL);
    CHECK(mcandle_batch_results_error(results, TEXTS) == NULL);
    if (!is_light()) {
        check_alone(model, options, results);
    }
    mcandle_batch_results_free(results);
    mcandle_batch_free(batch);
}

static bool refuse(const uint32_t *tokens, size_t token_count, float *logits, size_t logit_count,
                   void *user_data) {
    (void)tokens, (void)token_count, (void)logits, (void)logit_count, (void)user_data;
    return false;
}

static void count_up(void *user_data) {
    size_t *freed = (size_t *)user_data;
    ++*freed;
}

/* One text ends, one is cancelled, one fails; the others go on. Step by step. */
static void texts_end_on_their_own(const mcandle_model *model,
                                   mcandle_generate_options *const *options) {
    static const uint32_t IDS[] = {1, 2, 3};
    mcandle_batch *batch = batch_of_all(model, options);
    stream s = {0};
    size_t freed = 0, failed = 0, results_seen = 0, sequence, steps = 0, i;
    bool found = false;
    s.ends = 1;
    SUCCEEDS(mcandle_batch_cancel_sequence(batch, 2, &found, error));
    CHECK(found);
    SUCCEEDS(mcandle_batch_cancel_sequence(batch, 17, &found, error));
    CHECK(!found);
    while (length_of(batch) > 0) {
        mcandle_batch_results *results = NULL;
        SUCCEEDS(mcandle_batch_step(batch, on_chunk, &s, &results, error));
        if (steps++ == 0) {
            /* Others join; the last one with a callback of its own. */
            SUCCEEDS(mcandle_batch_push_ids_with(batch, IDS, 3, options[0], refuse, &freed,
                                                 count_up, &sequence, error));
            CHECK(sequence == 3 && freed == 0);
        }
        for (i = 0; i < mcandle_batch_results_length(results); i++) {
            const mcandle_generation *generation = mcandle_batch_results_generation(results, i);
            const mcandle_error *failure = mcandle_batch_results_error(results, i);
            CHECK((generation == NULL) != (failure == NULL));
            results_seen++;
            switch (mcandle_batch_results_sequence(results, i)) {
            case 0:
                CHECK(mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_LENGTH);
                break;
            case 1:
                CHECK(mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_CANCELLED);
                CHECK(count_of(generation) == 1);
                break;
            case 2:
                CHECK(mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_CANCELLED);
                CHECK(count_of(generation) == 0);
                break;
            default:
                CHECK(mcandle_error_status(failure) == MCANDLE_CANCELLED);
                CHECK(strstr(mcandle_error_message(failure), "cancelled") != NULL);
                failed++;
            }
        }
        mcandle_batch_results_free(results);
    }
    CHECK(results_seen == 4 && failed == 1 && freed == 1 && steps > 2);

    /* User data is freed with a text that never ran, and where the call fails. */
    SUCCEEDS(mcandle_batch_push_ids_with(batch, IDS, 3, NULL, refuse, &freed, count_up, NULL, error));
    CHECK(freed == 1);
    CHECK(mcandle_batch_push_ids_with(batch, IDS, 0, NULL, refuse, &freed, count_up, NULL, NULL) ==
          MCANDLE_INVALID_ARGUMENT);
    CHECK(freed == 2);
    SUCCEEDS(mcandle_batch_push_ids(batch, IDS, 3, NULL, &sequence, error));
    CHECK(sequence == 5);
    mcandle_batch_free(batch);
    CHECK(freed == 3);
}

static void *cancel_when_started(void *user_data) {
    stream *s = (stream *)user_data;
    pthread_mutex_lock(&s->mutex);
    while (!s->started) {
        pthread_cond_wait(&s->told, &s->mutex);
    }
    pthread_mutex_unlock(&s->mutex);
    mcandle_batch_cancel(s->batch);
    return NULL;
}

/* A callback stops all texts, then another thread does. */
static void all_are_stopped(const mcandle_model *model, mcandle_generate_options *const *options) {
    mcandle_batch *batch = batch_of_all(model, options);
    mcandle_batch_results *results = NULL;
    mcandle_generate_options *long_options = mcandle_generate_options_new();
    stream s = {0};
    pthread_t thread;
    size_t i;
    s.batch = batch;
    s.ends = TEXTS;
    s.cancels = true;
    SUCCEEDS(mcandle_batch_run(batch, on_chunk, &s, &results, error));
    CHECK(mcandle_batch_results_length(results) == TEXTS);
    for (i = 0; i < TEXTS; i++) {
        CHECK(mcandle_generation_finish_reason(of(results, i)) == MCANDLE_FINISH_CANCELLED);
        CHECK(count_of(of(results, i)) <= 1);
    }
    mcandle_batch_results_free(results);
    mcandle_batch_free(batch);

    memset(&s, 0, sizeof s);
    s.ends = TEXTS;
    s.signals = true;
    pthread_mutex_init(&s.mutex, NULL);
    pthread_cond_init(&s.told, NULL);
    mcandle_generate_options_set_max_tokens(long_options, 500);
    mcandle_generate_options_set_ignore_eos(long_options, true);
    SUCCEEDS(mcandle_batch_new(model, 1, &batch, error));
    s.batch = batch;
    SUCCEEDS(mcandle_batch_push(batch, prompts[0], strlen(prompts[0]), long_options, NULL, error));
    CHECK(pthread_create(&thread, NULL, cancel_when_started, &s) == 0);
    SUCCEEDS(mcandle_batch_run(batch, on_chunk, &s, &results, error));
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(mcandle_generation_finish_reason(of(results, 0)) == MCANDLE_FINISH_CANCELLED);
    CHECK(count_of(of(results, 0)) < 500);
    pthread_cond_destroy(&s.told);
    pthread_mutex_destroy(&s.mutex);
    mcandle_batch_results_free(results);
    mcandle_batch_free(batch);
    mcandle_generate_options_free(long_options);
}

int main(int argc, char **argv) {
    mcandle_model *model = NULL;
    mcandle_generate_options *options[TEXTS];
    size_t i;
    CHECK(argc == 2);
    prompts[0] = argv[1];
    prompts[1] = "x";
    prompts[2] = "struct Point {\n";
    for (i = 0; i < TEXTS; i++) {
        options[i] = mcandle_generate_options_new();
        mcandle_generate_options_set_max_tokens(options[i], 3 + i);
        mcandle_generate_options_set_ignore_eos(options[i], true);
    }
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    each_text_is_what_it_is_alone(model, options);
    texts_end_on_their_own(model, options);
    all_are_stopped(model, options);
    for (i = 0; i < TEXTS; i++) {
        mcandle_generate_options_free(options[i]);
    }
    mcandle_model_free(model);
    return 0;
}
