/* Eight threads share one model: they generate, cancel, swap adapters, run batches, train, tokenize and
 * measure, all at the same time. Made for ThreadSanitizer, which sees every access.
 *
 * Usage: threads ROWS ROUNDS
 */
#define _POSIX_C_SOURCE 200809L
#define MCANDLE_NO_NULLABILITY
#include "test.h"

#include <pthread.h>
#include <sched.h>

#define PROMPT "fn main", 7
#define ADAPTER "tests/fixtures/lora/nonzero_b"

enum { TOKENS = 3 };

static const char *path;
static long rounds;
static mcandle_model *model;
static mcandle_generate_options *options;
static mcandle_adapter *adapter;

/* What is used by one thread and cancelled by another; both must have left before it is freed. */
static mcandle_generator *cancelled_generator;
static mcandle_batch *cancelled_batch;
static mcandle_trainer *cancelled_trainer;

/* The tokens that the model gives with the adapter, found before any thread starts. */
static uint32_t expected[TOKENS];

static void generate(mcandle_generator *generator, mcandle_chunk_callback callback, uint32_t *ids) {
    mcandle_generation *generation = NULL;
    size_t count = 0;
    const uint32_t *found;
    SUCCEEDS(mcandle_generator_generate(generator, PROMPT, options, callback, NULL, &generation,
                                        error));
    found = mcandle_generation_tokens(generation, &count);
    if (mcandle_generation_finish_reason(generation) != MCANDLE_FINISH_CANCELLED) {
        CHECK(count == TOKENS);
        if (ids != NULL) {
            memcpy(ids, found, sizeof expected);
        }
    }
    mcandle_generation_free(generation);
}

/* Whatever others do to the model, a generator with an adapter of its own gives the same tokens. */
static void *generate_with_own_adapter(void *unused) {
    long i;
    (void)unused;
    for (i = 0; i < rounds; i++) {
        mcandle_generator *generator = NULL, *fork = NULL;
        uint32_t found[TOKENS] = {0}, again[TOKENS] = {0};
        SUCCEEDS(mcandle_generator_new(model, &generator, error));
        SUCCEEDS(mcandle_generator_set_adapter(generator, adapter, error));
        generate(generator, NULL, found);
        SUCCEEDS(mcandle_generator_fork(generator, &fork, error));
        mcandle_generator_free(generator);
        generate(fork, NULL, again);
        CHECK(memcmp(found, expected, sizeof expected) == 0);
        CHECK(memcmp(again, expected, sizeof expected) == 0);
        mcandle_generator_free(fork);
    }
    return NULL;
}

/* Generates with whatever adapters are active. */
static void *generate_with_active_adapters(void *unused) {
    mcandle_generator *generator = NULL;
    long i;
    (void)unused;
    SUCCEEDS(mcandle_generator_new_with_cache_type(model, MCANDLE_CACHE_INT8, &generator, error));
    for (i = 0; i < rounds; i++) {
        generate(generator, NULL, NULL);
    }
    mcandle_generator_free(generator);
    return NULL;
}

static bool give_way(const mcandle_chunk *chunk, void *user_data) {
    (void)chunk, (void)user_data;
    sched_yield();
    return true;
}

static void *generate_and_be_cancelled(void *unused) {
    long i;
    (void)unused;
    for (i = 0; i < rounds; i++) {
        generate(cancelled_generator, give_way, NULL);
    }
    return NULL;
}

static void *cancel(void *unused) {
    long i;
    (void)unused;
    for (i = 0; i < rounds * 20; i++) {
        mcandle_generator_cancel(cancelled_generator);
        mcandle_batch_cancel(cancelled_batch);
        if (i % 4 == 3) {
            mcandle_trainer_cancel(cancelled_trainer);
        }
        /* A call on an object that another thread uses is refused, or served between two of its. */
        if (i % 8 == 0) {
            size_t length = 0;
            mcandle_tokens *context = NULL;
            mcandle_status status = mcandle_batch_length(cancelled_batch, &length, NULL);
            CHECK(status == MCANDLE_OK || status == MCANDLE_BUSY);
            status = mcandle_generator_context(cancelled_generator, &context, NULL);
            CHECK(status == MCANDLE_OK || status == MCANDLE_BUSY);
            mcandle_tokens_free(context);
        }
        sched_yield();
    }
    return NULL;
}

static void *swap_adapters(void *unused) {
    static const char *const BOTH[] = {"first", "second"};
    long i;
    (void)unused;
    for (i = 0; i < rounds; i++) {
        mcandle_adapter *taken = NULL;
        mcandle_adapter_list *list = NULL;
        SUCCEEDS(mcandle_model_load_adapter(model, "first", ADAPTER, error));
        SUCCEEDS(mcandle_model_add_adapter(model, "second", adapter, error));
        SUCCEEDS(mcandle_model_activate_adapter(model, "first", error));
        SUCCEEDS(mcandle_model_set_adapter_weight(model, "first", 0.5, error));
        SUCCEEDS(mcandle_model_set_active_adapters(model, BOTH, 2, error));
        SUCCEEDS(mcandle_model_list_adapters(model, &list, error));
        CHECK(mcandle_adapter_list_length(list) == 2 && mcandle_adapter_list_is_active(list, 1));
        mcandle_adapter_list_free(list);
        SUCCEEDS(mcandle_model_get_adapter(model, "first", &taken, error));
        SUCCEEDS(mcandle_model_unload_adapter(model, "first", error));
        CHECK(mcandle_adapter_rank(taken) > 0);
        mcandle_adapter_free(taken);
        SUCCEEDS(mcandle_model_deactivate_adapter(model, "second", error));
        SUCCEEDS(mcandle_model_unload_adapter(model, "second", error));
    }
    return NULL;
}

