/* NULL for every pointer: functions that can fail name the parameter, the others do what they say.
 *
 * Usage: nulls FOLDER, with the inputs that the test harness makes.
 */
/* NULL is passed on purpose. */
#define MCANDLE_NO_NULLABILITY
#include "test.h"

#include <math.h>

#define NULL_FAILS(name, call) FAILS(call, MCANDLE_NULL_POINTER, "`" name "` is NULL")

static void setters_and_frees_do_nothing(void) {
    mcandle_model_options_set_device(NULL, MCANDLE_DEVICE_CPU);
    mcandle_model_options_set_dtype(NULL, MCANDLE_DTYPE_F32);
    mcandle_model_options_set_quantization(NULL, 4, 64);
    mcandle_model_options_set_progress(NULL, NULL, NULL);
    mcandle_model_options_free(NULL);
    mcandle_model_info_free(NULL);
    mcandle_dataset_options_set_max_seq_length(NULL, 8);
    mcandle_dataset_options_set_mask(NULL, MCANDLE_LOSS_MASK_NONE);
    mcandle_dataset_options_set_on_bad_row(NULL, MCANDLE_BAD_ROW_SKIP);
    mcandle_dataset_options_set_max_bytes_in_memory(NULL, 1);
    mcandle_dataset_options_free(NULL);
    mcandle_generate_options_set_max_tokens(NULL, 1);
    mcandle_generate_options_set_temperature(NULL, 1);
    mcandle_generate_options_set_top_k(NULL, 1);
    mcandle_generate_options_set_top_p(NULL, 1);
    mcandle_generate_options_set_seed(NULL, 1);
    mcandle_generate_options_set_prefill_chunk(NULL, 1);
    mcandle_generate_options_set_ignore_eos(NULL, true);
    mcandle_generate_options_set_min_tokens(NULL, 1);
    mcandle_generate_options_clear_stop(NULL);
    mcandle_generate_options_add_stop_token_id(NULL, 1);
    mcandle_generate_options_clear_stop_token_ids(NULL);
    mcandle_generate_options_set_max_time(NULL, 1);
    mcandle_generate_options_set_top_logprobs(NULL, 1);
    mcandle_generate_options_set_skip_special_tokens(NULL, true);
    mcandle_generate_options_set_max_kv_size(NULL, 2);
    mcandle_generate_options_set_context_shift(NULL, true);
    mcandle_generate_options_set_keep(NULL, 1);
    mcandle_generate_options_set_prompt_lookup_num_tokens(NULL, 1);
    mcandle_generate_options_set_num_draft_tokens(NULL, 1);
    mcandle_generate_options_clear_grammar(NULL);
    mcandle_generate_options_set_min_p(NULL, 1);
    mcandle_generate_options_set_typical_p(NULL, 1);
    mcandle_generate_options_set_xtc_probability(NULL, 1);
    mcandle_generate_options_set_xtc_threshold(NULL, 0);
    mcandle_generate_options_set_repetition_penalty(NULL, 1);
    mcandle_generate_options_set_presence_penalty(NULL, 1);
    mcandle_generate_options_set_frequency_penalty(NULL, 1);
    mcandle_generate_options_set_penalty_last_n(NULL, 1);
    mcandle_generate_options_set_dry_multiplier(NULL, 1);
    mcandle_generate_options_set_dry_base(NULL, 1);
    mcandle_generate_options_set_dry_allowed_length(NULL, 1);
    mcandle_generate_options_set_dry_penalty_last_n(NULL, 1);
    mcandle_generate_options_clear_dry_sequence_breakers(NULL);
    mcandle_generate_options_set_logit_bias(NULL, 1, 1);
    mcandle_generate_options_clear_logit_bias(NULL);
    mcandle_generate_options_free(NULL);
    mcandle_generator_cancel(NULL);
    mcandle_batch_cancel(NULL);
    mcandle_model_free(NULL);
    mcandle_tokenizer_free(NULL);
    mcandle_tokens_free(NULL);
    mcandle_string_free(NULL);
    mcandle_dataset_free(NULL);
    mcandle_adapter_free(NULL);
    mcandle_adapter_list_free(NULL);
    mcandle_generator_free(NULL);
    mcandle_generation_free(NULL);
    mcandle_batch_free(NULL);
    mcandle_batch_results_free(NULL);
    mcandle_floats_free(NULL);
    mcandle_error_free(NULL);
}

