/* Training: events, stopping, checkpoints, resuming, and using the adapter.
 *
 * Usage: train ROWS OUTPUT_DIR, with an output directory that does not exist yet. Prints the events of
 * a whole run as JSON, one a line.
 */
#include "test.h"

#include <math.h>

enum { STEPS = 3 };

static mcandle_model *model;
static mcandle_dataset *rows;
static const char *output_dir;

/* What a callback does, and what it saw: a letter for each event, the loss of each step, and of the
 * evaluations the last loss and the lowest one. */
typedef struct {
    size_t stop_after;
    size_t cancel_after;
    bool print;
    mcandle_trainer *trainer;
    char kinds[64];
    double losses[STEPS];
    double validation_loss;
    double best_loss;
} record;

static void check_start(const mcandle_train_event *event) {
    CHECK(mcandle_train_event_trainable_parameters(event) > 0);
    CHECK(mcandle_train_event_parameters(event) == mcandle_model_parameter_count(model) +
                                                       mcandle_train_event_trainable_parameters(event));
    CHECK(mcandle_train_event_rows(event) == 2);
    CHECK(mcandle_train_event_tokens(event) == mcandle_dataset_token_count(rows));
    CHECK(mcandle_train_event_target_tokens(event) == mcandle_dataset_target_token_count(rows));
    CHECK(mcandle_train_event_truncated(event) == 0 && mcandle_train_event_skipped(event) == 0);
    CHECK(mcandle_train_event_batches_per_epoch(event) == 1);
    CHECK(mcandle_train_event_pack_efficiency(event) == 0);
    CHECK(strcmp(mcandle_train_event_method(event), "lora") == 0);
    CHECK(strcmp(mcandle_train_event_objective(event), "sft") == 0);
}

static void check_step(const mcandle_train_event *event) {
    size_t step = mcandle_train_event_step(event);
    CHECK(mcandle_train_event_epoch(event) == (double)step);
    CHECK(mcandle_train_event_learning_rate(event) > 0);
    CHECK(mcandle_train_event_grad_norm(event) > 0);
    CHECK(mcandle_train_event_tokens(event) == mcandle_dataset_token_count(rows));
    CHECK(mcandle_train_event_target_tokens(event) == mcandle_dataset_target_token_count(rows));
    CHECK(mcandle_train_event_tokens_so_far(event) == step * mcandle_dataset_token_count(rows));
    CHECK(mcandle_train_event_tokens_per_second(event) > 0);
    CHECK(mcandle_train_event_seconds_elapsed(event) > 0);
    CHECK((mcandle_train_event_seconds_remaining(event) > 0) == (step < STEPS));
    CHECK(mcandle_train_event_memory(event) > 1000000);
    CHECK(mcandle_train_event_peak_memory(event) >= mcandle_train_event_memory(event) / 2);
    CHECK(isnan(mcandle_train_event_reward_margin(event)));
}

static void check_evaluation(const mcandle_train_event *event, record *r) {
    double loss = mcandle_train_event_loss(event);
    bool best = strchr(r->kinds, 'E') == strrchr(r->kinds, 'E') || loss < r->best_loss;
    CHECK(loss > 0 && loss < 20);
    CHECK(fabs(mcandle_train_event_perplexity(event) / exp(loss) - 1) < 1e-9);
    CHECK(mcandle_train_event_best(event) == best);
    CHECK(mcandle_train_event_seconds_elapsed(event) > 0);
    r->validation_loss = loss;
    r->best_loss = best ? loss : r->best_loss;
}

