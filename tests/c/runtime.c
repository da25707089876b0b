/* What a program sets for the whole process: where messages go, how much memory and how many threads are
 * used; and what it asks for before its first text.
 */
#define _POSIX_C_SOURCE 200809L
#define MCANDLE_NO_NULLABILITY
#include "test.h"

#include <pthread.h>

/* Text that must not reach a log. */
#define PROMPT "the secret of the user"

/* What a log callback saw. */
typedef struct {
    pthread_mutex_t mutex;
    size_t messages;
    mcandle_log_level highest;
    bool loaded;
    bool uses_library;
    int freed;
} record;

static void prepare(record *r) {
    memset(r, 0, sizeof *r);
    pthread_mutex_init(&r->mutex, NULL);
}

static void on_log(mcandle_log_level level, const char *target, const char *message, void *user_data) {
    record *r = (record *)user_data;
    CHECK(level >= MCANDLE_LOG_ERROR && level <= MCANDLE_LOG_TRACE);
    CHECK(strncmp(target, "metal_candle", 12) == 0 && message[0] != '\0');
    CHECK(strstr(message, "secret") == NULL && strstr(message, "user") == NULL);
    pthread_mutex_lock(&r->mutex);
    r->messages++;
    r->highest = level > r->highest ? level : r->highest;
    if (strstr(message, "loaded a model") != NULL) {
        CHECK(level == MCANDLE_LOG_INFO && strcmp(target, "metal_candle::models::loader") == 0);
        CHECK(strstr(message, "path=" MODEL_DIR) != NULL && strstr(message, "format=") != NULL);
        CHECK(strstr(message, "bytes=25191424") != NULL && strstr(message, "seconds=") != NULL);
        r->loaded = true;
    }
    pthread_mutex_unlock(&r->mutex);
    if (r->uses_library) {
        mcandle_model *model = NULL;
        SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
        mcandle_model_free(model);
    }
}

static void on_free(void *user_data) {
    record *r = (record *)user_data;
    pthread_mutex_lock(&r->mutex);
    r->freed++;
    pthread_mutex_unlock(&r->mutex);
}

/* A callback that removes itself. */
static void once(mcandle_log_level level, const char *target, const char *message, void *user_data) {
    record *r = (record *)user_data;
    (void)level, (void)target, (void)message;
    r->messages++;
    SUCCEEDS(mcandle_set_log_callback(NULL, 0, NULL, NULL, error));
    CHECK(r->freed == 0);
}

static mcandle_model *load(void) {
    mcandle_model_options *options = mcandle_model_options_new();
    mcandle_model *model = NULL;
    mcandle_model_options_set_device(options, MCANDLE_DEVICE_CPU);
    mcandle_model_options_set_dtype(options, MCANDLE_DTYPE_F32);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, options, &model, error));
    mcandle_model_options_free(options);
    return model;
}

static mcandle_generation *generate(mcandle_model *model) {
    mcandle_generator *generator = NULL;
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_generation *generation = NULL;
    mcandle_generate_options_set_max_tokens(options, 4);
    mcandle_generate_options_set_ignore_eos(options, true);
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    SUCCEEDS(mcandle_generator_generate(generator, PROMPT, strlen(PROMPT), options, NULL, NULL,
                                        &generation, error));
    mcandle_generate_options_free(options);
    mcandle_generator_free(generator);
    return generation;
}

static void *generate_on_a_thread(void *of) {
    return generate((mcandle_model *)of);
}

