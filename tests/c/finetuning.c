/* The ways of training: preferences, all weights, other optimizers, packed rows; and the ways in which
 * a run ends before its last step.
 *
 * Usage: finetuning DATA OUTPUT_DIR, with train.jsonl and preferences.jsonl, and an output directory
 * that does not exist yet.
 */
#define _POSIX_C_SOURCE 200809L
#include "test.h"

#include <math.h>
#include <pthread.h>
#include <time.h>

static mcandle_model *model;
static mcandle_dataset *rows, *pairs;
static const char *root;

/* A directory for the output of a run; the next call overwrites it. */
static const char *output(const char *name) {
    static char path[4096];
    CHECK((size_t)snprintf(path, sizeof path, "%s/%s", root, name) < sizeof path);
    return path;
}

static mcandle_train_options *make_options(size_t steps) {
    mcandle_train_options *options = mcandle_train_options_new();
    mcandle_train_options_set_steps(options, steps);
    mcandle_train_options_set_batch_size(options, 2);
    mcandle_train_options_set_learning_rate(options, 0.01);
    mcandle_train_options_set_rank(options, 2);
    mcandle_train_options_set_target_modules(options, "q_proj,v_proj");
    mcandle_train_options_set_save_every(options, 0);
    return options;
}

static mcandle_trainer *make_trainer(const mcandle_dataset *train, const mcandle_dataset *validation,
                                     const mcandle_train_options *options) {
    mcandle_trainer *trainer = NULL;
    SUCCEEDS(mcandle_trainer_new(model, train, validation, options, &trainer, error));
    return trainer;
}

enum { MOST_STEPS = 4 };

/* What a run told. */
typedef struct {
    char method[16];
    char objective[16];
    double pack_efficiency;
    size_t batches_per_epoch;
    double losses[MOST_STEPS];
    double learning_rates[MOST_STEPS];
    double margins[MOST_STEPS];
    double accuracies[MOST_STEPS];
} record;

static bool on_event(const mcandle_train_event *event, void *user_data) {
    record *r = (record *)user_data;
    size_t step = mcandle_train_event_step(event);
    double margin = mcandle_train_event_reward_margin(event);
    if (mcandle_train_event_kind_of(event) == MCANDLE_TRAIN_EVENT_START) {
        snprintf(r->method, sizeof r->method, "%s", mcandle_train_event_method(event));
        snprintf(r->objective, sizeof r->objective, "%s", mcandle_train_event_objective(event));
        r->pack_efficiency = mcandle_train_event_pack_efficiency(event);
        r->batches_per_epoch = mcandle_train_event_batches_per_epoch(event);
    } else if (mcandle_train_event_kind_of(event) == MCANDLE_TRAIN_EVENT_STEP) {
        CHECK(step <= MOST_STEPS);
        r->losses[step - 1] = mcandle_train_event_loss(event);
        r->learning_rates[step - 1] = mcandle_train_event_learning_rate(event);
        r->margins[step - 1] = margin;
        r->accuracies[step - 1] = mcandle_train_event_reward_accuracy(event);
        if (!isnan(margin)) {
            CHECK(fabs(mcandle_train_event_reward_chosen(event) -
                       mcandle_train_event_reward_rejected(event) - margin) < 1e-6);
        }
    }
    return true;
}

/* Trains to the end. */
static record train(mcandle_trainer *trainer) {
    record r;
    mcandle_train_summary *summary = NULL;
    memset(&r, 0, sizeof r);
    SUCCEEDS(mcandle_trainer_train(trainer, on_event, &r, &summary, error));
    CHECK(mcandle_train_summary_steps(summary) == mcandle_trainer_total_steps(trainer));
    mcandle_train_summary_free(summary);
    return r;
}