static bool on_event(const mcandle_train_event *event, void *user_data) {
    static const char LETTERS[] = "SEC<>";
    record *r = (record *)user_data;
    size_t step = mcandle_train_event_step(event);
    mcandle_train_event_kind kind = mcandle_train_event_kind_of(event);
    mcandle_adapter *adapter = NULL;
    mcandle_model *trained = NULL;
    double loss = -1;
    CHECK(kind >= 0 && kind <= 4 && step <= STEPS && strlen(r->kinds) + 1 < sizeof r->kinds);
    r->kinds[strlen(r->kinds)] = LETTERS[kind];
    if (r->print) {
        puts(mcandle_train_event_json(event));
    }
    CHECK((mcandle_train_event_path(event)[0] != '\0') == (kind == MCANDLE_TRAIN_EVENT_CHECKPOINT));
    CHECK((mcandle_train_event_summary(event) != NULL) == (kind == MCANDLE_TRAIN_EVENT_END));
    CHECK((mcandle_train_event_learning_rate(event) > 0) == (kind == MCANDLE_TRAIN_EVENT_STEP));
    CHECK((mcandle_train_event_rows(event) > 0) == (kind == MCANDLE_TRAIN_EVENT_START));
    CHECK((mcandle_train_event_total_steps(event) == STEPS) ==
          (kind == MCANDLE_TRAIN_EVENT_START || kind == MCANDLE_TRAIN_EVENT_STEP));
    switch (kind) {
    case MCANDLE_TRAIN_EVENT_START:
        check_start(event);
        return true;
    case MCANDLE_TRAIN_EVENT_EVALUATION:
        check_evaluation(event, r);
        return true;
    case MCANDLE_TRAIN_EVENT_CHECKPOINT:
        CHECK(strncmp(mcandle_train_event_path(event), output_dir, strlen(output_dir)) == 0);
        CHECK(mcandle_train_event_loss(event) == 0 && !mcandle_train_event_best(event));
        return true;
    case MCANDLE_TRAIN_EVENT_END:
        CHECK(mcandle_train_summary_steps(mcandle_train_event_summary(event)) == step);
        return true;
    default:
        break;
    }
    check_step(event);
    r->losses[step - 1] = mcandle_train_event_loss(event);
    CHECK(r->losses[step - 1] > 0 && r->losses[step - 1] < 20);
    FAILS(mcandle_trainer_train(r->trainer, NULL, NULL, NULL, error), MCANDLE_BUSY, "`trainer`");
    FAILS(mcandle_trainer_evaluate(r->trainer, &loss, error), MCANDLE_BUSY, "`trainer`");
    FAILS(mcandle_trainer_adapter(r->trainer, &adapter, error), MCANDLE_BUSY, "`trainer`");
    FAILS(mcandle_trainer_model(r->trainer, &trained, error), MCANDLE_BUSY, "`trainer`");
    FAILS(mcandle_trainer_save_checkpoint(r->trainer, "x", error), MCANDLE_BUSY, "`trainer`");
    CHECK(mcandle_trainer_total_steps(r->trainer) == STEPS);
    CHECK(adapter == NULL && trained == NULL && loss == -1);
    if (step == r->cancel_after) {
        mcandle_trainer_cancel(r->trainer);
    }
    return step != r->stop_after;
}

static mcandle_train_options *make_options(const char *directory) {
    mcandle_train_options *options = mcandle_train_options_new();
    mcandle_train_options_set_steps(options, STEPS);
    mcandle_train_options_set_batch_size(options, 2);
    mcandle_train_options_set_learning_rate(options, 0.02);
    mcandle_train_options_set_schedule(options, MCANDLE_SCHEDULE_COSINE);
    mcandle_train_options_set_dropout(options, 0.1);
    mcandle_train_options_set_rank(options, 4);
    mcandle_train_options_set_target_modules(options, "q_proj, v_proj,down_proj");
    mcandle_train_options_set_seed(options, 3);
    mcandle_train_options_set_eval_every(options, 2);
    mcandle_train_options_set_save_every(options, 0);
    mcandle_train_options_set_output_dir(options, directory);
    return options;
}

