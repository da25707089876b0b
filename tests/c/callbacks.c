/* What callbacks may do: an object that calls one answers MCANDLE_BUSY to every function but cancel,
 * and everything else goes on as ever. And what is left after a cancel, and after parents are freed.
 *
 * Usage: callbacks ROWS
 */
#define MCANDLE_NO_NULLABILITY
#include "test.h"

#define PROMPT "fn main", 7
#define IS_BUSY(name, call) FAILS(call, MCANDLE_BUSY, "`" name "` is in use by another call")

static const uint32_t IDS[] = {1, 2, 3};
static const char *path;
static mcandle_model *model;
static int freed;

static void count_free(void *user_data) {
    (void)user_data;
    freed++;
}

static bool leave_logits(const uint32_t *tokens, size_t token_count, float *logits,
                         size_t logit_count, void *user_data) {
    (void)tokens, (void)user_data;
    return token_count > 0 && logit_count > 0 && logits != NULL;
}

/* What does not use the object that calls works as ever. */
static void use_the_model(void) {
    mcandle_generator *other = NULL;
    mcandle_adapter_list *list = NULL;
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_generate_options_set_max_tokens(options, 1);
    SUCCEEDS(mcandle_generator_new(model, &other, error));
    SUCCEEDS(mcandle_generator_generate(other, PROMPT, options, NULL, NULL, NULL, error));
    SUCCEEDS(mcandle_model_list_adapters(model, &list, error));
    mcandle_adapter_list_free(list);
    mcandle_generator_free(other);
    mcandle_generate_options_free(options);
}

static void a_generator_is_busy(mcandle_generator *generator) {
    mcandle_generator *fork = NULL;
    mcandle_tokens *context = NULL;
    mcandle_floats *floats = NULL;
    double number = 7;
    int before = freed;
    IS_BUSY("generator", mcandle_generator_generate(generator, PROMPT, NULL, NULL, NULL, NULL, error));
    IS_BUSY("generator",
            mcandle_generator_generate_from_ids(generator, IDS, 3, NULL, NULL, NULL, NULL, error));
    IS_BUSY("generator", mcandle_generator_chat(generator, "[{\"role\":\"user\",\"content\":\"a\"}]", 31,
                                                NULL, 0, NULL, NULL, NULL, NULL, error));
    IS_BUSY("generator", mcandle_generator_complete(generator, PROMPT, PROMPT, NULL, NULL, NULL, NULL,
                                                    NULL, error));
    IS_BUSY("generator", mcandle_generator_next_logits(generator, IDS, 3, &floats, error));
    IS_BUSY("generator", mcandle_generator_logprobs(generator, IDS, 3, &floats, error));
    IS_BUSY("generator",
            mcandle_generator_embed(generator, IDS, 3, MCANDLE_POOLING_MEAN, true, &floats, error));
    IS_BUSY("generator",
            mcandle_generator_perplexity(generator, IDS, 3, 2, 1, &number, NULL, NULL, error));
    IS_BUSY("generator", mcandle_generator_fork(generator, &fork, error));
    IS_BUSY("generator", mcandle_generator_context(generator, &context, error));
    IS_BUSY("generator", mcandle_generator_truncate(generator, 0, error));
    IS_BUSY("generator", mcandle_generator_set_adapter(generator, NULL, error));
    IS_BUSY("generator", mcandle_generator_set_draft_model(generator, NULL, error));
    IS_BUSY("generator", mcandle_generator_save_session(generator, "x", error));
    IS_BUSY("generator", mcandle_generator_load_session(generator, "x", error));
    IS_BUSY("generator", mcandle_generator_set_logits_processor(generator, leave_logits, NULL,
                                                                count_free, error));
    /* User data belongs to the library also where the call fails; FAILS makes it twice. */
    CHECK(freed == before + 2);
    CHECK(fork == NULL && context == NULL && floats == NULL && number == 7);
}

static bool generator_chunk(const mcandle_chunk *chunk, void *user_data) {
    a_generator_is_busy((mcandle_generator *)user_data);
    use_the_model();
    return mcandle_chunk_index(chunk) < 1;
}