static void accessors_give_the_documented_value(void) {
    size_t length = 7;
    CHECK(mcandle_model_parameter_count(NULL) == 0);
    CHECK(mcandle_model_context_length(NULL) == 0);
    CHECK(mcandle_model_vocab_size(NULL) == 0);
    CHECK(!mcandle_model_is_quantized(NULL));
    CHECK(strcmp(mcandle_model_info_format(NULL), "") == 0);
    CHECK(strcmp(mcandle_model_info_architecture(NULL), "") == 0);
    CHECK(mcandle_model_info_quantization(NULL) == NULL);
    CHECK(mcandle_model_info_parameter_count(NULL) == 0);
    CHECK(mcandle_model_info_context_length(NULL) == 0);
    CHECK(mcandle_model_device(NULL) == MCANDLE_DEVICE_AUTO);
    CHECK(mcandle_model_dtype(NULL) == MCANDLE_DTYPE_AUTO);
    CHECK(strcmp(mcandle_string_data(NULL), "") == 0);
    CHECK(mcandle_string_length(NULL) == 0);
    CHECK(mcandle_tokens_data(NULL) == NULL);
    CHECK(mcandle_tokens_length(NULL) == 0);
    CHECK(mcandle_dataset_length(NULL) == 0);
    CHECK(mcandle_dataset_token_count(NULL) == 0);
    CHECK(mcandle_dataset_target_token_count(NULL) == 0);
    CHECK(mcandle_dataset_truncated_count(NULL) == 0);
    CHECK(mcandle_dataset_skipped_count(NULL) == 0);
    CHECK(mcandle_dataset_skipped_line(NULL, 0) == 0);
    CHECK(strcmp(mcandle_dataset_skipped_reason(NULL, 0), "") == 0);
    CHECK(mcandle_dataset_row_kind(NULL) == MCANDLE_ROW_KIND_SAMPLE);
    CHECK(mcandle_adapter_rank(NULL) == 0);
    CHECK(mcandle_adapter_parameter_count(NULL) == 0);
    CHECK(mcandle_adapter_list_length(NULL) == 0);
    CHECK(mcandle_adapter_list_name(NULL, 0, NULL)[0] == '\0');
    CHECK(mcandle_adapter_list_json(NULL, NULL)[0] == '\0');
    CHECK(mcandle_adapter_list_rank(NULL, 0) == 0);
    CHECK(mcandle_adapter_list_parameter_count(NULL, 0) == 0);
    CHECK(mcandle_adapter_list_weight(NULL, 0) == 0);
    CHECK(!mcandle_adapter_list_is_active(NULL, 0) && !mcandle_adapter_list_use_dora(NULL, 0));
    CHECK(mcandle_error_status(NULL) == MCANDLE_OK);
    CHECK(strcmp(mcandle_error_message(NULL), "") == 0);
    CHECK(mcandle_chunk_index(NULL) == 0);
    CHECK(mcandle_chunk_token(NULL) == 0);
    CHECK(mcandle_chunk_sequence(NULL) == 0);
    CHECK(isnan(mcandle_chunk_logprob(NULL)));
    CHECK(mcandle_chunk_top_tokens(NULL, NULL) == NULL);
    CHECK(mcandle_chunk_top_tokens(NULL, &length) == NULL && length == 0);
    length = 7;
    CHECK(mcandle_chunk_top_logprobs(NULL, NULL) == NULL);
    CHECK(mcandle_chunk_top_logprobs(NULL, &length) == NULL && length == 0);
    length = 7;
    CHECK(strcmp(mcandle_chunk_text(NULL, NULL), "") == 0);
    CHECK(strcmp(mcandle_chunk_text(NULL, &length), "") == 0 && length == 0);
    length = 7;
    CHECK(strcmp(mcandle_generation_text(NULL, NULL), "") == 0);
    CHECK(strcmp(mcandle_generation_text(NULL, &length), "") == 0 && length == 0);
    length = 7;
    CHECK(mcandle_generation_tokens(NULL, NULL) == NULL);
    CHECK(mcandle_generation_tokens(NULL, &length) == NULL && length == 0);
    length = 7;
    CHECK(mcandle_generation_logprobs(NULL, NULL) == NULL);
    CHECK(mcandle_generation_logprobs(NULL, &length) == NULL && length == 0);
    length = 7;
    CHECK(strcmp(mcandle_generation_stop_string(NULL, NULL), "") == 0);
    CHECK(strcmp(mcandle_generation_stop_string(NULL, &length), "") == 0 && length == 0);
    CHECK(mcandle_generation_cached_tokens(NULL) == 0);
    CHECK(mcandle_generation_drafted_tokens(NULL) == 0);
    CHECK(mcandle_generation_accepted_tokens(NULL) == 0);
    CHECK(mcandle_batch_results_length(NULL) == 0);
    CHECK(mcandle_batch_results_sequence(NULL, 0) == 0);
    CHECK(mcandle_batch_results_generation(NULL, 0) == NULL);
    CHECK(mcandle_batch_results_error(NULL, 0) == NULL);
    CHECK(mcandle_floats_data(NULL) == NULL);
    CHECK(mcandle_floats_length(NULL) == 0);
    CHECK(mcandle_generation_prompt_tokens(NULL) == 0);
    CHECK(mcandle_generation_time_to_first_token(NULL) == 0);
    CHECK(mcandle_generation_tokens_per_second(NULL) == 0);
    CHECK(mcandle_generation_finish_reason(NULL) == MCANDLE_FINISH_STOP);
}

