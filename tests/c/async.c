/* Loading, generating and training on threads of the library.
 *
 * Usage: async ROWS, a file to train on.
 */
#define _POSIX_C_SOURCE 200809L
#define MCANDLE_NO_NULLABILITY
#include "test.h"

#include <pthread.h>

static const char PROMPT[] = "fn main() {\n    let x = ";
static const char *rows_path;
static mcandle_model *model;

/* What callbacks saw; a completion is told under the mutex. */
typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t told;
    pthread_t thread;
    mcandle_generator *generator;
    void *result;
    mcandle_error *error;
    int completions;
    size_t calls;
    /* After so many calls a callback stops; 0 is never. */
    size_t stop_after;
    int runs_left;
} outcome;

static void prepare(outcome *o) {
    memset(o, 0, sizeof *o);
    pthread_mutex_init(&o->mutex, NULL);
    pthread_cond_init(&o->told, NULL);
}

static void complete(void *result, mcandle_error *error, outcome *o) {
    pthread_mutex_lock(&o->mutex);
    CHECK((result == NULL) != (error == NULL));
    o->thread = pthread_self();
    o->result = result;
    o->error = error;
    o->completions++;
    pthread_cond_signal(&o->told);
    pthread_mutex_unlock(&o->mutex);
}

static void *wait_for(outcome *o) {
    pthread_mutex_lock(&o->mutex);
    while (o->completions == 0) {
        pthread_cond_wait(&o->told, &o->mutex);
    }
    pthread_mutex_unlock(&o->mutex);
    CHECK(o->completions == 1 && !pthread_equal(o->thread, pthread_self()));
    pthread_mutex_destroy(&o->mutex);
    pthread_cond_destroy(&o->told);
    return o->result;
}

static void wait_for_failure(outcome *o, mcandle_status status, const char *part) {
    CHECK(wait_for(o) == NULL);
    if (mcandle_error_status(o->error) != status ||
        strstr(mcandle_error_message(o->error), part) == NULL) {
        fprintf(stderr, "not %s: %s\n", part, mcandle_error_message(o->error));
        exit(1);
    }
    mcandle_error_free(o->error);
}

static void on_model(mcandle_model *loaded, mcandle_error *error, void *user_data) {
    complete(loaded, error, (outcome *)user_data);
}

static void on_generation(mcandle_generation *generation, mcandle_error *error, void *user_data) {
    complete(generation, error, (outcome *)user_data);
}

static void on_results(mcandle_batch_results *results, mcandle_error *error, void *user_data) {
    complete(results, error, (outcome *)user_data);
}

static void on_summary(mcandle_train_summary *summary, mcandle_error *error, void *user_data) {
    complete(summary, error, (outcome *)user_data);
}

static bool on_progress(uint64_t loaded, uint64_t total, void *user_data) {
    outcome *o = (outcome *)user_data;
    CHECK(loaded <= total);
    return ++o->calls != o->stop_after;
}

static bool on_chunk(const mcandle_chunk *chunk, void *user_data) {
    outcome *o = (outcome *)user_data;
    CHECK(mcandle_chunk_index(chunk) <= o->calls);
    return ++o->calls != o->stop_after;
}

static bool on_event(const mcandle_train_event *event, void *user_data) {
    outcome *o = (outcome *)user_data;
    CHECK(mcandle_train_event_json(event)[0] == '{');
    return ++o->calls != o->stop_after;
}

/* Starts to load; what was given is not there any more when the call returns. */
static void load(const char *path, outcome *o) {
    char copy[64];
    mcandle_model_options *options = mcandle_model_options_new();
    CHECK(strlen(path) < sizeof copy);
    strcpy(copy, path);
    mcandle_model_options_set_progress(options, on_progress, o);
    SUCCEEDS(mcandle_model_load_async(copy, options, on_model, o, error));
    memset(copy, 'x', sizeof copy - 1);
    mcandle_model_options_free(options);
}