static void messages_reach_the_callback(void) {
    record r;
    prepare(&r);
    FAILS(mcandle_set_log_callback(on_log, 99, &r, on_free, error), MCANDLE_INVALID_ARGUMENT, "`level` is 99",
          "MCANDLE_LOG_");
    CHECK(r.freed == 2);
    SUCCEEDS(mcandle_set_log_callback(on_log, MCANDLE_LOG_INFO, &r, on_free, error));
    mcandle_model_free(load());
    CHECK(r.loaded && r.highest == MCANDLE_LOG_INFO && r.freed == 2);

    SUCCEEDS(mcandle_set_log_callback(on_log, MCANDLE_LOG_ERROR, &r, on_free, error));
    CHECK(r.freed == 3);
    r.messages = 0;
    mcandle_model_free(load());
    CHECK(r.messages == 0);

    /* What the callback itself does is left out. */
    SUCCEEDS(mcandle_set_log_callback(on_log, MCANDLE_LOG_INFO, &r, on_free, error));
    r.uses_library = true;
    mcandle_model_free(load());
    CHECK(r.messages == 1);

    SUCCEEDS(mcandle_set_log_callback(NULL, 0, NULL, NULL, error));
    CHECK(r.freed == 5);
    mcandle_model_free(load());
    CHECK(r.messages == 1);

    prepare(&r);
    SUCCEEDS(mcandle_set_log_callback(once, MCANDLE_LOG_INFO, &r, on_free, error));
    mcandle_model_free(load());
    mcandle_model_free(load());
    CHECK(r.messages == 1 && r.freed == 1);
    /* Without a callback there is nothing to keep. */
    SUCCEEDS(mcandle_set_log_callback(NULL, 0, &r, on_free, error));
    CHECK(r.freed == 2);
}

/* Callbacks come and go while another thread logs; each one's user data is freed once. */
static void callbacks_change_while_others_run(mcandle_model *model) {
    enum { ROUNDS = 20 };
    static record records[ROUNDS];
    pthread_t thread;
    void *generation;
    int i;
    CHECK(pthread_create(&thread, NULL, generate_on_a_thread, model) == 0);
    for (i = 0; i < ROUNDS; i++) {
        prepare(&records[i]);
        SUCCEEDS(mcandle_set_log_callback(on_log, MCANDLE_LOG_TRACE, &records[i], on_free, error));
    }
    mcandle_generation_free(generate(model));
    CHECK(pthread_join(thread, &generation) == 0);
    mcandle_generation_free((mcandle_generation *)generation);
    SUCCEEDS(mcandle_set_log_callback(NULL, 0, NULL, NULL, error));
    for (i = 0; i < ROUNDS; i++) {
        CHECK(records[i].freed == 1);
        CHECK(i + 1 < ROUNDS || records[i].highest >= MCANDLE_LOG_DEBUG);
    }
}

static void memory_is_told(void) {
    mcandle_memory_info *info = NULL, *none = UNTOUCHED;
    SUCCEEDS(mcandle_memory_info_new(MCANDLE_DEVICE_CPU, &info, error));
    CHECK(mcandle_memory_info_process_current(info) > 1000000);
    CHECK(mcandle_memory_info_process_peak(info) >= mcandle_memory_info_process_current(info));
    CHECK(mcandle_memory_info_system_total(info) > mcandle_memory_info_process_current(info));
    CHECK(mcandle_memory_info_system_available(info) <= mcandle_memory_info_system_total(info));
    CHECK(mcandle_memory_info_device_total(info) == 0 && mcandle_memory_info_device_used(info) == 0);
    mcandle_memory_info_free(info);
    SUCCEEDS(mcandle_memory_info_new(MCANDLE_DEVICE_AUTO, &info, error));
    CHECK(mcandle_memory_info_device_total(info) >= mcandle_memory_info_device_used(info));
    mcandle_memory_info_free(info);
    FAILS(mcandle_memory_info_new(99, &none, error), MCANDLE_INVALID_ARGUMENT, "`device` is 99");
    FAILS(mcandle_memory_info_new(MCANDLE_DEVICE_CPU, NULL, error), MCANDLE_NULL_POINTER, "`info`");
    CHECK((void *)none == UNTOUCHED);
    CHECK(mcandle_memory_info_process_current(NULL) == 0 && mcandle_memory_info_process_peak(NULL) == 0);
    CHECK(mcandle_memory_info_system_total(NULL) == 0 && mcandle_memory_info_system_available(NULL) == 0);
    CHECK(mcandle_memory_info_device_total(NULL) == 0 && mcandle_memory_info_device_used(NULL) == 0);
    mcandle_memory_info_free(NULL);
}