static void the_rest_of_the_library(void) {
    mcandle_status status;
    CHECK(mcandle_abi_version() == MCANDLE_ABI_VERSION);
    CHECK(strcmp(mcandle_version(), MCANDLE_VERSION) == 0);
    CHECK(strcmp(mcandle_status_name(MCANDLE_OUT_OF_MEMORY), "MCANDLE_OUT_OF_MEMORY") == 0);
    for (status = MCANDLE_OK; status <= MCANDLE_OUT_OF_MEMORY; status++) {
        CHECK(strncmp(mcandle_status_name(status), "MCANDLE_", 8) == 0);
    }
    CHECK(strcmp(mcandle_status_name(-1), "unknown status") == 0);
    CHECK(strcmp(mcandle_status_name(MCANDLE_OUT_OF_MEMORY + 1), "unknown status") == 0);
    CHECK(mcandle_device_is_available(MCANDLE_DEVICE_CPU));
    CHECK(!mcandle_device_is_available(99));
    CHECK(mcandle_memory_current() > 0);
    CHECK(mcandle_memory_peak() > 0);
}

/* The rest of a generator and its options, with a generator that works. */
static void generation_names_the_parameter(const mcandle_model *model,
                                           mcandle_generator *generator) {
    static const uint32_t IDS[] = {1, 2};
    mcandle_generate_options *options = mcandle_generate_options_new(), *read = NULL;
    mcandle_generator *fork = NULL;
    mcandle_string *json = NULL;
    mcandle_tokens *context = NULL;
    mcandle_floats *floats = NULL;
    double perplexity = 0;

    NULL_FAILS("options", mcandle_generate_options_add_stop(NULL, "a", 1, error));
    NULL_FAILS("stop", mcandle_generate_options_add_stop(options, NULL, 1, error));
    NULL_FAILS("options", mcandle_generate_options_add_dry_sequence_breaker(NULL, "a", 1, error));
    NULL_FAILS("breaker", mcandle_generate_options_add_dry_sequence_breaker(options, NULL, 1, error));
    NULL_FAILS("options", mcandle_generate_options_set_json_schema(NULL, "{}", 2, error));
    NULL_FAILS("json_schema", mcandle_generate_options_set_json_schema(options, NULL, 2, error));
    NULL_FAILS("options", mcandle_generate_options_set_regex(NULL, "a", 1, error));
    NULL_FAILS("regex", mcandle_generate_options_set_regex(options, NULL, 1, error));
    NULL_FAILS("options", mcandle_generate_options_set_lark(NULL, "a", 1, error));
    NULL_FAILS("lark", mcandle_generate_options_set_lark(options, NULL, 1, error));
    NULL_FAILS("json", mcandle_generate_options_from_json(NULL, 2, &read, error));
    NULL_FAILS("options", mcandle_generate_options_from_json("{}", 2, NULL, error));
    NULL_FAILS("options", mcandle_generate_options_to_json(NULL, &json, error));
    NULL_FAILS("json", mcandle_generate_options_to_json(options, NULL, error));
    CHECK(read == NULL && json == NULL);

    NULL_FAILS("model", mcandle_generator_new_with_cache_type(NULL, MCANDLE_CACHE_FULL, &fork, error));
    NULL_FAILS("generator",
               mcandle_generator_new_with_cache_type(model, MCANDLE_CACHE_FULL, NULL, error));
    NULL_FAILS("generator", mcandle_generator_fork(NULL, &fork, error));
    NULL_FAILS("fork", mcandle_generator_fork(generator, NULL, error));
    NULL_FAILS("generator", mcandle_generator_set_draft_model(NULL, NULL, error));
    SUCCEEDS(mcandle_generator_set_draft_model(generator, NULL, error));
    NULL_FAILS("generator", mcandle_generator_set_logits_processor(NULL, NULL, NULL, NULL, error));
    SUCCEEDS(mcandle_generator_set_logits_processor(generator, NULL, NULL, NULL, error));
    NULL_FAILS("generator", mcandle_generator_context(NULL, &context, error));
    NULL_FAILS("context", mcandle_generator_context(generator, NULL, error));
    NULL_FAILS("generator", mcandle_generator_truncate(NULL, 0, error));
    NULL_FAILS("generator", mcandle_generator_save_session(NULL, "x", error));
    NULL_FAILS("path", mcandle_generator_save_session(generator, NULL, error));
    NULL_FAILS("generator", mcandle_generator_load_session(NULL, "x", error));
    NULL_FAILS("path", mcandle_generator_load_session(generator, NULL, error));
    NULL_FAILS("generator",
               mcandle_generator_generate_from_ids(NULL, IDS, 2, NULL, NULL, NULL, NULL, error));
    NULL_FAILS("ids",
               mcandle_generator_generate_from_ids(generator, NULL, 2, NULL, NULL, NULL, NULL, error));
    NULL_FAILS("generator", mcandle_generator_chat(NULL, "[]", 2, NULL, 0, NULL, NULL, NULL, NULL,
                                                   error));
    NULL_FAILS("messages", mcandle_generator_chat(generator, NULL, 2, NULL, 0, NULL, NULL, NULL,
                                                  NULL, error));
    NULL_FAILS("generator", mcandle_generator_complete(NULL, "a", 1, "b", 1, NULL, NULL, NULL, NULL,
                                                       NULL, error));
    NULL_FAILS("prefix", mcandle_generator_complete(generator, NULL, 1, "b", 1, NULL, NULL, NULL,
                                                    NULL, NULL, error));
    NULL_FAILS("suffix", mcandle_generator_complete(generator, "a", 1, NULL, 1, NULL, NULL, NULL,
                                                    NULL, NULL, error));
    NULL_FAILS("generator", mcandle_generator_next_logits(NULL, IDS, 2, &floats, error));
    NULL_FAILS("ids", mcandle_generator_next_logits(generator, NULL, 2, &floats, error));
    NULL_FAILS("logits", mcandle_generator_next_logits(generator, IDS, 2, NULL, error));
    NULL_FAILS("generator", mcandle_generator_logprobs(NULL, IDS, 2, &floats, error));
    NULL_FAILS("ids", mcandle_generator_logprobs(generator, NULL, 2, &floats, error));
    NULL_FAILS("logprobs", mcandle_generator_logprobs(generator, IDS, 2, NULL, error));
    NULL_FAILS("generator",
               mcandle_generator_perplexity(NULL, IDS, 2, 2, 1, &perplexity, NULL, NULL, error));
    NULL_FAILS("ids", mcandle_generator_perplexity(generator, NULL, 2, 2, 1, &perplexity, NULL, NULL,
                                                   error));
    NULL_FAILS("perplexity",
               mcandle_generator_perplexity(generator, IDS, 2, 2, 1, NULL, NULL, NULL, error));
    NULL_FAILS("generator",
               mcandle_generator_embed(NULL, IDS, 2, MCANDLE_POOLING_MEAN, true, &floats, error));
    NULL_FAILS("ids", mcandle_generator_embed(generator, NULL, 2, MCANDLE_POOLING_MEAN, true, &floats,
                                              error));
    NULL_FAILS("embedding",
               mcandle_generator_embed(generator, IDS, 2, MCANDLE_POOLING_MEAN, true, NULL, error));
    CHECK(fork == NULL && context == NULL && floats == NULL && perplexity == 0);
    mcandle_generate_options_free(options);
}