static void models_load(void) {
    outcome o;
    prepare(&o);
    load(MODEL_DIR, &o);
    model = (mcandle_model *)wait_for(&o);
    CHECK(o.calls > 2 && mcandle_model_parameter_count(model) == 6297856);
    prepare(&o);
    o.stop_after = 2;
    load(MODEL_DIR, &o);
    wait_for_failure(&o, MCANDLE_CANCELLED, "cancelled");
    CHECK(o.calls == 2);
    prepare(&o);
    load("no/such/model", &o);
    wait_for_failure(&o, MCANDLE_NOT_FOUND, "no/such/model");

    prepare(&o);
    FAILS(mcandle_model_load_async(NULL, NULL, on_model, &o, error), MCANDLE_NULL_POINTER, "`path`");
    FAILS(mcandle_model_load_async("\xFF", NULL, on_model, &o, error), MCANDLE_INVALID_UTF8, "`path`");
    FAILS(mcandle_model_load_async(MODEL_DIR, NULL, NULL, &o, error), MCANDLE_NULL_POINTER,
          "`completion`");
    CHECK(o.completions == 0);
    SUCCEEDS(mcandle_model_load_async(MODEL_DIR, NULL, on_model, &o, error));
    mcandle_model_free((mcandle_model *)wait_for(&o));
}

/* Options of which only a cancelled generation does not reach the end. */
static mcandle_generate_options *tokens(size_t count) {
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_generate_options_set_max_tokens(options, count);
    mcandle_generate_options_set_ignore_eos(options, true);
    return options;
}

static mcandle_generator *new_generator(void) {
    mcandle_generator *generator = NULL;
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    return generator;
}

/* Starts a generation; what was given is not there any more when the call returns. */
static void generate(mcandle_generator *generator, size_t count, outcome *o) {
    char copy[sizeof PROMPT];
    mcandle_generate_options *options = tokens(count);
    memcpy(copy, PROMPT, sizeof PROMPT);
    SUCCEEDS(mcandle_generator_generate_async(generator, copy, strlen(PROMPT), options, on_chunk,
                                              on_generation, o, error));
    memset(copy, 'x', sizeof copy - 1);
    mcandle_generate_options_free(options);
}

static size_t token_count(const mcandle_generation *generation) {
    size_t count = 0;
    mcandle_generation_tokens(generation, &count);
    return count;
}

/* Frees both. */
static void expect_same(mcandle_generation *a, mcandle_generation *b) {
    size_t count = token_count(a);
    CHECK(count > 0 && count == token_count(b));
    CHECK(memcmp(mcandle_generation_tokens(a, NULL), mcandle_generation_tokens(b, NULL),
                 count * sizeof(uint32_t)) == 0);
    mcandle_generation_free(a);
    mcandle_generation_free(b);
}

static void expect_cancelled(mcandle_generation *generation, size_t most) {
    CHECK(mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_CANCELLED);
    CHECK(token_count(generation) <= most);
    mcandle_generation_free(generation);
}