static void preferences(void) {
    mcandle_train_options *options = make_options(3);
    mcandle_trainer *trainer = UNTOUCHED;
    record r;
    FAILS(mcandle_trainer_new(model, pairs, NULL, options, &trainer, error),
          MCANDLE_INVALID_ARGUMENT, "rows of preferences", "`preference`");
    mcandle_train_options_set_preference_dpo(options, 0.1, 0);
    FAILS(mcandle_trainer_new(model, rows, NULL, options, &trainer, error), MCANDLE_INVALID_ARGUMENT,
          "rows of texts for dpo", "`chosen`");
    CHECK((void *)trainer == UNTOUCHED);
    trainer = make_trainer(pairs, NULL, options);
    r = train(trainer);
    CHECK(strcmp(r.method, "lora") == 0 && strcmp(r.objective, "dpo") == 0);
    /* At first nothing is preferred. */
    CHECK(fabs(r.losses[0] - log(2)) < 1e-4 && fabs(r.margins[0]) < 1e-3);
    CHECK(r.losses[2] < r.losses[0] && r.margins[2] > 0 && r.accuracies[2] == 1);
    mcandle_trainer_free(trainer);

    mcandle_train_options_set_preference_orpo(options, 0.1);
    trainer = make_trainer(pairs, NULL, options);
    r = train(trainer);
    CHECK(strcmp(r.objective, "orpo") == 0 && r.losses[2] < r.losses[0]);
    CHECK(r.accuracies[0] >= 0 && r.accuracies[0] <= 1 && r.margins[2] > r.margins[0]);
    mcandle_trainer_free(trainer);
    mcandle_train_options_free(options);
}

/* Writes the tokens that a model gives. */
static void complete(const mcandle_model *by, uint32_t tokens[4]) {
    static const char PROMPT[] = "one two";
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_generator *generator = NULL;
    mcandle_generation *generation = NULL;
    mcandle_generate_options_set_max_tokens(options, 4);
    mcandle_generate_options_set_ignore_eos(options, true);
    SUCCEEDS(mcandle_generator_new(by, &generator, error));
    SUCCEEDS(mcandle_generator_generate(generator, PROMPT, strlen(PROMPT), options, NULL, NULL,
                                        &generation, error));
    memcpy(tokens, mcandle_generation_tokens(generation, NULL), 4 * sizeof tokens[0]);
    mcandle_generation_free(generation);
    mcandle_generator_free(generator);
    mcandle_generate_options_free(options);
}

/* Trains the weights themselves, and generates with them; the model stays what it was. */
static void all_weights(void) {
    mcandle_train_options *options = make_options(3);
    mcandle_adapter *adapter = UNTOUCHED;
    mcandle_model *trained = NULL;
    mcandle_trainer *trainer;
    uint32_t before[4], after[4], still[4];
    record r;
    mcandle_train_options_set_method(options, MCANDLE_METHOD_FULL);
    mcandle_train_options_set_learning_rate(options, 1e-3);
    trainer = make_trainer(rows, NULL, options);
    complete(model, before);
    r = train(trainer);
    CHECK(strcmp(r.method, "full") == 0 && r.losses[2] < r.losses[0]);
    FAILS(mcandle_trainer_adapter(trainer, &adapter, error), MCANDLE_INVALID_ARGUMENT,
          "weights of the model", "no adapter");
    CHECK((void *)adapter == UNTOUCHED);
    SUCCEEDS(mcandle_trainer_model(trainer, &trained, error));
    mcandle_trainer_free(trainer);
    CHECK(mcandle_model_parameter_count(trained) == mcandle_model_parameter_count(model));
    complete(trained, after);
    complete(model, still);
    CHECK(memcmp(before, after, sizeof before) != 0);
    CHECK(memcmp(before, still, sizeof before) == 0);
    mcandle_model_free(trained);
    mcandle_train_options_free(options);
}

/* Trains an adapter on with another optimizer, from rows that are packed, by their epochs. */
static void muon_goes_on_with_an_adapter(void) {
    mcandle_train_options *options = make_options(1);
    mcandle_trainer *first = make_trainer(rows, NULL, options), *trainer = NULL;
    mcandle_adapter *adapter = NULL;
    mcandle_model *merged = NULL;
    record before = train(first), r;
    mcandle_train_options *packed = make_options(100);
    SUCCEEDS(mcandle_trainer_adapter(first, &adapter, error));
    mcandle_trainer_free(first);
    mcandle_train_options_free(options);
    mcandle_train_options_set_rank(packed, 7);
    mcandle_train_options_set_epochs(packed, 3);
    mcandle_train_options_set_optimizer(packed, MCANDLE_OPTIMIZER_MUON);
    mcandle_train_options_set_schedule(packed, MCANDLE_SCHEDULE_COSINE);
    mcandle_train_options_set_batching(packed, MCANDLE_BATCHING_PACKED);
    mcandle_train_options_set_pack_length(packed, 64);
    SUCCEEDS(mcandle_trainer_from_adapter(model, rows, NULL, packed, adapter, &trainer, error));
    CHECK(mcandle_trainer_total_steps(trainer) == 3);
    r = train(trainer);
    /* Both rows fit into one pack, which is not full. */
    CHECK(r.batches_per_epoch == 1 && r.pack_efficiency > 0 && r.pack_efficiency < 1);
    CHECK(fabs(r.pack_efficiency * 64 - (double)mcandle_dataset_token_count(rows)) < 1e-9);
    CHECK(fabs(r.learning_rates[0] - 0.01) < 1e-12 && fabs(r.learning_rates[1] - 0.0075) < 1e-12);
    CHECK(r.losses[0] != before.losses[0] && r.losses[2] < r.losses[0]);
    mcandle_adapter_free(adapter);
    /* The settings of the adapter took the place of those of the options. */
    SUCCEEDS(mcandle_trainer_adapter(trainer, &adapter, error));
    CHECK(mcandle_adapter_rank(adapter) == 2);
    SUCCEEDS(mcandle_trainer_model(trainer, &merged, error));
    CHECK(mcandle_model_parameter_count(merged) == mcandle_model_parameter_count(model));
    mcandle_model_free(merged);
    mcandle_adapter_free(adapter);
    mcandle_trainer_free(trainer);
    mcandle_train_options_free(packed);
}