static void batches_name_the_parameter(const mcandle_model *model) {
    static const uint32_t IDS[] = {1, 2};
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_batch *batch = NULL;
    mcandle_batch_results *results = NULL;
    size_t length = 7;
    bool present = true;
    NULL_FAILS("model", mcandle_batch_new(NULL, 1, &batch, error));
    NULL_FAILS("batch", mcandle_batch_new(model, 1, NULL, error));
    CHECK(batch == NULL);
    SUCCEEDS(mcandle_batch_new(model, 1, &batch, error));
    NULL_FAILS("batch", mcandle_batch_set_adapter(NULL, NULL, error));
    SUCCEEDS(mcandle_batch_set_adapter(batch, NULL, error));
    NULL_FAILS("batch", mcandle_batch_push(NULL, "a", 1, NULL, NULL, error));
    NULL_FAILS("prompt", mcandle_batch_push(batch, NULL, 1, NULL, NULL, error));
    NULL_FAILS("batch", mcandle_batch_push_ids(NULL, IDS, 2, NULL, NULL, error));
    NULL_FAILS("ids", mcandle_batch_push_ids(batch, NULL, 2, NULL, NULL, error));
    NULL_FAILS("batch",
               mcandle_batch_push_ids_with(NULL, IDS, 2, NULL, NULL, NULL, NULL, NULL, error));
    NULL_FAILS("ids",
               mcandle_batch_push_ids_with(batch, NULL, 2, NULL, NULL, NULL, NULL, NULL, error));
    NULL_FAILS("batch", mcandle_batch_length(NULL, &length, error));
    NULL_FAILS("length", mcandle_batch_length(batch, NULL, error));
    NULL_FAILS("batch", mcandle_batch_run(NULL, NULL, NULL, &results, error));
    NULL_FAILS("batch", mcandle_batch_step(NULL, NULL, NULL, &results, error));
    NULL_FAILS("batch", mcandle_batch_cancel_sequence(NULL, 0, &present, error));
    CHECK(results == NULL && length == 7 && present);
    /* Outputs that need not be, and a callback that is none. */
    mcandle_generate_options_set_max_tokens(options, 1);
    SUCCEEDS(mcandle_batch_push(batch, "a", 1, options, NULL, error));
    SUCCEEDS(mcandle_batch_cancel_sequence(batch, 7, NULL, error));
    SUCCEEDS(mcandle_batch_step(batch, NULL, NULL, NULL, error));
    SUCCEEDS(mcandle_batch_push_ids(batch, IDS, 2, options, NULL, error));
    SUCCEEDS(mcandle_batch_run(batch, NULL, NULL, NULL, error));
    SUCCEEDS(mcandle_batch_length(batch, &length, error));
    CHECK(length == 0);
    mcandle_batch_free(batch);
    mcandle_generate_options_free(options);
}