static void the_tokens_are_those_of_the_blocking_call(void) {
    static const char MESSAGES[] = "[{\"role\": \"user\", \"content\": \"hi\"}]";
    static const uint32_t IDS[] = {5, 17, 42};
    static const uint32_t OUTSIDE[] = {5, UINT32_MAX};
    mcandle_generator *generator = new_generator();
    mcandle_generate_options *options = tokens(6);
    mcandle_generation *expected = NULL;
    outcome o;

    SUCCEEDS(mcandle_generator_generate(generator, PROMPT, strlen(PROMPT), options, NULL, NULL,
                                        &expected, error));
    prepare(&o);
    generate(generator, 6, &o);
    expect_same((mcandle_generation *)wait_for(&o), expected);
    CHECK(o.calls == 6);

    SUCCEEDS(mcandle_generator_generate_from_ids(generator, IDS, 3, options, NULL, NULL, &expected,
                                                 error));
    prepare(&o);
    SUCCEEDS(mcandle_generator_generate_from_ids_async(generator, IDS, 3, options, NULL,
                                                       on_generation, &o, error));
    expect_same((mcandle_generation *)wait_for(&o), expected);

    SUCCEEDS(mcandle_generator_complete(generator, "fn", 2, "}", 1, NULL, options, NULL, NULL,
                                        &expected, error));
    prepare(&o);
    SUCCEEDS(mcandle_generator_complete_async(generator, "fn", 2, "}", 1, NULL, options, NULL,
                                              on_generation, &o, error));
    expect_same((mcandle_generation *)wait_for(&o), expected);

    SUCCEEDS(mcandle_generator_chat(generator, MESSAGES, strlen(MESSAGES), NULL, 0, options, NULL, NULL,
                                    &expected, error));
    prepare(&o);
    SUCCEEDS(mcandle_generator_chat_async(generator, MESSAGES, strlen(MESSAGES), NULL, 0, options, NULL,
                                          on_generation, &o, error));
    expect_same((mcandle_generation *)wait_for(&o), expected);

    prepare(&o);
    SUCCEEDS(mcandle_generator_generate_from_ids_async(generator, OUTSIDE, 2, NULL, NULL, on_generation,
                                                       &o, error));
    wait_for_failure(&o, MCANDLE_INVALID_ARGUMENT, "4294967295");
    mcandle_generate_options_free(options);
    mcandle_generator_free(generator);
}

/* Checks that a call fails at once, because of an argument. */
#define WRONG(status, name, call) FAILS(call, status, "`" name "`")

/* No completion is called by what fails at once. */
static void no_completion(mcandle_generation *generation, mcandle_error *error, void *user_data) {
    (void)generation, (void)error, (void)user_data;
    CHECK(false);
}

static void wrong_texts_and_ids_start_nothing(mcandle_generator *generator) {
    static const uint32_t IDS[] = {5};
    WRONG(MCANDLE_NULL_POINTER, "generator",
          mcandle_generator_generate_async(NULL, "a", 1, NULL, NULL, no_completion, NULL, error));
    WRONG(MCANDLE_NULL_POINTER, "prompt",
          mcandle_generator_generate_async(generator, NULL, 1, NULL, NULL, no_completion, NULL, error));
    WRONG(MCANDLE_INVALID_UTF8, "prompt",
          mcandle_generator_generate_async(generator, "\xFF", 1, NULL, NULL, no_completion, NULL, error));
    WRONG(MCANDLE_INVALID_ARGUMENT, "prompt",
          mcandle_generator_generate_async(generator, "a", SIZE_MAX, NULL, NULL, no_completion, NULL,
                                           error));
    WRONG(MCANDLE_NULL_POINTER, "completion",
          mcandle_generator_generate_async(generator, "a", 1, NULL, NULL, NULL, NULL, error));

    WRONG(MCANDLE_NULL_POINTER, "generator",
          mcandle_generator_generate_from_ids_async(NULL, IDS, 1, NULL, NULL, no_completion, NULL, error));
    WRONG(MCANDLE_NULL_POINTER, "ids",
          mcandle_generator_generate_from_ids_async(generator, NULL, 1, NULL, NULL, no_completion, NULL,
                                                    error));
    WRONG(MCANDLE_INVALID_ARGUMENT, "ids",
          mcandle_generator_generate_from_ids_async(generator, IDS, SIZE_MAX, NULL, NULL, no_completion,
                                                    NULL, error));
    WRONG(MCANDLE_NULL_POINTER, "completion",
          mcandle_generator_generate_from_ids_async(generator, IDS, 1, NULL, NULL, NULL, NULL, error));
}