static bool generator_logits(const uint32_t *tokens, size_t token_count, float *logits,
                             size_t logit_count, void *user_data) {
    (void)tokens, (void)token_count, (void)logits, (void)logit_count;
    a_generator_is_busy((mcandle_generator *)user_data);
    use_the_model();
    return true;
}

/* The callback that frees runs within the call that gives the user data up. */
static void free_in_use(void *user_data) {
    IS_BUSY("generator", mcandle_generator_truncate((mcandle_generator *)user_data, 0, error));
    freed++;
}

static void generators(void) {
    mcandle_generator *generator = NULL;
    mcandle_generation *generation = NULL;
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_generate_options_set_max_tokens(options, 2);
    mcandle_generate_options_set_ignore_eos(options, true);
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    SUCCEEDS(mcandle_generator_generate(generator, PROMPT, options, generator_chunk, generator,
                                        &generation, error));
    CHECK(mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_CANCELLED);
    mcandle_generation_free(generation);
    SUCCEEDS(mcandle_generator_set_logits_processor(generator, generator_logits, generator,
                                                    free_in_use, error));
    SUCCEEDS(mcandle_generator_generate(generator, PROMPT, options, NULL, NULL, &generation, error));
    CHECK(mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_LENGTH);
    mcandle_generation_free(generation);
    freed = 0;
    SUCCEEDS(mcandle_generator_set_logits_processor(generator, leave_logits, NULL, count_free, error));
    CHECK(freed == 1);
    /* A cancel before a generation has nothing to stop. */
    mcandle_generator_cancel(generator);
    SUCCEEDS(mcandle_generator_generate(generator, PROMPT, options, NULL, NULL, &generation, error));
    CHECK(mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_LENGTH);
    mcandle_generation_free(generation);
    mcandle_generator_free(generator);
    CHECK(freed == 2);
    mcandle_generate_options_free(options);
}

static void a_batch_is_busy(mcandle_batch *batch) {
    size_t number = 7;
    IS_BUSY("batch", mcandle_batch_run(batch, NULL, NULL, NULL, error));
    IS_BUSY("batch", mcandle_batch_step(batch, NULL, NULL, NULL, error));
    IS_BUSY("batch", mcandle_batch_push(batch, PROMPT, NULL, &number, error));
    IS_BUSY("batch", mcandle_batch_push_ids(batch, IDS, 3, NULL, &number, error));
    IS_BUSY("batch", mcandle_batch_push_ids_with(batch, IDS, 3, NULL, leave_logits, NULL, count_free,
                                                 &number, error));
    IS_BUSY("batch", mcandle_batch_length(batch, &number, error));
    IS_BUSY("batch", mcandle_batch_set_adapter(batch, NULL, error));
    IS_BUSY("batch", mcandle_batch_cancel_sequence(batch, 0, NULL, error));
    CHECK(number == 7);
}

static bool batch_chunk(const mcandle_chunk *chunk, void *user_data) {
    (void)chunk;
    a_batch_is_busy((mcandle_batch *)user_data);
    use_the_model();
    mcandle_batch_cancel((mcandle_batch *)user_data);
    return true;
}

static bool batch_logits(const uint32_t *tokens, size_t token_count, float *logits,
                         size_t logit_count, void *user_data) {
    (void)tokens, (void)token_count, (void)logits, (void)logit_count;
    a_batch_is_busy((mcandle_batch *)user_data);
    return true;
}

static void batches(void) {
    mcandle_batch *batch = NULL;
    mcandle_batch_results *results = NULL;
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_generate_options_set_max_tokens(options, 2);
    mcandle_generate_options_set_ignore_eos(options, true);
    SUCCEEDS(mcandle_batch_new(model, 2, &batch, error));
    SUCCEEDS(mcandle_batch_push_ids_with(batch, IDS, 3, options, batch_logits, batch, count_free,
                                         NULL, error));
    SUCCEEDS(mcandle_batch_run(batch, batch_chunk, batch, &results, error));
    CHECK(mcandle_batch_results_length(results) == 1);
    CHECK(mcandle_generation_finish_reason(mcandle_batch_results_generation(results, 0)) ==
          MCANDLE_FINISH_CANCELLED);
    CHECK(mcandle_batch_results_generation(results, SIZE_MAX) == NULL);
    mcandle_batch_results_free(results);
    /* A batch that was cancelled takes new texts. */
    SUCCEEDS(mcandle_batch_push_ids(batch, IDS, 3, options, NULL, error));
    SUCCEEDS(mcandle_batch_run(batch, NULL, NULL, &results, error));
    CHECK(mcandle_generation_finish_reason(mcandle_batch_results_generation(results, 0)) ==
          MCANDLE_FINISH_LENGTH);
    mcandle_batch_results_free(results);
    mcandle_batch_free(batch);
    mcandle_generate_options_free(options);
}