/* The weights take 25,191,424 bytes in 32 bits. */
static void a_model_keeps_to_its_budget(void) {
    mcandle_model_options *options = mcandle_model_options_new();
    mcandle_model *model = UNTOUCHED;
    mcandle_model_options_set_device(options, MCANDLE_DEVICE_CPU);
    mcandle_model_options_set_dtype(options, MCANDLE_DTYPE_F32);
    mcandle_model_options_set_memory_budget(options, 25191423);
    FAILS(mcandle_model_load(MODEL_DIR, options, &model, error), MCANDLE_OUT_OF_MEMORY, "25191424 bytes",
          "the budget is 25191423", "quantization");
    CHECK((void *)model == UNTOUCHED);
    mcandle_model_options_set_quantization(options, 4, 64);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, options, &model, error));
    mcandle_model_free(model);
    mcandle_model_options_set_quantization(options, 0, 0);
    mcandle_model_options_set_memory_budget(options, 25191424);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, options, &model, error));
    mcandle_model_free(model);
    mcandle_model_options_set_memory_budget(options, 0);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, options, &model, error));
    mcandle_model_free(model);
    mcandle_model_options_set_memory_budget(NULL, 1);
    mcandle_model_options_free(options);
}

static void a_context_keeps_to_its_budget(const mcandle_model *model) {
    static uint32_t ids[300];
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_generator *generator = NULL;
    mcandle_generation *generation = NULL;
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    mcandle_generate_options_set_max_tokens(options, 1);
    mcandle_generate_options_set_max_kv_bytes(options, 1000);
    FAILS(mcandle_generator_generate_from_ids(generator, ids, 1, options, NULL, NULL, &generation, error),
          MCANDLE_OUT_OF_MEMORY, "the context of 2 tokens", "the budget is 1000");
    /* Room for 256 tokens, and not for 512. */
    mcandle_generate_options_set_max_kv_bytes(options, 3000000);
    FAILS(mcandle_generator_generate_from_ids(generator, ids, 300, options, NULL, NULL, &generation, error),
          MCANDLE_OUT_OF_MEMORY, "the context of 301 tokens", "the budget is 3000000", "shorter prompt");
    CHECK(generation == NULL);
    SUCCEEDS(mcandle_generator_generate_from_ids(generator, ids, 8, options, NULL, NULL, &generation,
                                                 error));
    mcandle_generation_free(generation);
    mcandle_generate_options_set_max_kv_bytes(NULL, 1);
    mcandle_generate_options_free(options);
    mcandle_generator_free(generator);
}

static void threads_can_be_set(mcandle_model *model) {
    size_t by_default = mcandle_thread_count();
    mcandle_generation *one, *two;
    CHECK(by_default >= 1);
    SUCCEEDS(mcandle_set_thread_count(1, error));
    CHECK(mcandle_thread_count() == 1);
    one = generate(model);
    SUCCEEDS(mcandle_set_thread_count(2, error));
    CHECK(mcandle_thread_count() == 2);
    two = generate(model);
    CHECK(memcmp(mcandle_generation_tokens(one, NULL), mcandle_generation_tokens(two, NULL),
                 4 * sizeof(uint32_t)) == 0);
    FAILS(mcandle_set_thread_count(1025, error), MCANDLE_INVALID_ARGUMENT, "1025", "1024");
    CHECK(mcandle_thread_count() == 2);
    SUCCEEDS(mcandle_set_thread_count(0, error));
    CHECK(mcandle_thread_count() == by_default);
    mcandle_generation_free(one);
    mcandle_generation_free(two);
}

int main(void) {
    mcandle_model *model = load();
    messages_reach_the_callback();
    callbacks_change_while_others_run(model);
    memory_is_told();
    a_model_keeps_to_its_budget();
    a_context_keeps_to_its_budget(model);
    SUCCEEDS(mcandle_model_warm_up(model, error));
    FAILS(mcandle_model_warm_up(NULL, error), MCANDLE_NULL_POINTER, "`model`");
    threads_can_be_set(model);
    mcandle_model_free(model);
    return 0;
}