static void wrong_conversations_start_nothing(mcandle_generator *generator) {
    WRONG(MCANDLE_NULL_POINTER, "generator",
          mcandle_generator_chat_async(NULL, "[]", 2, NULL, 0, NULL, NULL, no_completion, NULL, error));
    WRONG(MCANDLE_NULL_POINTER, "messages",
          mcandle_generator_chat_async(generator, NULL, 1, NULL, 0, NULL, NULL, no_completion, NULL,
                                       error));
    WRONG(MCANDLE_INVALID_ARGUMENT, "messages",
          mcandle_generator_chat_async(generator, NULL, 0, NULL, 0, NULL, NULL, no_completion, NULL,
                                       error));
    WRONG(MCANDLE_INVALID_UTF8, "messages",
          mcandle_generator_chat_async(generator, "\xFF", 1, NULL, 0, NULL, NULL, no_completion, NULL,
                                       error));
    WRONG(MCANDLE_INVALID_ARGUMENT, "messages",
          mcandle_generator_chat_async(generator, "[]", SIZE_MAX, NULL, 0, NULL, NULL, no_completion, NULL,
                                       error));
    WRONG(MCANDLE_INVALID_UTF8, "chat_options",
          mcandle_generator_chat_async(generator, "[]", 2, "\xFF", 1, NULL, NULL, no_completion, NULL,
                                       error));
    WRONG(MCANDLE_INVALID_ARGUMENT, "chat_options",
          mcandle_generator_chat_async(generator, "[]", 2, "{}", SIZE_MAX, NULL, NULL, no_completion, NULL,
                                       error));
    WRONG(MCANDLE_NULL_POINTER, "completion",
          mcandle_generator_chat_async(generator, "[]", 2, NULL, 0, NULL, NULL, NULL, NULL, error));
}

static void wrong_middles_start_nothing(mcandle_generator *generator) {
    WRONG(MCANDLE_NULL_POINTER, "generator",
          mcandle_generator_complete_async(NULL, "a", 1, "b", 1, NULL, NULL, NULL, no_completion, NULL,
                                           error));
    WRONG(MCANDLE_NULL_POINTER, "prefix",
          mcandle_generator_complete_async(generator, NULL, 1, "b", 1, NULL, NULL, NULL, no_completion,
                                           NULL, error));
    WRONG(MCANDLE_INVALID_UTF8, "prefix",
          mcandle_generator_complete_async(generator, "\xFF", 1, "b", 1, NULL, NULL, NULL, no_completion,
                                           NULL, error));
    WRONG(MCANDLE_INVALID_ARGUMENT, "prefix",
          mcandle_generator_complete_async(generator, "a", SIZE_MAX, "b", 1, NULL, NULL, NULL,
                                           no_completion, NULL, error));
    WRONG(MCANDLE_NULL_POINTER, "suffix",
          mcandle_generator_complete_async(generator, "a", 1, NULL, 1, NULL, NULL, NULL, no_completion,
                                           NULL, error));
    WRONG(MCANDLE_INVALID_UTF8, "suffix",
          mcandle_generator_complete_async(generator, "a", 1, "\xFF", 1, NULL, NULL, NULL, no_completion,
                                           NULL, error));
    WRONG(MCANDLE_INVALID_ARGUMENT, "suffix",
          mcandle_generator_complete_async(generator, "a", 1, "b", SIZE_MAX, NULL, NULL, NULL,
                                           no_completion, NULL, error));
    WRONG(MCANDLE_NULL_POINTER, "completion",
          mcandle_generator_complete_async(generator, NULL, 0, NULL, 0, NULL, NULL, NULL, NULL, NULL,
                                           error));
}

/* What only the model can tell is told to the completion. */
static void empty_prompts_fail_later(mcandle_generator *generator) {
    outcome o;
    prepare(&o);
    SUCCEEDS(mcandle_generator_generate_async(generator, NULL, 0, NULL, NULL, on_generation, &o, error));
    wait_for_failure(&o, MCANDLE_INVALID_ARGUMENT, "`prompt` is empty");
    prepare(&o);
    SUCCEEDS(mcandle_generator_generate_from_ids_async(generator, NULL, 0, NULL, NULL, on_generation, &o,
                                                       error));
    wait_for_failure(&o, MCANDLE_INVALID_ARGUMENT, "`prompt` is empty");
}

static void what_is_wrong_at_once_starts_nothing(void) {
    mcandle_generator *generator = new_generator();
    outcome o;
    wrong_texts_and_ids_start_nothing(generator);
    wrong_conversations_start_nothing(generator);
    wrong_middles_start_nothing(generator);
    empty_prompts_fail_later(generator);
    prepare(&o);
    generate(generator, 1, &o);
    mcandle_generation_free((mcandle_generation *)wait_for(&o));
    mcandle_generator_free(generator);
}