static bool trainer_event(const mcandle_train_event *event, void *user_data) {
    mcandle_trainer *trainer = (mcandle_trainer *)user_data;
    mcandle_adapter *adapter = NULL;
    mcandle_model *trained = NULL;
    double loss = 7;
    (void)event;
    IS_BUSY("trainer", mcandle_trainer_train(trainer, NULL, NULL, NULL, error));
    IS_BUSY("trainer", mcandle_trainer_evaluate(trainer, &loss, error));
    IS_BUSY("trainer", mcandle_trainer_adapter(trainer, &adapter, error));
    IS_BUSY("trainer", mcandle_trainer_model(trainer, &trained, error));
    IS_BUSY("trainer", mcandle_trainer_save_checkpoint(trainer, "x", error));
    CHECK(loss == 7 && adapter == NULL && trained == NULL);
    CHECK(mcandle_trainer_total_steps(trainer) == 2);
    if (mcandle_train_event_kind_of(event) == MCANDLE_TRAIN_EVENT_STEP) {
        use_the_model();
        mcandle_trainer_cancel(trainer);
    }
    return true;
}

static void trainers(void) {
    mcandle_train_options *options = mcandle_train_options_new();
    mcandle_dataset *rows = NULL;
    mcandle_trainer *trainer = NULL;
    mcandle_train_summary *summary = NULL;
    mcandle_adapter *adapter = NULL;
    double loss = 0;
    mcandle_train_options_set_steps(options, 2);
    mcandle_train_options_set_rank(options, 1);
    mcandle_train_options_set_target_modules(options, "q_proj");
    mcandle_train_options_set_eval_every(options, 0);
    SUCCEEDS(mcandle_dataset_from_jsonl(path, model, NULL, &rows, error));
    SUCCEEDS(mcandle_trainer_new(model, rows, rows, options, &trainer, error));
    /* The trainer keeps what it needs. */
    mcandle_dataset_free(rows);
    mcandle_train_options_free(options);
    SUCCEEDS(mcandle_trainer_train(trainer, trainer_event, trainer, &summary, error));
    CHECK(mcandle_train_summary_stop_reason(summary) == MCANDLE_TRAIN_STOP_CANCELLED);
    CHECK(mcandle_train_summary_steps(summary) == 1);
    mcandle_train_summary_free(summary);
    SUCCEEDS(mcandle_trainer_evaluate(trainer, &loss, error));
    CHECK(loss > 0);
    SUCCEEDS(mcandle_trainer_train(trainer, NULL, NULL, &summary, error));
    CHECK(mcandle_train_summary_stop_reason(summary) == MCANDLE_TRAIN_STOP_FINISHED);
    CHECK(mcandle_train_summary_steps(summary) == 2);
    mcandle_train_summary_free(summary);
    SUCCEEDS(mcandle_trainer_adapter(trainer, &adapter, error));
    mcandle_trainer_free(trainer);
    CHECK(mcandle_adapter_rank(adapter) == 1);
    mcandle_adapter_free(adapter);
}

/* The options that hold the callback can be changed while they load, and the model loaded again. */
typedef struct {
    mcandle_model_options *options;
    int calls;
    int last;
} loading;

static bool load_progress(uint64_t loaded_bytes, uint64_t total_bytes, void *user_data) {
    loading *l = (loading *)user_data;
    CHECK(loaded_bytes <= total_bytes);
    if (l->calls++ == 0) {
        mcandle_model *other = NULL;
        mcandle_model_options_set_progress(l->options, NULL, NULL);
        SUCCEEDS(mcandle_model_load(MODEL_DIR, l->options, &other, error));
        mcandle_model_free(other);
    }
    return l->calls < l->last;
}