static int32_t no_row(const char **row, size_t *row_length, void *user_data) {
    (void)row, (void)row_length;
    return *(int *)user_data;
}

static void data_sets_name_the_parameter(const mcandle_model *model, const char *path) {
    mcandle_dataset_options *options = mcandle_dataset_options_new(), *made = NULL;
    mcandle_dataset *rows = NULL;
    mcandle_string *json = NULL;
    int end = 0;
    NULL_FAILS("json", mcandle_dataset_options_from_json(NULL, 1, &made, error));
    NULL_FAILS("options", mcandle_dataset_options_from_json("{}", 2, NULL, error));
    NULL_FAILS("options", mcandle_dataset_options_to_json(NULL, &json, error));
    NULL_FAILS("json", mcandle_dataset_options_to_json(options, NULL, error));
    NULL_FAILS("options", mcandle_dataset_options_set_field(NULL, "text", "x", error));
    NULL_FAILS("field", mcandle_dataset_options_set_field(options, NULL, "x", error));
    NULL_FAILS("key", mcandle_dataset_options_set_field(options, "text", NULL, error));
    NULL_FAILS("path", mcandle_dataset_from_jsonl(NULL, model, NULL, &rows, error));
    NULL_FAILS("model", mcandle_dataset_from_jsonl(path, NULL, NULL, &rows, error));
    NULL_FAILS("dataset", mcandle_dataset_from_jsonl(path, model, NULL, NULL, error));
    NULL_FAILS("path", mcandle_dataset_from_folder(NULL, model, NULL, &rows, NULL, NULL, error));
    NULL_FAILS("model", mcandle_dataset_from_folder("x", NULL, NULL, &rows, NULL, NULL, error));
    NULL_FAILS("train", mcandle_dataset_from_folder("x", model, NULL, NULL, &rows, NULL, error));
    NULL_FAILS("next", mcandle_dataset_from_callback(NULL, &end, model, NULL, &rows, error));
    NULL_FAILS("model", mcandle_dataset_from_callback(no_row, &end, NULL, NULL, &rows, error));
    NULL_FAILS("dataset", mcandle_dataset_from_callback(no_row, &end, model, NULL, NULL, error));
    CHECK(made == NULL && rows == NULL && json == NULL);
    mcandle_dataset_options_free(options);
}