static void a_generator_is_busy_and_can_be_stopped(void) {
    mcandle_generator *generator = new_generator();
    outcome o;
    prepare(&o);
    generate(generator, 2000, &o);
    FAILS(mcandle_generator_generate(generator, "a", 1, NULL, NULL, NULL, NULL, error), MCANDLE_BUSY,
          "`generator` is in use");
    FAILS(mcandle_generator_generate_async(generator, "a", 1, NULL, NULL, on_generation, &o, error),
          MCANDLE_BUSY, "`generator` is in use");
    mcandle_generator_cancel(generator);
    expect_cancelled((mcandle_generation *)wait_for(&o), 1999);

    /* However early the request comes, it is for what was started. */
    prepare(&o);
    generate(generator, 2000, &o);
    mcandle_generator_cancel(generator);
    expect_cancelled((mcandle_generation *)wait_for(&o), 1999);

    prepare(&o);
    o.stop_after = 2;
    generate(generator, 2000, &o);
    expect_cancelled((mcandle_generation *)wait_for(&o), 2);
    CHECK(o.calls == 2);

    /* What stopped one generation does not stop the next. */
    prepare(&o);
    mcandle_generator_cancel(generator);
    generate(generator, 2, &o);
    CHECK(token_count((mcandle_generation *)wait_for(&o)) == 2);
    mcandle_generation_free((mcandle_generation *)o.result);

    /* Freeing stops it as well, and does not wait. */
    prepare(&o);
    generate(generator, 2000, &o);
    mcandle_generator_free(generator);
    expect_cancelled((mcandle_generation *)wait_for(&o), 1999);
}

/* Goes on with the generator in its completion, and frees it in the last one. */
static void go_on(mcandle_generation *generation, mcandle_error *error, void *user_data) {
    outcome *o = (outcome *)user_data;
    CHECK(error == NULL && token_count(generation) == 2);
    if (--o->runs_left == 0) {
        mcandle_generator_free(o->generator);
        complete(generation, NULL, o);
    } else {
        mcandle_generate_options *options = tokens(2);
        mcandle_generation_free(generation);
        SUCCEEDS(mcandle_generator_generate_async(o->generator, PROMPT, strlen(PROMPT), options, NULL,
                                                  go_on, o, error));
        mcandle_generate_options_free(options);
    }
}

static void a_completion_uses_the_generator(void) {
    mcandle_generate_options *options = tokens(2);
    outcome o;
    prepare(&o);
    o.generator = new_generator();
    o.runs_left = 3;
    SUCCEEDS(mcandle_generator_generate_async(o.generator, PROMPT, strlen(PROMPT), options, NULL, go_on,
                                              &o, error));
    mcandle_generation_free((mcandle_generation *)wait_for(&o));
    CHECK(o.runs_left == 0);
    mcandle_generate_options_free(options);
}

static mcandle_batch *new_batch(size_t count) {
    mcandle_generate_options *options = tokens(count);
    mcandle_batch *batch = NULL;
    int i;
    SUCCEEDS(mcandle_batch_new(model, 2, &batch, error));
    for (i = 0; i < 3; i++) {
        SUCCEEDS(mcandle_batch_push(batch, PROMPT, strlen(PROMPT), options, NULL, error));
    }
    mcandle_generate_options_free(options);
    return batch;
}