static void loads(void) {
    loading l = {NULL, 0, 3};
    mcandle_model *loaded = NULL;
    l.options = mcandle_model_options_new();
    mcandle_model_options_set_progress(l.options, load_progress, &l);
    CHECK(mcandle_model_load(MODEL_DIR, l.options, &loaded, NULL) == MCANDLE_CANCELLED);
    CHECK(loaded == NULL && l.calls == 3);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, l.options, &loaded, error));
    mcandle_model_free(loaded);
    mcandle_model_options_free(l.options);
}

static int32_t next_row(const char **row, size_t *row_length, void *user_data) {
    mcandle_dataset *other = NULL;
    int *left = (int *)user_data;
    SUCCEEDS(mcandle_dataset_from_jsonl(path, model, NULL, &other, error));
    mcandle_dataset_free(other);
    *row = "{\"text\": \"a b\"}";
    *row_length = strlen(*row);
    return (*left)-- > 0;
}

static void rows(void) {
    mcandle_dataset *made = NULL;
    int left = 2;
    SUCCEEDS(mcandle_dataset_from_callback(next_row, &left, model, NULL, &made, error));
    CHECK(mcandle_dataset_length(made) == 2);
    mcandle_dataset_free(made);
}

static void on_piece(const mcandle_piece *piece, void *user_data) {
    mcandle_tool_call_parser *parser = (mcandle_tool_call_parser *)user_data;
    CHECK(strcmp(mcandle_piece_text(piece, NULL), "abc") == 0);
    IS_BUSY("parser", mcandle_tool_call_parser_push(parser, "x", 1, NULL, NULL, error));
    IS_BUSY("parser", mcandle_tool_call_parser_finish(parser, NULL, NULL, error));
    freed++;
}

static void pieces(void) {
    mcandle_tool_call_parser *parser = mcandle_tool_call_parser_new(false, false);
    freed = 0;
    SUCCEEDS(mcandle_tool_call_parser_push(parser, "abc", 3, on_piece, parser, error));
    SUCCEEDS(mcandle_tool_call_parser_finish(parser, on_piece, parser, error));
    CHECK(freed == 1);
    mcandle_tool_call_parser_free(parser);
}

/* Children keep what they need of what they were made from. */
static void parents_are_freed(void) {
    mcandle_model *parent = NULL, *draft = NULL;
    mcandle_generator *generator = NULL;
    mcandle_batch *batch = NULL;
    mcandle_tokenizer *tokenizer = NULL;
    mcandle_adapter *adapter = NULL;
    mcandle_tokens *tokens = NULL;
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_generate_options_set_max_tokens(options, 2);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &parent, error));
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &draft, error));
    SUCCEEDS(mcandle_generator_new(parent, &generator, error));
    SUCCEEDS(mcandle_batch_new(parent, 2, &batch, error));
    SUCCEEDS(mcandle_model_tokenizer(parent, &tokenizer, error));
    SUCCEEDS(mcandle_adapter_load("tests/fixtures/lora/nonzero_b", parent, &adapter, error));
    SUCCEEDS(mcandle_generator_set_draft_model(generator, draft, error));
    SUCCEEDS(mcandle_batch_set_adapter(batch, adapter, error));
    SUCCEEDS(mcandle_batch_push(batch, PROMPT, options, NULL, error));
    mcandle_adapter_free(adapter);
    mcandle_model_free(draft);
    mcandle_model_free(parent);
    SUCCEEDS(mcandle_generator_generate(generator, PROMPT, options, NULL, NULL, NULL, error));
    mcandle_generate_options_free(options);
    SUCCEEDS(mcandle_batch_run(batch, NULL, NULL, NULL, error));
    SUCCEEDS(mcandle_tokenizer_encode(tokenizer, PROMPT, false, &tokens, error));
    CHECK(mcandle_tokens_length(tokens) > 0);
    mcandle_tokens_free(tokens);
    mcandle_tokenizer_free(tokenizer);
    mcandle_batch_free(batch);
    mcandle_generator_free(generator);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    path = argv[1];
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    generators();
    batches();
    trainers();
    loads();
    rows();
    pieces();
    parents_are_freed();
    mcandle_model_free(model);
    return 0;
}