/* Trains, and checks what happened against a letter for each event. */
static void train(mcandle_trainer *trainer, record *r, const char *kinds, size_t steps) {
    mcandle_train_summary *summary = NULL;
    r->trainer = trainer;
    memset(r->kinds, 0, sizeof r->kinds);
    SUCCEEDS(mcandle_trainer_train(trainer, on_event, r, &summary, error));
    if (strcmp(r->kinds, kinds) != 0) {
        fprintf(stderr, "events %s, not %s\n", r->kinds, kinds);
        exit(1);
    }
    CHECK(mcandle_train_summary_steps(summary) == steps);
    CHECK(mcandle_train_summary_cancelled(summary) == (steps < STEPS));
    CHECK(mcandle_train_summary_stop_reason(summary) ==
          (steps < STEPS ? MCANDLE_TRAIN_STOP_CANCELLED : MCANDLE_TRAIN_STOP_FINISHED));
    CHECK(mcandle_train_summary_loss(summary) == r->losses[steps - 1]);
    CHECK(mcandle_train_summary_tokens(summary) == steps * mcandle_dataset_token_count(rows));
    if (strchr(kinds, 'E') == NULL) {
        CHECK(isnan(mcandle_train_summary_validation_loss(summary)));
        CHECK(isnan(mcandle_train_summary_best_loss(summary)));
    } else {
        CHECK(mcandle_train_summary_validation_loss(summary) == r->validation_loss);
        CHECK(mcandle_train_summary_best_loss(summary) == r->best_loss);
        CHECK(mcandle_train_summary_best_step(summary) == STEPS);
    }
    /* Without an output directory, or without an evaluation. */
    CHECK(mcandle_train_summary_best_path(summary)[0] == '\0');
    CHECK(mcandle_train_summary_seconds(summary) > 0);
    mcandle_train_summary_free(summary);
}

/* A run that nothing stops, without an output directory. */
static void a_whole_run(record *whole) {
    mcandle_train_options *options = make_options(NULL);
    mcandle_trainer *trainer = NULL;
    double loss = 0;
    SUCCEEDS(mcandle_trainer_new(model, rows, rows, options, &trainer, error));
    whole->print = true;
    train(trainer, whole, "<ESSESE>", STEPS);
    CHECK(whole->losses[STEPS - 1] < whole->losses[0]);
    SUCCEEDS(mcandle_trainer_evaluate(trainer, &loss, error));
    CHECK(loss == whole->validation_loss);
    mcandle_trainer_free(trainer);
    mcandle_train_options_free(options);
}

/* The callback stops after a step; another trainer goes on from the checkpoint. */
static void a_stopped_run_resumes(const record *whole) {
    mcandle_train_options *options = make_options(output_dir);
    mcandle_trainer *trainer = NULL;
    mcandle_string *checkpoint = NULL;
    mcandle_checkpoints *checkpoints = NULL;
    record r = {0};
    double loss = 0;
    const char *path;
    mcandle_train_options_set_save_every(options, 1);
    r.stop_after = 2;
    SUCCEEDS(mcandle_trainer_new(model, rows, NULL, options, &trainer, error));
    train(trainer, &r, "<SCSCC>", 2);
    mcandle_trainer_free(trainer);

    SUCCEEDS(mcandle_latest_checkpoint(output_dir, &checkpoint, error));
    path = mcandle_string_data(checkpoint);
    CHECK(strstr(path, "checkpoint-000002") != NULL);
    SUCCEEDS(mcandle_checkpoint_list(output_dir, &checkpoints, error));
    CHECK(mcandle_checkpoints_length(checkpoints) == 2);
    CHECK(mcandle_checkpoints_step(checkpoints, 0) == 1);
    CHECK(mcandle_checkpoints_step(checkpoints, 1) == 2);
    CHECK(strstr(mcandle_checkpoints_path(checkpoints, 0), "checkpoint-000001") != NULL);
    CHECK(strcmp(mcandle_checkpoints_path(checkpoints, 1), path) == 0);
    CHECK(mcandle_checkpoints_step(checkpoints, 2) == 0);
    CHECK(strcmp(mcandle_checkpoints_path(checkpoints, 2), "") == 0);
    mcandle_checkpoints_free(checkpoints);
    mcandle_train_options_set_rank(options, 5);
    trainer = NULL;
    FAILS(mcandle_trainer_resume(model, rows, NULL, options, path, &trainer, error),
          MCANDLE_INCOMPATIBLE, "`rank` is 4", "expected 5", path);
    CHECK(trainer == NULL);
    mcandle_train_options_set_rank(options, 4);
    SUCCEEDS(mcandle_trainer_resume(model, rows, NULL, options, path, &trainer, error));
    r.stop_after = 0;
    train(trainer, &r, "<S>", STEPS);
    /* There are no validation rows. */
    SUCCEEDS(mcandle_trainer_evaluate(trainer, &loss, error));
    CHECK(isnan(loss));
    CHECK(memcmp(r.losses, whole->losses, sizeof r.losses) == 0);
    mcandle_trainer_free(trainer);
    mcandle_string_free(checkpoint);
    mcandle_train_options_free(options);
}