static void batches_run(void) {
    mcandle_batch *batch = new_batch(2);
    outcome o;
    prepare(&o);
    FAILS(mcandle_batch_run_async(NULL, NULL, on_results, &o, error), MCANDLE_NULL_POINTER, "`batch`");
    FAILS(mcandle_batch_run_async(batch, NULL, NULL, &o, error), MCANDLE_NULL_POINTER, "`completion`");
    SUCCEEDS(mcandle_batch_run_async(batch, NULL, on_results, &o, error));
    CHECK(mcandle_batch_results_length((mcandle_batch_results *)wait_for(&o)) == 3);
    mcandle_batch_results_free((mcandle_batch_results *)o.result);
    mcandle_batch_free(batch);

    prepare(&o);
    batch = new_batch(2000);
    SUCCEEDS(mcandle_batch_run_async(batch, NULL, on_results, &o, error));
    FAILS(mcandle_batch_run_async(batch, NULL, on_results, &o, error), MCANDLE_BUSY, "`batch` is in use");
    mcandle_batch_cancel(batch);
    CHECK(mcandle_batch_results_length((mcandle_batch_results *)wait_for(&o)) == 3);
    mcandle_batch_results_free((mcandle_batch_results *)o.result);
    mcandle_batch_free(batch);

    prepare(&o);
    batch = new_batch(2000);
    SUCCEEDS(mcandle_batch_run_async(batch, NULL, on_results, &o, error));
    mcandle_batch_free(batch);
    CHECK(mcandle_batch_results_length((mcandle_batch_results *)wait_for(&o)) == 3);
    mcandle_batch_results_free((mcandle_batch_results *)o.result);
}

static mcandle_trainer *new_trainer(size_t steps) {
    mcandle_train_options *options = mcandle_train_options_new();
    mcandle_dataset *rows = NULL;
    mcandle_trainer *trainer = NULL;
    mcandle_train_options_set_steps(options, steps);
    mcandle_train_options_set_batch_size(options, 1);
    SUCCEEDS(mcandle_dataset_from_jsonl(rows_path, model, NULL, &rows, error));
    SUCCEEDS(mcandle_trainer_new(model, rows, NULL, options, &trainer, error));
    mcandle_dataset_free(rows);
    mcandle_train_options_free(options);
    return trainer;
}

static void expect_steps(mcandle_train_summary *summary, size_t least, size_t most) {
    size_t steps = mcandle_train_summary_steps(summary);
    CHECK(steps >= least && steps <= most);
    CHECK(mcandle_train_summary_cancelled(summary) == (least == 0));
    mcandle_train_summary_free(summary);
}

static void trainers_train(void) {
    mcandle_trainer *trainer = new_trainer(2);
    mcandle_adapter *adapter = NULL;
    outcome o;
    prepare(&o);
    FAILS(mcandle_trainer_train_async(NULL, NULL, on_summary, &o, error), MCANDLE_NULL_POINTER,
          "`trainer`");
    FAILS(mcandle_trainer_train_async(trainer, NULL, NULL, &o, error), MCANDLE_NULL_POINTER,
          "`completion`");
    SUCCEEDS(mcandle_trainer_train_async(trainer, on_event, on_summary, &o, error));
    expect_steps((mcandle_train_summary *)wait_for(&o), 2, 2);
    /* A start, two steps, an end. */
    CHECK(o.calls == 4);
    SUCCEEDS(mcandle_trainer_adapter(trainer, &adapter, error));
    mcandle_adapter_free(adapter);
    mcandle_trainer_free(trainer);

    trainer = new_trainer(1000);
    prepare(&o);
    SUCCEEDS(mcandle_trainer_train_async(trainer, NULL, on_summary, &o, error));
    FAILS(mcandle_trainer_train(trainer, NULL, NULL, NULL, error), MCANDLE_BUSY, "`trainer` is in use");
    mcandle_trainer_cancel(trainer);
    expect_steps((mcandle_train_summary *)wait_for(&o), 0, 999);
    prepare(&o);
    SUCCEEDS(mcandle_trainer_train_async(trainer, NULL, on_summary, &o, error));
    mcandle_trainer_free(trainer);
    expect_steps((mcandle_train_summary *)wait_for(&o), 0, 999);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    rows_path = argv[1];
    models_load();
    the_tokens_are_those_of_the_blocking_call();
    what_is_wrong_at_once_starts_nothing();
    a_generator_is_busy_and_can_be_stopped();
    a_completion_uses_the_generator();
    batches_run();
    trainers_train();
    mcandle_model_free(model);
    return 0;
}
