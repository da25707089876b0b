/* NULL for every pointer of training, as nulls.c has it for the rest.
 *
 * Usage: nulls_training ROWS
 */
/* NULL is passed on purpose. */
#define MCANDLE_NO_NULLABILITY
#include "test.h"

#include <math.h>

#define NULL_FAILS(name, call) FAILS(call, MCANDLE_NULL_POINTER, "`" name "` is NULL")

static void setters_and_frees_do_nothing(void) {
    mcandle_train_options_set_steps(NULL, 1);
    mcandle_train_options_set_batch_size(NULL, 1);
    mcandle_train_options_set_gradient_accumulation(NULL, 1);
    mcandle_train_options_set_learning_rate(NULL, 1);
    mcandle_train_options_set_schedule(NULL, MCANDLE_SCHEDULE_COSINE);
    mcandle_train_options_set_warmup_steps(NULL, 1);
    mcandle_train_options_set_weight_decay(NULL, 1);
    mcandle_train_options_set_betas(NULL, 0, 0);
    mcandle_train_options_set_eps(NULL, 1);
    mcandle_train_options_set_max_grad_norm(NULL, 1);
    mcandle_train_options_set_grad_checkpoint(NULL, true);
    mcandle_train_options_set_seed(NULL, 1);
    mcandle_train_options_set_shuffle(NULL, true);
    mcandle_train_options_set_eval_every(NULL, 1);
    mcandle_train_options_set_eval_batches(NULL, 1);
    mcandle_train_options_set_save_every(NULL, 1);
    mcandle_train_options_set_rank(NULL, 1);
    mcandle_train_options_set_alpha(NULL, 1);
    mcandle_train_options_set_dropout(NULL, 0);
    mcandle_train_options_set_use_rslora(NULL, true);
    mcandle_train_options_set_use_dora(NULL, true);
    mcandle_train_options_set_scale(NULL, 1);
    mcandle_train_options_set_method(NULL, MCANDLE_METHOD_FULL);
    mcandle_train_options_set_num_layers(NULL, 1);
    mcandle_train_options_set_target_pattern(NULL, NULL);
    mcandle_train_options_set_target_pattern(NULL, "x");
    mcandle_train_options_set_epochs(NULL, 1);
    mcandle_train_options_set_batching(NULL, MCANDLE_BATCHING_PACKED);
    mcandle_train_options_set_pack_length(NULL, 1);
    mcandle_train_options_set_min_learning_rate(NULL, 0);
    mcandle_train_options_set_schedule_step(NULL, 1, 1);
    mcandle_train_options_set_schedule_exponential(NULL, 1);
    mcandle_train_options_set_optimizer(NULL, MCANDLE_OPTIMIZER_MUON);
    mcandle_train_options_set_momentum(NULL, 0);
    mcandle_train_options_set_label_smoothing(NULL, 0);
    mcandle_train_options_set_preference_dpo(NULL, 1, 0);
    mcandle_train_options_set_preference_orpo(NULL, 1);
    mcandle_train_options_clear_preference(NULL);
    mcandle_train_options_set_early_stopping_patience(NULL, 1);
    mcandle_train_options_set_early_stopping_min_delta(NULL, 0);
    mcandle_train_options_set_keep_checkpoints(NULL, 1);
    mcandle_train_options_set_target_modules(NULL, NULL);
    mcandle_train_options_set_target_modules(NULL, "q_proj");
    mcandle_train_options_set_output_dir(NULL, NULL);
    mcandle_train_options_set_output_dir(NULL, "x");
    mcandle_train_options_free(NULL);
    mcandle_trainer_cancel(NULL);
    mcandle_trainer_free(NULL);
    mcandle_train_summary_free(NULL);
    mcandle_checkpoints_free(NULL);
}