/* A trainer that was cancelled goes on when it is called again. */
static void a_cancelled_run_goes_on(const record *whole) {
    mcandle_train_options *options = make_options(NULL);
    mcandle_trainer *trainer = NULL;
    record r = {0};
    double loss = 0;
    mcandle_train_options_set_eval_every(options, 0);
    SUCCEEDS(mcandle_trainer_new(model, rows, rows, options, &trainer, error));
    r.cancel_after = 1;
    train(trainer, &r, "<S>", 1);
    /* What stopped the training does not stop this. */
    SUCCEEDS(mcandle_trainer_evaluate(trainer, &loss, error));
    CHECK(loss > 0);
    train(trainer, &r, "<SS>", STEPS);
    CHECK(memcmp(r.losses, whole->losses, sizeof r.losses) == 0);
    mcandle_trainer_free(trainer);
    mcandle_train_options_free(options);
}

static mcandle_generation *complete(mcandle_generator *generator, const mcandle_adapter *adapter) {
    static const char PROMPT[] = "one two";
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_generation *generation = NULL;
    mcandle_generate_options_set_max_tokens(options, 4);
    mcandle_generate_options_set_ignore_eos(options, true);
    SUCCEEDS(mcandle_generator_set_adapter(generator, adapter, error));
    SUCCEEDS(mcandle_generator_generate(generator, PROMPT, strlen(PROMPT), options, NULL, NULL,
                                        &generation, error));
    mcandle_generate_options_free(options);
    return generation;
}

static bool same_tokens(const mcandle_generation *a, const mcandle_generation *b) {
    return memcmp(mcandle_generation_tokens(a, NULL), mcandle_generation_tokens(b, NULL),
                  4 * sizeof(uint32_t)) == 0;
}

/* The adapter that the run left changes the text, is saved as it is, and can be taken away. */
static void the_adapter_is_used(void) {
    mcandle_adapter *adapter = NULL, *copy = NULL;
    mcandle_generator *generator = NULL;
    mcandle_generation *before, *with, *with_copy, *after;
    char path[4096];
    SUCCEEDS(mcandle_adapter_load(output_dir, model, &adapter, error));
    CHECK(mcandle_adapter_rank(adapter) == 4 && mcandle_adapter_parameter_count(adapter) > 0);
    CHECK((size_t)snprintf(path, sizeof path, "%s/copy", output_dir) < sizeof path);
    SUCCEEDS(mcandle_adapter_save(adapter, path, error));
    SUCCEEDS(mcandle_adapter_load(path, model, &copy, error));
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    before = complete(generator, NULL);
    with = complete(generator, adapter);
    with_copy = complete(generator, copy);
    after = complete(generator, NULL);
    CHECK(!same_tokens(before, with));
    CHECK(same_tokens(with, with_copy));
    CHECK(same_tokens(before, after));
    mcandle_generation_free(before);
    mcandle_generation_free(with);
    mcandle_generation_free(with_copy);
    mcandle_generation_free(after);
    mcandle_generator_free(generator);
    mcandle_adapter_free(copy);
    mcandle_adapter_free(adapter);
}

int main(int argc, char **argv) {
    record whole = {0};
    CHECK(argc == 3);
    output_dir = argv[2];
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    SUCCEEDS(mcandle_dataset_from_jsonl(argv[1], model, NULL, &rows, error));
    a_whole_run(&whole);
    a_stopped_run_resumes(&whole);
    if (!is_light()) {
        a_cancelled_run_goes_on(&whole);
    }
    the_adapter_is_used();
    mcandle_dataset_free(rows);
    mcandle_model_free(model);
    return 0;
}