/* No evaluation is better by so much, so the run ends after the second one. */
static void early_stopping(void) {
    mcandle_train_options *options = make_options(MOST_STEPS);
    mcandle_trainer *trainer;
    mcandle_train_summary *summary = NULL;
    mcandle_string *checkpoint = NULL;
    mcandle_checkpoints *checkpoints = NULL;
    size_t step = 77;
    double loss = 77;
    mcandle_train_options_set_eval_every(options, 1);
    mcandle_train_options_set_early_stopping_patience(options, 1);
    mcandle_train_options_set_early_stopping_min_delta(options, 1000);
    trainer = make_trainer(rows, rows, options);
    SUCCEEDS(mcandle_trainer_train(trainer, NULL, NULL, &summary, error));
    CHECK(mcandle_train_summary_stop_reason(summary) == MCANDLE_TRAIN_STOP_EARLY_STOPPING);
    CHECK(mcandle_train_summary_steps(summary) == 1 && !mcandle_train_summary_cancelled(summary));
    CHECK(mcandle_train_summary_best_step(summary) == 0);
    mcandle_train_summary_free(summary);
    mcandle_trainer_free(trainer);

    /* Where the loss falls, the run goes on, and the best checkpoint is kept. */
    mcandle_train_options_set_early_stopping_min_delta(options, 0);
    mcandle_train_options_set_keep_checkpoints(options, 1);
    mcandle_train_options_set_steps(options, 2);
    mcandle_train_options_set_output_dir(options, output("best"));
    trainer = make_trainer(rows, rows, options);
    SUCCEEDS(mcandle_checkpoint_best(output("best"), &checkpoint, &step, &loss, error));
    CHECK(checkpoint == NULL && step == 77 && loss == 77);
    SUCCEEDS(mcandle_trainer_train(trainer, NULL, NULL, &summary, error));
    CHECK(mcandle_train_summary_stop_reason(summary) == MCANDLE_TRAIN_STOP_FINISHED);
    CHECK(mcandle_train_summary_best_step(summary) == 2);
    SUCCEEDS(mcandle_checkpoint_best(output("best"), &checkpoint, &step, &loss, error));
    CHECK(step == 2 && loss == mcandle_train_summary_best_loss(summary));
    CHECK(strcmp(mcandle_string_data(checkpoint), mcandle_train_summary_best_path(summary)) == 0);
    SUCCEEDS(mcandle_checkpoint_list(output("best"), &checkpoints, error));
    CHECK(mcandle_checkpoints_length(checkpoints) == 1 && mcandle_checkpoints_step(checkpoints, 0) == 2);
    mcandle_checkpoints_free(checkpoints);
    mcandle_string_free(checkpoint);
    mcandle_train_summary_free(summary);
    mcandle_trainer_free(trainer);
    mcandle_train_options_free(options);
}

/* A thread that cancels soon after it is told to. */
typedef struct {
    mcandle_trainer *trainer;
    pthread_mutex_t mutex;
    pthread_cond_t told;
    bool go;
} canceller;

static void *cancel_soon(void *argument) {
    canceller *c = (canceller *)argument;
    struct timespec soon = {0, 5000000};
    pthread_mutex_lock(&c->mutex);
    while (!c->go) {
        pthread_cond_wait(&c->told, &c->mutex);
    }
    pthread_mutex_unlock(&c->mutex);
    nanosleep(&soon, NULL);
    mcandle_trainer_cancel(c->trainer);
    return NULL;
}