static void accessors_give_the_documented_value(void) {
    CHECK(mcandle_train_event_kind_of(NULL) == -1);
    CHECK(mcandle_train_event_step(NULL) == 0);
    CHECK(mcandle_train_event_total_steps(NULL) == 0);
    CHECK(mcandle_train_event_loss(NULL) == 0);
    CHECK(mcandle_train_event_learning_rate(NULL) == 0);
    CHECK(mcandle_train_event_grad_norm(NULL) == 0);
    CHECK(mcandle_train_event_tokens_per_second(NULL) == 0);
    CHECK(mcandle_train_event_seconds_elapsed(NULL) == 0);
    CHECK(mcandle_train_event_seconds_remaining(NULL) == 0);
    CHECK(mcandle_train_event_peak_memory(NULL) == 0);
    CHECK(strcmp(mcandle_train_event_path(NULL), "") == 0);
    CHECK(strcmp(mcandle_train_event_json(NULL), "") == 0);
    CHECK(mcandle_train_event_epoch(NULL) == 0);
    CHECK(mcandle_train_event_perplexity(NULL) == 0);
    CHECK(!mcandle_train_event_best(NULL));
    CHECK(mcandle_train_event_tokens(NULL) == 0);
    CHECK(mcandle_train_event_target_tokens(NULL) == 0);
    CHECK(mcandle_train_event_tokens_so_far(NULL) == 0);
    CHECK(mcandle_train_event_memory(NULL) == 0);
    CHECK(mcandle_train_event_summary(NULL) == NULL);
    CHECK(mcandle_train_event_trainable_parameters(NULL) == 0);
    CHECK(mcandle_train_event_parameters(NULL) == 0);
    CHECK(mcandle_train_event_rows(NULL) == 0);
    CHECK(mcandle_train_event_truncated(NULL) == 0);
    CHECK(mcandle_train_event_skipped(NULL) == 0);
    CHECK(mcandle_train_event_batches_per_epoch(NULL) == 0);
    CHECK(mcandle_train_event_pack_efficiency(NULL) == 0);
    CHECK(strcmp(mcandle_train_event_method(NULL), "") == 0);
    CHECK(strcmp(mcandle_train_event_objective(NULL), "") == 0);
    CHECK(isnan(mcandle_train_event_reward_chosen(NULL)));
    CHECK(isnan(mcandle_train_event_reward_rejected(NULL)));
    CHECK(isnan(mcandle_train_event_reward_margin(NULL)));
    CHECK(isnan(mcandle_train_event_reward_accuracy(NULL)));
    CHECK(mcandle_train_summary_steps(NULL) == 0);
    CHECK(isnan(mcandle_train_summary_loss(NULL)));
    CHECK(isnan(mcandle_train_summary_validation_loss(NULL)));
    CHECK(!mcandle_train_summary_cancelled(NULL));
    CHECK(mcandle_train_summary_seconds(NULL) == 0);
    CHECK(mcandle_train_summary_stop_reason(NULL) == -1);
    CHECK(mcandle_train_summary_best_step(NULL) == 0);
    CHECK(isnan(mcandle_train_summary_best_loss(NULL)));
    CHECK(strcmp(mcandle_train_summary_best_path(NULL), "") == 0);
    CHECK(mcandle_train_summary_tokens(NULL) == 0);
    CHECK(mcandle_trainer_total_steps(NULL) == 0);
    CHECK(mcandle_checkpoints_length(NULL) == 0);
    CHECK(mcandle_checkpoints_step(NULL, 0) == 0);
    CHECK(strcmp(mcandle_checkpoints_path(NULL, 0), "") == 0);
}

