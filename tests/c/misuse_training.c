/* Arguments of training that no program means, as misuse.c has them for the rest.
 *
 * Usage: misuse_training ROWS
 */
#define MCANDLE_NO_NULLABILITY
#include "test.h"

#define NOT_UTF8(name, call) FAILS(call, MCANDLE_INVALID_UTF8, "`" name "` is not UTF-8")

static mcandle_model *model;
static mcandle_dataset *rows;

static mcandle_trainer *make_trainer(const mcandle_train_options *options) {
    mcandle_trainer *trainer = NULL;
    SUCCEEDS(mcandle_trainer_new(model, rows, rows, options, &trainer, error));
    return trainer;
}

static mcandle_train_options *make_options(void) {
    mcandle_train_options *options = mcandle_train_options_new();
    mcandle_train_options_set_steps(options, 1);
    mcandle_train_options_set_rank(options, 1);
    mcandle_train_options_set_target_modules(options, "q_proj");
    return options;
}

static void options_as_json(void) {
    mcandle_train_options *read = NULL;
    NOT_UTF8("json", mcandle_train_options_from_json("a\xFF", 2, &read, error));
    FAILS(mcandle_train_options_from_json("{}", SIZE_MAX, &read, error), MCANDLE_INVALID_ARGUMENT,
          "`json` has a length of", "fits into memory");
    FAILS(mcandle_train_options_from_json(NULL, 0, &read, error), MCANDLE_INVALID_ARGUMENT,
          "not understood");
    CHECK(read == NULL);
}

static void texts_that_are_no_utf8(void) {
    mcandle_train_options *options = make_options();
    mcandle_trainer *trainer = NULL;
    mcandle_string *checkpoint = NULL;
    mcandle_checkpoints *checkpoints = NULL;
    mcandle_train_options_set_target_modules(options, "a\xFF");
    NOT_UTF8("target_modules", mcandle_trainer_new(model, rows, NULL, options, &trainer, error));
    mcandle_train_options_set_target_modules(options, "q_proj");
    mcandle_train_options_set_target_pattern(options, "a\xFF");
    NOT_UTF8("target_pattern", mcandle_trainer_new(model, rows, NULL, options, &trainer, error));
    mcandle_train_options_set_target_pattern(options, NULL);
    mcandle_train_options_set_output_dir(options, "a\xFF");
    NOT_UTF8("output_dir", mcandle_trainer_new(model, rows, NULL, options, &trainer, error));
    mcandle_train_options_set_output_dir(options, NULL);
    NOT_UTF8("checkpoint",
             mcandle_trainer_resume(model, rows, NULL, options, "a\xFF", &trainer, error));
    NOT_UTF8("output_dir", mcandle_latest_checkpoint("a\xFF", &checkpoint, error));
    NOT_UTF8("output_dir", mcandle_checkpoint_best("a\xFF", &checkpoint, NULL, NULL, error));
    NOT_UTF8("output_dir", mcandle_checkpoint_list("a\xFF", &checkpoints, error));
    CHECK(trainer == NULL && checkpoint == NULL && checkpoints == NULL);
    trainer = make_trainer(options);
    NOT_UTF8("path", mcandle_trainer_save_checkpoint(trainer, "a\xFF", error));
    mcandle_trainer_free(trainer);
    mcandle_train_options_free(options);
}

static void numbers_that_are_no_constant(void) {
    mcandle_train_options *options = make_options();
    mcandle_trainer *trainer = NULL;
#define NO_CONSTANT(setting, good, prefix)                                                         \
    FAILS(mcandle_trainer_new(model, rows, NULL, options, &trainer, error),                        \
          MCANDLE_INVALID_ARGUMENT, "`" #setting "` is 99", prefix);                               \
    mcandle_train_options_set_##setting(options, good)
    mcandle_train_options_set_method(options, 99);
    NO_CONSTANT(method, MCANDLE_METHOD_LORA, "MCANDLE_METHOD_");
    mcandle_train_options_set_optimizer(options, 99);
    NO_CONSTANT(optimizer, MCANDLE_OPTIMIZER_ADAMW, "MCANDLE_OPTIMIZER_");
    mcandle_train_options_set_schedule(options, 99);
    NO_CONSTANT(schedule, MCANDLE_SCHEDULE_CONSTANT, "MCANDLE_SCHEDULE_");
    mcandle_train_options_set_batching(options, 99);
    NO_CONSTANT(batching, MCANDLE_BATCHING_PLAIN, "MCANDLE_BATCHING_");
    CHECK(trainer == NULL);
    mcandle_train_options_free(options);
}

/* Counts without a bound of their own: no memory is taken, and no sum overflows. */
static void counts(void) {
    static void (*const SETTERS[])(mcandle_train_options *, size_t) = {
        mcandle_train_options_set_batch_size,
        mcandle_train_options_set_num_layers,
        mcandle_train_options_set_pack_length,
        mcandle_train_options_set_eval_every,
        mcandle_train_options_set_eval_batches,
        mcandle_train_options_set_save_every,
        mcandle_train_options_set_keep_checkpoints,
        mcandle_train_options_set_early_stopping_patience,
    };
    mcandle_train_options *options = make_options();
    mcandle_trainer *trainer = NULL;
    size_t i;
    for (i = 0; i < sizeof SETTERS / sizeof SETTERS[0]; i++) {
        SETTERS[i](options, SIZE_MAX);
        trainer = make_trainer(options);
        if (!is_light()) {
            SUCCEEDS(mcandle_trainer_train(trainer, NULL, NULL, NULL, error));
        }
        mcandle_trainer_free(trainer);
    }
    mcandle_train_options_set_batching(options, MCANDLE_BATCHING_PACKED);
    trainer = make_trainer(options);
    SUCCEEDS(mcandle_trainer_train(trainer, NULL, NULL, NULL, error));
    mcandle_trainer_free(trainer);
    trainer = NULL;
    mcandle_train_options_set_steps(options, SIZE_MAX);
    mcandle_train_options_set_warmup_steps(options, SIZE_MAX);
    mcandle_train_options_set_gradient_accumulation(options, SIZE_MAX);
    mcandle_trainer_free(make_trainer(options));
    mcandle_train_options_set_rank(options, SIZE_MAX);
    FAILS(mcandle_trainer_new(model, rows, NULL, options, &trainer, error),
          MCANDLE_INVALID_ARGUMENT, "`rank` is ", "1 to 4096");
    CHECK(trainer == NULL);
    mcandle_train_options_free(options);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    SUCCEEDS(mcandle_dataset_from_jsonl(argv[1], model, NULL, &rows, error));
    options_as_json();
    texts_that_are_no_utf8();
    numbers_that_are_no_constant();
    counts();
    mcandle_dataset_free(rows);
    mcandle_model_free(model);
    return 0;
}