static void adapters_name_the_parameter(const mcandle_model *model,
                                        const mcandle_adapter *adapter) {
    static const char *const NAMES[] = {NULL};
    mcandle_adapter *taken = NULL;
    mcandle_adapter_list *list = NULL;
    mcandle_model *merged = NULL;
    NULL_FAILS("model", mcandle_model_load_adapter(NULL, "a", "x", error));
    NULL_FAILS("name", mcandle_model_load_adapter(model, NULL, "x", error));
    NULL_FAILS("path", mcandle_model_load_adapter(model, "a", NULL, error));
    NULL_FAILS("model", mcandle_model_add_adapter(NULL, "a", adapter, error));
    NULL_FAILS("name", mcandle_model_add_adapter(model, NULL, adapter, error));
    NULL_FAILS("adapter", mcandle_model_add_adapter(model, "a", NULL, error));
    NULL_FAILS("model", mcandle_model_unload_adapter(NULL, "a", error));
    NULL_FAILS("name", mcandle_model_unload_adapter(model, NULL, error));
    NULL_FAILS("model", mcandle_model_activate_adapter(NULL, "a", error));
    NULL_FAILS("name", mcandle_model_activate_adapter(model, NULL, error));
    NULL_FAILS("model", mcandle_model_deactivate_adapter(NULL, "a", error));
    NULL_FAILS("name", mcandle_model_deactivate_adapter(model, NULL, error));
    NULL_FAILS("model", mcandle_model_set_active_adapters(NULL, NULL, 0, error));
    NULL_FAILS("names", mcandle_model_set_active_adapters(model, NULL, 1, error));
    NULL_FAILS("names", mcandle_model_set_active_adapters(model, NAMES, 1, error));
    NULL_FAILS("model", mcandle_model_set_adapter_weight(NULL, "a", 1, error));
    NULL_FAILS("name", mcandle_model_set_adapter_weight(model, NULL, 1, error));
    NULL_FAILS("model", mcandle_model_get_adapter(NULL, "a", &taken, error));
    NULL_FAILS("name", mcandle_model_get_adapter(model, NULL, &taken, error));
    NULL_FAILS("adapter", mcandle_model_get_adapter(model, "a", NULL, error));
    NULL_FAILS("model", mcandle_model_list_adapters(NULL, &list, error));
    NULL_FAILS("list", mcandle_model_list_adapters(model, NULL, error));
    NULL_FAILS("model", mcandle_model_merge(NULL, adapter, &merged, error));
    NULL_FAILS("adapter", mcandle_model_merge(model, NULL, &merged, error));
    NULL_FAILS("merged", mcandle_model_merge(model, adapter, NULL, error));
    NULL_FAILS("model", mcandle_model_save(NULL, "x", error));
    NULL_FAILS("path", mcandle_model_save(model, NULL, error));
    NULL_FAILS("model", mcandle_model_save_gguf(NULL, "x", MCANDLE_GGUF_F16, error));
    NULL_FAILS("path", mcandle_model_save_gguf(model, NULL, MCANDLE_GGUF_F16, error));
    NULL_FAILS("adapter", mcandle_adapter_save_as(NULL, "x", MCANDLE_ADAPTER_FORMAT_MLX, error));
    NULL_FAILS("path", mcandle_adapter_save_as(adapter, NULL, MCANDLE_ADAPTER_FORMAT_MLX, error));
    CHECK(taken == NULL && list == NULL && merged == NULL);
}

