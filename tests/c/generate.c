/* Streaming, stopping, sampling, and generators on several threads.
 *
 * Usage: generate PROMPT COUNT, which prints the ids of the greedy tokens, one a line.
 */
#define _POSIX_C_SOURCE 200809L
#include "test.h"

#include <pthread.h>

static const char *prompt;

typedef enum { STREAM, RETURN_FALSE, CANCEL, REENTER, SIGNAL } behaviour;

/* What a callback does, and what it saw. */
typedef struct {
    mcandle_generator *generator;
    behaviour does;
    char text[4096];
    size_t length;
    size_t chunks;
    /* For SIGNAL: told to another thread, once. */
    pthread_mutex_t mutex;
    pthread_cond_t told;
    bool started;
} stream;

static bool on_chunk(const mcandle_chunk *chunk, void *user_data) {
    stream *s = (stream *)user_data;
    size_t length = 0;
    const char *text = mcandle_chunk_text(chunk, &length);
    CHECK(text[length] == '\0' && mcandle_chunk_index(chunk) == s->chunks);
    if (s->length + length < sizeof s->text) {
        memcpy(s->text + s->length, text, length);
        s->length += length;
    }
    s->chunks++;
    switch (s->does) {
    case RETURN_FALSE:
        return s->chunks < 2;
    case CANCEL:
        mcandle_generator_cancel(s->generator);
        return true;
    case REENTER:
        FAILS(mcandle_generator_generate(s->generator, prompt, strlen(prompt), NULL, NULL, NULL,
                                         NULL, error),
              MCANDLE_BUSY, "`generator` is in use");
        FAILS(mcandle_generator_set_adapter(s->generator, NULL, error), MCANDLE_BUSY,
              "`generator` is in use");
        return false;
    case SIGNAL:
        pthread_mutex_lock(&s->mutex);
        s->started = true;
        pthread_cond_signal(&s->told);
        pthread_mutex_unlock(&s->mutex);
        return true;
    default:
        return true;
    }
}

static mcandle_generation *generate(mcandle_generator *generator, stream *s,
                                    const mcandle_generate_options *options) {
    mcandle_generation *generation = NULL;
    s->generator = generator;
    s->length = s->chunks = 0;
    SUCCEEDS(mcandle_generator_generate(generator, prompt, strlen(prompt), options, on_chunk, s,
                                        &generation, error));
    CHECK(mcandle_generation_prompt_tokens(generation) > 0);
    CHECK(mcandle_generation_time_to_first_token(generation) > 0);
    CHECK(mcandle_generation_tokens_per_second(generation) >= 0);
    return generation;
}

static bool same_tokens(const mcandle_generation *a, const mcandle_generation *b) {
    size_t a_count, b_count;
    const uint32_t *a_ids = mcandle_generation_tokens(a, &a_count);
    const uint32_t *b_ids = mcandle_generation_tokens(b, &b_count);
    return a_count == b_count && memcmp(a_ids, b_ids, a_count * sizeof *a_ids) == 0;
}

static void the_stream_is_the_text(mcandle_generator *generator,
                                   const mcandle_generate_options *options) {
    stream s = {0};
    mcandle_generation *generation = generate(generator, &s, options);
    size_t length, count, i;
    const char *text = mcandle_generation_text(generation, &length);
    const uint32_t *ids = mcandle_generation_tokens(generation, &count);
    CHECK(s.length == length && memcmp(s.text, text, length) == 0 && strlen(text) == length);
    CHECK(s.chunks == count && count > 0);
    CHECK(mcandle_generation_finish_reason(generation) != MCANDLE_FINISH_CANCELLED);
    for (i = 0; i < count; i++) {
        printf("%u\n", (unsigned)ids[i]);
    }
    mcandle_generation_free(generation);
}

static void a_callback_stops(mcandle_generator *generator, behaviour does, size_t chunks) {
    stream s = {0};
    mcandle_generation *generation;
    s.does = does;
    generation = generate(generator, &s, NULL);
    CHECK(s.chunks == chunks);
    CHECK(mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_CANCELLED);
    mcandle_generation_free(generation);
}

static void *cancel_when_started(void *user_data) {
    stream *s = (stream *)user_data;
    pthread_mutex_lock(&s->mutex);
    while (!s->started) {
        pthread_cond_wait(&s->told, &s->mutex);
    }
    pthread_mutex_unlock(&s->mutex);
    mcandle_generator_cancel(s->generator);
    return NULL;
}

static void another_thread_stops(mcandle_generator *generator, mcandle_generate_options *options) {
    stream s = {0};
    pthread_t thread;
    mcandle_generation *generation;
    s.does = SIGNAL;
    s.generator = generator;
    pthread_mutex_init(&s.mutex, NULL);
    pthread_cond_init(&s.told, NULL);
    mcandle_generate_options_set_max_tokens(options, 2000);
    mcandle_generate_options_set_ignore_eos(options, true);
    CHECK(pthread_create(&thread, NULL, cancel_when_started, &s) == 0);
    generation = generate(generator, &s, options);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_CANCELLED);
    CHECK(s.chunks < 2000);
    mcandle_generation_free(generation);
    pthread_cond_destroy(&s.told);
    pthread_mutex_destroy(&s.mutex);
    mcandle_generate_options_set_ignore_eos(options, false);
}