static void *run_batches(void *unused) {
    long i;
    (void)unused;
    for (i = 0; i < rounds; i++) {
        mcandle_batch_results *results = NULL;
        size_t j, sequence = 0;
        for (j = 0; j < 3; j++) {
            mcandle_status status;
            do {
                status = mcandle_batch_push(cancelled_batch, PROMPT, options, &sequence, NULL);
            } while (status == MCANDLE_BUSY);
            CHECK(status == MCANDLE_OK);
        }
        while (mcandle_batch_run(cancelled_batch, NULL, NULL, &results, NULL) == MCANDLE_BUSY) {
        }
        CHECK(mcandle_batch_results_length(results) == 3);
        mcandle_batch_results_free(results);
    }
    return NULL;
}

/* Trains until all steps are done, however often it is cancelled. */
static void *train(void *unused) {
    mcandle_train_stop stop = MCANDLE_TRAIN_STOP_CANCELLED;
    mcandle_adapter *trained = NULL;
    (void)unused;
    while (stop == MCANDLE_TRAIN_STOP_CANCELLED) {
        mcandle_train_summary *summary = NULL;
        SUCCEEDS(mcandle_trainer_train(cancelled_trainer, NULL, NULL, &summary, error));
        stop = mcandle_train_summary_stop_reason(summary);
        CHECK(stop == MCANDLE_TRAIN_STOP_FINISHED || stop == MCANDLE_TRAIN_STOP_CANCELLED);
        mcandle_train_summary_free(summary);
    }
    SUCCEEDS(mcandle_trainer_adapter(cancelled_trainer, &trained, error));
    CHECK(mcandle_adapter_rank(trained) == 1);
    mcandle_adapter_free(trained);
    return NULL;
}

static void *tokenize_and_measure(void *unused) {
    mcandle_tokenizer *tokenizer = NULL;
    mcandle_generator *generator = NULL;
    long i;
    (void)unused;
    SUCCEEDS(mcandle_model_tokenizer(model, &tokenizer, error));
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    for (i = 0; i < rounds; i++) {
        mcandle_tokens *tokens = NULL;
        mcandle_string *text = NULL;
        mcandle_floats *floats = NULL;
        SUCCEEDS(mcandle_tokenizer_encode(tokenizer, PROMPT, false, &tokens, error));
        SUCCEEDS(mcandle_tokenizer_decode(tokenizer, mcandle_tokens_data(tokens),
                                          mcandle_tokens_length(tokens), false, &text, error));
        CHECK(strcmp(mcandle_string_data(text), "fn main") == 0);
        SUCCEEDS(mcandle_generator_next_logits(generator, mcandle_tokens_data(tokens),
                                               mcandle_tokens_length(tokens), &floats, error));
        CHECK(mcandle_floats_length(floats) == mcandle_model_vocab_size(model));
        CHECK(mcandle_model_load("missing", NULL, NULL, NULL) == MCANDLE_NULL_POINTER);
        mcandle_floats_free(floats);
        mcandle_string_free(text);
        mcandle_tokens_free(tokens);
    }
    mcandle_generator_free(generator);
    mcandle_tokenizer_free(tokenizer);
    return NULL;
}

static mcandle_trainer *make_trainer(const mcandle_dataset *rows) {
    mcandle_trainer *trainer = NULL;
    mcandle_train_options *settings = mcandle_train_options_new();
    mcandle_train_options_set_steps(settings, 2);
    mcandle_train_options_set_rank(settings, 1);
    mcandle_train_options_set_target_modules(settings, "q_proj");
    SUCCEEDS(mcandle_trainer_new(model, rows, NULL, settings, &trainer, error));
    mcandle_train_options_free(settings);
    return trainer;
}

int main(int argc, char **argv) {
    static void *(*const WORK[])(void *) = {
        generate_with_own_adapter, generate_with_active_adapters,
        generate_and_be_cancelled, cancel,
        swap_adapters,             run_batches,
        train,                     tokenize_and_measure,
    };
    enum { THREADS = sizeof WORK / sizeof WORK[0] };
    pthread_t threads[THREADS];
    mcandle_generator *alone = NULL;
    mcandle_dataset *rows = NULL;
    size_t i;
    CHECK(argc == 3 && THREADS == 8);
    path = argv[1];
    rounds = strtol(argv[2], NULL, 10);
    CHECK(rounds > 0);
    options = mcandle_generate_options_new();
    mcandle_generate_options_set_max_tokens(options, TOKENS);
    mcandle_generate_options_set_ignore_eos(options, true);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    SUCCEEDS(mcandle_adapter_load(ADAPTER, model, &adapter, error));
    SUCCEEDS(mcandle_dataset_from_jsonl(path, model, NULL, &rows, error));
    SUCCEEDS(mcandle_generator_new(model, &alone, error));
    SUCCEEDS(mcandle_generator_set_adapter(alone, adapter, error));
    generate(alone, NULL, expected);
    mcandle_generator_free(alone);
    SUCCEEDS(mcandle_generator_new(model, &cancelled_generator, error));
    SUCCEEDS(mcandle_batch_new(model, 2, &cancelled_batch, error));
    cancelled_trainer = make_trainer(rows);
    mcandle_dataset_free(rows);
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, WORK[i], NULL) == 0);
    }
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    mcandle_trainer_free(cancelled_trainer);
    mcandle_batch_free(cancelled_batch);
    mcandle_generator_free(cancelled_generator);
    mcandle_adapter_free(adapter);
    mcandle_model_free(model);
    mcandle_generate_options_free(options);
    return 0;
}