static void info_functions_name_the_parameter(void) {
    mcandle_model_info *info = NULL;
    mcandle_string *json = NULL;
    uint64_t bytes = 7;
    NULL_FAILS("path", mcandle_model_inspect(NULL, &info, error));
    NULL_FAILS("info", mcandle_model_inspect(MODEL_DIR, NULL, error));
    SUCCEEDS(mcandle_model_inspect(MODEL_DIR, &info, error));
    NULL_FAILS("info", mcandle_model_info_json(NULL, &json, error));
    NULL_FAILS("json", mcandle_model_info_json(info, NULL, error));
    NULL_FAILS("info", mcandle_model_info_weights_size(NULL, MCANDLE_DTYPE_F32, &bytes, error));
    NULL_FAILS("bytes", mcandle_model_info_weights_size(info, MCANDLE_DTYPE_F32, NULL, error));
    NULL_FAILS("info", mcandle_model_info_cache_size(NULL, 1, MCANDLE_DTYPE_F32,
                                                     MCANDLE_CACHE_FULL, &bytes, error));
    NULL_FAILS("bytes", mcandle_model_info_cache_size(info, 1, MCANDLE_DTYPE_F32,
                                                      MCANDLE_CACHE_FULL, NULL, error));
    mcandle_model_info_free(info);
    CHECK(json == NULL && bytes == 7);
}