static void a_seed_decides(mcandle_generator *generator, mcandle_generate_options *options) {
    stream s = {0};
    mcandle_generation *first, *again, *other;
    mcandle_generate_options_set_max_tokens(options, 8);
    mcandle_generate_options_set_temperature(options, 1.5);
    mcandle_generate_options_set_top_k(options, 50);
    mcandle_generate_options_set_top_p(options, 0.95);
    mcandle_generate_options_set_prefill_chunk(options, 4);
    mcandle_generate_options_set_seed(options, 7);
    first = generate(generator, &s, options);
    again = generate(generator, &s, options);
    mcandle_generate_options_set_seed(options, 8);
    other = generate(generator, &s, options);
    CHECK(same_tokens(first, again) && !same_tokens(first, other));
    mcandle_generation_free(first);
    mcandle_generation_free(again);
    mcandle_generation_free(other);
    mcandle_generate_options_set_temperature(options, 0);
}

typedef struct {
    mcandle_generator *generator;
    const mcandle_generate_options *options;
    mcandle_generation *generation;
} job;

static void *run_job(void *user_data) {
    job *j = (job *)user_data;
    stream s = {0};
    j->generation = generate(j->generator, &s, j->options);
    return NULL;
}

static void threads_share_a_model(const mcandle_model *model,
                                  const mcandle_generate_options *options) {
    job jobs[2] = {{0}};
    pthread_t threads[2];
    int i;
    for (i = 0; i < 2; i++) {
        jobs[i].options = options;
        SUCCEEDS(mcandle_generator_new(model, &jobs[i].generator, error));
        CHECK(pthread_create(&threads[i], NULL, run_job, &jobs[i]) == 0);
    }
    for (i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(same_tokens(jobs[0].generation, jobs[1].generation));
    for (i = 0; i < 2; i++) {
        mcandle_generation_free(jobs[i].generation);
        mcandle_generator_free(jobs[i].generator);
    }
}

static void text_survives_the_tokenizer(const mcandle_tokenizer *tokenizer) {
    /* Characters of one to four bytes, and a NUL. */
    static const char TEXT[] = "fn f\xC3\xBC(\xE2\x82\xAC) {\n\t\xF0\x9F\x95\xAF\0}";
    mcandle_tokens *tokens = NULL;
    mcandle_string *text = NULL;
    SUCCEEDS(mcandle_tokenizer_encode(tokenizer, TEXT, sizeof TEXT - 1, true, &tokens, error));
    SUCCEEDS(mcandle_tokenizer_decode(tokenizer, mcandle_tokens_data(tokens),
                                      mcandle_tokens_length(tokens), true, &text, error));
    CHECK(mcandle_string_length(text) == sizeof TEXT - 1);
    CHECK(memcmp(mcandle_string_data(text), TEXT, sizeof TEXT) == 0);
    mcandle_string_free(text);
    mcandle_tokens_free(tokens);
}

int main(int argc, char **argv) {
    mcandle_model *model = NULL;
    mcandle_tokenizer *tokenizer = NULL;
    mcandle_generator *generator = NULL;
    mcandle_string *summary = NULL;
    mcandle_generate_options *options = mcandle_generate_options_new();
    CHECK(argc == 3);
    prompt = argv[1];
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    SUCCEEDS(mcandle_model_summary(model, &summary, error));
    CHECK(strlen(mcandle_string_data(summary)) == mcandle_string_length(summary));
    fprintf(stderr, "%s\n", mcandle_string_data(summary));
    mcandle_string_free(summary);
    CHECK(mcandle_model_parameter_count(model) > 1000000);
    CHECK(mcandle_model_context_length(model) == 2048);
    CHECK(mcandle_model_vocab_size(model) == 6144);
    CHECK(mcandle_model_device(model) != MCANDLE_DEVICE_AUTO);
    CHECK((mcandle_model_device(model) == MCANDLE_DEVICE_METAL) ==
          mcandle_device_is_available(MCANDLE_DEVICE_METAL));
    CHECK(mcandle_model_dtype(model) != MCANDLE_DTYPE_AUTO);
    SUCCEEDS(mcandle_model_tokenizer(model, &tokenizer, error));
    SUCCEEDS(mcandle_generator_new(model, &generator, error));

    mcandle_generate_options_set_max_tokens(options, strtoul(argv[2], NULL, 10));
    if (!is_light()) {
        threads_share_a_model(model, options);
    }
    /* Generators and tokenizers keep what they need of a model. */
    mcandle_model_free(model);
    the_stream_is_the_text(generator, options);
    a_callback_stops(generator, RETURN_FALSE, 2);
    a_callback_stops(generator, CANCEL, 1);
    a_callback_stops(generator, REENTER, 1);
    another_thread_stops(generator, options);
    if (!is_light()) {
        a_seed_decides(generator, options);
    }
    text_survives_the_tokenizer(tokenizer);
    mcandle_generator_free(generator);
    mcandle_tokenizer_free(tokenizer);
    mcandle_generate_options_free(options);
    return 0;
}