/* One NULL at a time, with everything else as it should be. */
static void fallible_functions_name_the_parameter(const char *path) {
    mcandle_train_options *options = mcandle_train_options_new(), *made = NULL;
    mcandle_trainer *trainer = NULL, *next = NULL;
    mcandle_dataset *rows = NULL;
    mcandle_adapter *adapter = NULL;
    mcandle_string *text = NULL;
    mcandle_checkpoints *checkpoints = NULL;
    mcandle_model *model = NULL, *trained = NULL;
    double loss = 7;
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    SUCCEEDS(mcandle_dataset_from_jsonl(path, model, NULL, &rows, error));
    NULL_FAILS("json", mcandle_train_options_from_json(NULL, 1, &made, error));
    NULL_FAILS("options", mcandle_train_options_from_json("{}", 2, NULL, error));
    NULL_FAILS("options", mcandle_train_options_to_json(NULL, &text, error));
    NULL_FAILS("json", mcandle_train_options_to_json(options, NULL, error));
    mcandle_train_options_set_rank(options, 1);
    mcandle_train_options_set_target_modules(options, "q_proj");
    NULL_FAILS("model", mcandle_trainer_new(NULL, rows, NULL, options, &trainer, error));
    NULL_FAILS("train", mcandle_trainer_new(model, NULL, NULL, options, &trainer, error));
    NULL_FAILS("trainer", mcandle_trainer_new(model, rows, NULL, options, NULL, error));
    NULL_FAILS("model", mcandle_trainer_resume(NULL, rows, NULL, NULL, path, &trainer, error));
    NULL_FAILS("train", mcandle_trainer_resume(model, NULL, NULL, NULL, path, &trainer, error));
    NULL_FAILS("checkpoint", mcandle_trainer_resume(model, rows, NULL, NULL, NULL, &trainer, error));
    NULL_FAILS("trainer", mcandle_trainer_resume(model, rows, NULL, NULL, path, NULL, error));
    CHECK(trainer == NULL);
    SUCCEEDS(mcandle_trainer_new(model, rows, NULL, options, &trainer, error));
    NULL_FAILS("trainer", mcandle_trainer_train(NULL, NULL, NULL, NULL, error));
    NULL_FAILS("trainer", mcandle_trainer_adapter(NULL, &adapter, error));
    NULL_FAILS("adapter", mcandle_trainer_adapter(trainer, NULL, error));
    NULL_FAILS("trainer", mcandle_trainer_save_checkpoint(NULL, "x", error));
    NULL_FAILS("path", mcandle_trainer_save_checkpoint(trainer, NULL, error));
    NULL_FAILS("output_dir", mcandle_latest_checkpoint(NULL, &text, error));
    NULL_FAILS("checkpoint", mcandle_latest_checkpoint("x", NULL, error));

    NULL_FAILS("output_dir", mcandle_checkpoint_best(NULL, &text, NULL, NULL, error));
    NULL_FAILS("checkpoint", mcandle_checkpoint_best("x", NULL, NULL, NULL, error));
    NULL_FAILS("output_dir", mcandle_checkpoint_list(NULL, &checkpoints, error));
    NULL_FAILS("checkpoints", mcandle_checkpoint_list("x", NULL, error));
    NULL_FAILS("trainer", mcandle_trainer_evaluate(NULL, &loss, error));
    NULL_FAILS("loss", mcandle_trainer_evaluate(trainer, NULL, error));
    NULL_FAILS("trainer", mcandle_trainer_model(NULL, &trained, error));
    NULL_FAILS("model", mcandle_trainer_model(trainer, NULL, error));
    CHECK(made == NULL && text == NULL && checkpoints == NULL && trained == NULL && loss == 7);

    SUCCEEDS(mcandle_trainer_adapter(trainer, &adapter, error));
    NULL_FAILS("model", mcandle_trainer_from_adapter(NULL, rows, NULL, NULL, adapter, &next, error));
    NULL_FAILS("train", mcandle_trainer_from_adapter(model, NULL, NULL, NULL, adapter, &next, error));
    NULL_FAILS("adapter", mcandle_trainer_from_adapter(model, rows, NULL, NULL, NULL, &next, error));
    NULL_FAILS("trainer", mcandle_trainer_from_adapter(model, rows, NULL, NULL, adapter, NULL, error));
    CHECK(next == NULL);
    mcandle_adapter_free(adapter);
    mcandle_trainer_free(trainer);
    mcandle_dataset_free(rows);
    mcandle_model_free(model);
    mcandle_train_options_free(options);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    setters_and_frees_do_nothing();
    accessors_give_the_documented_value();
    fallible_functions_name_the_parameter(argv[1]);
    return 0;
}