/* One NULL at a time, with everything else as it should be. */
static void fallible_functions_name_the_parameter(const char *path) {
    mcandle_model *model = NULL, *copy = NULL;
    mcandle_tokenizer *tokenizer = NULL;
    mcandle_dataset *rows = NULL;
    mcandle_adapter *adapter = NULL;
    mcandle_generator *generator = NULL;
    mcandle_string *text = NULL;
    mcandle_tokens *tokens = NULL;

    info_functions_name_the_parameter();
    NULL_FAILS("path", mcandle_model_load(NULL, NULL, &model, error));
    NULL_FAILS("model", mcandle_model_load(MODEL_DIR, NULL, NULL, error));
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    NULL_FAILS("model", mcandle_model_summary(NULL, &text, error));
    NULL_FAILS("summary", mcandle_model_summary(model, NULL, error));
    NULL_FAILS("model", mcandle_model_tokenizer(NULL, &tokenizer, error));
    NULL_FAILS("tokenizer", mcandle_model_tokenizer(model, NULL, error));
    SUCCEEDS(mcandle_model_tokenizer(model, &tokenizer, error));

    NULL_FAILS("tokenizer", mcandle_tokenizer_encode(NULL, "a", 1, false, &tokens, error));
    NULL_FAILS("text", mcandle_tokenizer_encode(tokenizer, NULL, 1, false, &tokens, error));
    NULL_FAILS("tokens", mcandle_tokenizer_encode(tokenizer, "a", 1, false, NULL, error));
    NULL_FAILS("tokenizer", mcandle_tokenizer_decode(NULL, NULL, 0, false, &text, error));
    NULL_FAILS("ids", mcandle_tokenizer_decode(tokenizer, NULL, 1, false, &text, error));
    NULL_FAILS("text", mcandle_tokenizer_decode(tokenizer, NULL, 0, false, NULL, error));
    CHECK(text == NULL && tokens == NULL);
    SUCCEEDS(mcandle_tokenizer_encode(tokenizer, NULL, 0, false, &tokens, error));
    CHECK(mcandle_tokens_length(tokens) == 0);
    SUCCEEDS(mcandle_tokenizer_decode(tokenizer, NULL, 0, false, &text, error));
    CHECK(mcandle_string_length(text) == 0);

    data_sets_name_the_parameter(model, path);
    SUCCEEDS(mcandle_dataset_from_jsonl(path, model, NULL, &rows, error));

    NULL_FAILS("model", mcandle_generator_new(NULL, &generator, error));
    NULL_FAILS("generator", mcandle_generator_new(model, NULL, error));
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    NULL_FAILS("generator", mcandle_generator_set_adapter(NULL, NULL, error));
    SUCCEEDS(mcandle_generator_set_adapter(generator, NULL, error));
    NULL_FAILS("generator",
               mcandle_generator_generate(NULL, "a", 1, NULL, NULL, NULL, NULL, error));
    NULL_FAILS("prompt",
               mcandle_generator_generate(generator, NULL, 1, NULL, NULL, NULL, NULL, error));
    generation_names_the_parameter(model, generator);
    batches_name_the_parameter(model);

    SUCCEEDS(mcandle_adapter_load("tests/fixtures/lora/nonzero_b", model, &adapter, error));
    NULL_FAILS("adapter", mcandle_adapter_save(NULL, "x", error));
    NULL_FAILS("path", mcandle_adapter_save(adapter, NULL, error));
    NULL_FAILS("path", mcandle_adapter_load(NULL, model, &adapter, error));
    NULL_FAILS("model", mcandle_adapter_load("x", NULL, &adapter, error));
    NULL_FAILS("adapter", mcandle_adapter_load("x", model, NULL, error));
    adapters_name_the_parameter(model, adapter);

    /* A place for an error is never needed, and not touched by a success. */
    CHECK(mcandle_model_load("tests", NULL, &copy, NULL) == MCANDLE_NOT_FOUND && copy == NULL);
    mcandle_tokens_free(tokens);
    mcandle_string_free(text);
    mcandle_adapter_free(adapter);
    mcandle_generator_free(generator);
    mcandle_dataset_free(rows);
    mcandle_tokenizer_free(tokenizer);
    mcandle_model_free(model);
}

int main(int argc, char **argv) {
    char path[4096];
    CHECK(argc == 2 && (size_t)snprintf(path, sizeof path, "%s/rows.jsonl", argv[1]) < sizeof path);
    setters_and_frees_do_nothing();
    accessors_give_the_documented_value();
    the_rest_of_the_library();
    fallible_functions_name_the_parameter(path);
    return 0;
}