static bool tell_after_a_step(const mcandle_train_event *event, void *user_data) {
    canceller *c = (canceller *)user_data;
    if (mcandle_train_event_kind_of(event) == MCANDLE_TRAIN_EVENT_STEP) {
        pthread_mutex_lock(&c->mutex);
        c->go = true;
        pthread_cond_signal(&c->told);
        pthread_mutex_unlock(&c->mutex);
    }
    return true;
}

/* A long step is cancelled within it, and done again by a trainer that resumes. */
static void cancelled_within_a_step(void) {
    mcandle_train_options *options = make_options(2);
    mcandle_trainer *trainer;
    mcandle_train_summary *summary = NULL;
    mcandle_checkpoints *checkpoints = NULL;
    canceller c = {0};
    pthread_t thread;
    record whole, rest;
    mcandle_train_options_set_gradient_accumulation(options, 16);
    trainer = make_trainer(rows, NULL, options);
    whole = train(trainer);
    mcandle_trainer_free(trainer);

    mcandle_train_options_set_output_dir(options, output("cancelled"));
    c.trainer = trainer = make_trainer(rows, NULL, options);
    pthread_mutex_init(&c.mutex, NULL);
    pthread_cond_init(&c.told, NULL);
    CHECK(pthread_create(&thread, NULL, cancel_soon, &c) == 0);
    SUCCEEDS(mcandle_trainer_train(trainer, tell_after_a_step, &c, &summary, error));
    CHECK(pthread_join(thread, NULL) == 0);
    pthread_cond_destroy(&c.told);
    pthread_mutex_destroy(&c.mutex);
    CHECK(mcandle_train_summary_stop_reason(summary) == MCANDLE_TRAIN_STOP_CANCELLED);
    CHECK(mcandle_train_summary_steps(summary) == 1);
    mcandle_train_summary_free(summary);
    mcandle_trainer_free(trainer);

    SUCCEEDS(mcandle_checkpoint_list(output("cancelled"), &checkpoints, error));
    CHECK(mcandle_checkpoints_length(checkpoints) == 1);
    SUCCEEDS(mcandle_trainer_resume(model, rows, NULL, options,
                                    mcandle_checkpoints_path(checkpoints, 0), &trainer, error));
    rest = train(trainer);
    CHECK(rest.losses[0] == 0 && rest.losses[1] == whole.losses[1]);
    mcandle_checkpoints_free(checkpoints);
    mcandle_trainer_free(trainer);
    mcandle_train_options_free(options);
}

/* The error names the rows and the checkpoint, and what is trained is as before the step. */
static void numbers_that_are_not_finite(void) {
    mcandle_train_options *options = make_options(3);
    mcandle_train_summary *summary = UNTOUCHED;
    mcandle_trainer *trainer;
    double loss = 77;
    mcandle_train_options_set_learning_rate(options, 1e30);
    mcandle_train_options_set_eval_every(options, 0);
    mcandle_train_options_set_save_every(options, 1);
    mcandle_train_options_set_output_dir(options, output("infinite"));
    trainer = make_trainer(rows, rows, options);
    FAILS(mcandle_trainer_train(trainer, NULL, NULL, &summary, error), MCANDLE_NON_FINITE,
          "is not finite at step 1", "train.jsonl:1", "train.jsonl:2", "checkpoint-000001",
          "lower learning rate");
    FAILS(mcandle_trainer_evaluate(trainer, &loss, error), MCANDLE_NON_FINITE, "validation loss");
    CHECK((void *)summary == UNTOUCHED && loss == 77);
    mcandle_trainer_free(trainer);
    mcandle_train_options_free(options);
}

int main(int argc, char **argv) {
    char path[4096];
    CHECK(argc == 3);
    root = argv[2];
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    CHECK((size_t)snprintf(path, sizeof path, "%s/train.jsonl", argv[1]) < sizeof path);
    SUCCEEDS(mcandle_dataset_from_jsonl(path, model, NULL, &rows, error));
    CHECK((size_t)snprintf(path, sizeof path, "%s/preferences.jsonl", argv[1]) < sizeof path);
    SUCCEEDS(mcandle_dataset_from_jsonl(path, model, NULL, &pairs, error));
    muon_goes_on_with_an_adapter();
    early_stopping();
    if (!is_light()) {
        preferences();
        all_weights();
        cancelled_within_a_step();
        numbers_that_are_not_finite();
    }
    mcandle_dataset_free(pairs);
    mcandle_dataset_free(rows);
    mcandle_model_free(model);
    return 0;
}
