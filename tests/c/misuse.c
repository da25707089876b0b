/* Arguments that no program means: texts that are not UTF-8, lengths beyond all memory, NULL with a
 * length of 0, and numbers that are no constant of their kind. nulls.c has NULL.
 *
 * Usage: misuse FOLDER, with the inputs that the test harness makes.
 */
#define MCANDLE_NO_NULLABILITY
#include "test.h"

/* Two bytes, of which the second begins no character. */
#define BAD "a\xFF"

#define NOT_UTF8(name, call) FAILS(call, MCANDLE_INVALID_UTF8, "`" name "`", "byte 1 is 0xFF")
#define TOO_LONG(name, call)                                                                       \
    FAILS(call, MCANDLE_INVALID_ARGUMENT, "`" name "` has a length of", "fits into memory")
#define NO_CONSTANT(name, prefix, call)                                                            \
    FAILS(call, MCANDLE_INVALID_ARGUMENT, "`" name "` is ", prefix)

static const uint32_t IDS[] = {1, 2, 3};
static const char *folder;
static mcandle_model *model;
static mcandle_tokenizer *tokenizer;
static mcandle_generator *generator;
static mcandle_adapter *adapter;

static const char *in(const char *name) {
    static char path[4096];
    CHECK((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) < sizeof path);
    return path;
}

static void models(void) {
    mcandle_model_options *options = mcandle_model_options_new();
    mcandle_model_info *info = NULL;
    mcandle_model *loaded = NULL;
    uint64_t bytes = 7;
    NOT_UTF8("path", mcandle_model_load("a\xFF", NULL, &loaded, error));
    NOT_UTF8("path", mcandle_model_inspect("a\xFF", &info, error));
    NOT_UTF8("path", mcandle_model_save(model, "a\xFF", error));
    NOT_UTF8("path", mcandle_model_save_gguf(model, "a\xFF", MCANDLE_GGUF_F16, error));
    NO_CONSTANT("gguf_type", "MCANDLE_GGUF_", mcandle_model_save_gguf(model, "x", 99, error));
    mcandle_model_options_set_device(options, 99);
    NO_CONSTANT("device", "MCANDLE_DEVICE_", mcandle_model_load(MODEL_DIR, options, &loaded, error));
    mcandle_model_options_set_device(options, -1);
    NO_CONSTANT("device", "MCANDLE_DEVICE_", mcandle_model_load(MODEL_DIR, options, &loaded, error));
    mcandle_model_options_set_device(options, MCANDLE_DEVICE_CPU);
    mcandle_model_options_set_dtype(options, 99);
    NO_CONSTANT("dtype", "MCANDLE_DTYPE_", mcandle_model_load(MODEL_DIR, options, &loaded, error));
    mcandle_model_options_set_dtype(options, MCANDLE_DTYPE_AUTO);
    mcandle_model_options_set_quantization(options, SIZE_MAX, 64);
    FAILS(mcandle_model_load(MODEL_DIR, options, &loaded, error), MCANDLE_INVALID_ARGUMENT,
          "`bits` is ", "4 or 8");
    mcandle_model_options_set_quantization(options, 4, SIZE_MAX);
    FAILS(mcandle_model_load(MODEL_DIR, options, &loaded, error), MCANDLE_INVALID_ARGUMENT,
          "`group_size` is ", "32, 64 or 128");
    SUCCEEDS(mcandle_model_inspect(MODEL_DIR, &info, error));
    NO_CONSTANT("dtype", "MCANDLE_DTYPE_", mcandle_model_info_weights_size(info, 99, &bytes, error));
    NO_CONSTANT("dtype", "MCANDLE_DTYPE_",
                mcandle_model_info_cache_size(info, 1, 99, MCANDLE_CACHE_FULL, &bytes, error));
    NO_CONSTANT("cache_type", "MCANDLE_CACHE_",
                mcandle_model_info_cache_size(info, 1, MCANDLE_DTYPE_F32, 99, &bytes, error));
    CHECK(bytes == 7 && loaded == NULL);
    /* More tokens than bytes can be counted for take all bytes that there are. */
    SUCCEEDS(mcandle_model_info_cache_size(info, SIZE_MAX, MCANDLE_DTYPE_F32, MCANDLE_CACHE_FULL,
                                           &bytes, error));
    CHECK(bytes == UINT64_MAX);
    CHECK(!mcandle_device_is_available(99) && !mcandle_device_is_available(-1));
    CHECK(strcmp(mcandle_status_name(99), "unknown status") == 0);
    mcandle_model_info_free(info);
    mcandle_model_options_free(options);
}

static void adapters(void) {
    static const char *const NAMES[] = {BAD};
    mcandle_adapter *taken = NULL;
    NOT_UTF8("path", mcandle_adapter_load("a\xFF", model, &taken, error));
    NOT_UTF8("path", mcandle_adapter_save(adapter, "a\xFF", error));
    NOT_UTF8("path", mcandle_adapter_save_as(adapter, "a\xFF", MCANDLE_ADAPTER_FORMAT_MLX, error));
    NO_CONSTANT("format", "MCANDLE_ADAPTER_FORMAT_", mcandle_adapter_save_as(adapter, "x", 99, error));
    NOT_UTF8("name", mcandle_model_load_adapter(model, "a\xFF", "x", error));
    NOT_UTF8("path", mcandle_model_load_adapter(model, "a", "a\xFF", error));
    NOT_UTF8("name", mcandle_model_add_adapter(model, "a\xFF", adapter, error));
    NOT_UTF8("name", mcandle_model_unload_adapter(model, "a\xFF", error));
    NOT_UTF8("name", mcandle_model_activate_adapter(model, "a\xFF", error));
    NOT_UTF8("name", mcandle_model_deactivate_adapter(model, "a\xFF", error));
    NOT_UTF8("name", mcandle_model_set_adapter_weight(model, "a\xFF", 1, error));
    NOT_UTF8("name", mcandle_model_get_adapter(model, "a\xFF", &taken, error));
    NOT_UTF8("names", mcandle_model_set_active_adapters(model, NAMES, 1, error));
    TOO_LONG("names", mcandle_model_set_active_adapters(model, NAMES, SIZE_MAX, error));
    SUCCEEDS(mcandle_model_set_active_adapters(model, NULL, 0, error));
    CHECK(taken == NULL);
}

static void texts(void) {
    mcandle_tokens *tokens = NULL;
    mcandle_string *text = NULL;
    NOT_UTF8("text", mcandle_tokenizer_encode(tokenizer, "a\xFF", 2, false, &tokens, error));
    TOO_LONG("text", mcandle_tokenizer_encode(tokenizer, "a", SIZE_MAX, false, &tokens, error));
    TOO_LONG("ids", mcandle_tokenizer_decode(tokenizer, IDS, SIZE_MAX, false, &text, error));
    /* Fewer than SIZE_MAX, but of four bytes each. */
    TOO_LONG("ids", mcandle_tokenizer_decode(tokenizer, IDS, SIZE_MAX / 4, false, &text, error));
    NOT_UTF8("messages", mcandle_model_apply_chat_template(model, "a\xFF", 2, NULL, 0, &text, error));
    TOO_LONG("messages",
             mcandle_model_apply_chat_template(model, "[]", SIZE_MAX, NULL, 0, &text, error));
    FAILS(mcandle_model_apply_chat_template(model, NULL, 0, NULL, 0, &text, error),
          MCANDLE_INVALID_ARGUMENT, "`messages` is not JSON");
    NOT_UTF8("options",
             mcandle_model_apply_chat_template(model, "[]", 2, "a\xFF", 2, &text, error));
    TOO_LONG("options",
             mcandle_model_apply_chat_template(model, "[]", 2, "{}", SIZE_MAX, &text, error));
    FAILS(mcandle_model_apply_chat_template(NULL, "[]", 2, NULL, 0, &text, error),
          MCANDLE_NULL_POINTER, "`model`");
    FAILS(mcandle_model_apply_chat_template(model, "[]", 2, NULL, 0, NULL, error),
          MCANDLE_NULL_POINTER, "`text`");
    CHECK(tokens == NULL && text == NULL);
}

static void fill_in_the_middle(void) {
    mcandle_fim_context *context = mcandle_fim_context_new();
    mcandle_tokens *tokens = NULL;
    NOT_UTF8("repo_name", mcandle_fim_context_set_repo_name(context, "a\xFF", error));
    NOT_UTF8("path", mcandle_fim_context_set_path(context, "a\xFF", error));
    NOT_UTF8("path", mcandle_fim_context_add_file(context, "a\xFF", "a", 1, error));
    NOT_UTF8("text", mcandle_fim_context_add_file(context, "a", "a\xFF", 2, error));
    TOO_LONG("text", mcandle_fim_context_add_file(context, "a", "a", SIZE_MAX, error));
    SUCCEEDS(mcandle_fim_context_add_file(context, "a", NULL, 0, error));
    NOT_UTF8("prefix",
             mcandle_model_fim_prompt(model, "a\xFF", 2, NULL, 0, NULL, &tokens, error));
    NOT_UTF8("suffix",
             mcandle_model_fim_prompt(model, NULL, 0, "a\xFF", 2, NULL, &tokens, error));
    TOO_LONG("prefix",
             mcandle_model_fim_prompt(model, "a", SIZE_MAX, NULL, 0, NULL, &tokens, error));
    TOO_LONG("suffix",
             mcandle_model_fim_prompt(model, NULL, 0, "a", SIZE_MAX, NULL, &tokens, error));
    NOT_UTF8("prefix", mcandle_generator_complete(generator, "a\xFF", 2, NULL, 0, NULL, NULL, NULL,
                                                  NULL, NULL, error));
    NOT_UTF8("suffix", mcandle_generator_complete(generator, NULL, 0, "a\xFF", 2, NULL, NULL, NULL,
                                                  NULL, NULL, error));
    TOO_LONG("prefix", mcandle_generator_complete(generator, "a", SIZE_MAX, NULL, 0, NULL, NULL,
                                                  NULL, NULL, NULL, error));
    TOO_LONG("suffix", mcandle_generator_complete(generator, NULL, 0, "a", SIZE_MAX, NULL, NULL,
                                                  NULL, NULL, NULL, error));
    CHECK(tokens == NULL);
    mcandle_fim_context_free(context);
}

static void generate_options(void) {
    mcandle_generate_options *options = mcandle_generate_options_new(), *read = NULL;
    NOT_UTF8("json", mcandle_generate_options_from_json("a\xFF", 2, &read, error));
    TOO_LONG("json", mcandle_generate_options_from_json("{}", SIZE_MAX, &read, error));
    FAILS(mcandle_generate_options_from_json(NULL, 0, &read, error), MCANDLE_INVALID_ARGUMENT,
          "`options`");
    NOT_UTF8("stop", mcandle_generate_options_add_stop(options, "a\xFF", 2, error));
    TOO_LONG("stop", mcandle_generate_options_add_stop(options, "a", SIZE_MAX, error));
    NOT_UTF8("breaker",
             mcandle_generate_options_add_dry_sequence_breaker(options, "a\xFF", 2, error));
    TOO_LONG("breaker",
             mcandle_generate_options_add_dry_sequence_breaker(options, "a", SIZE_MAX, error));
    NOT_UTF8("json_schema", mcandle_generate_options_set_json_schema(options, "a\xFF", 2, error));
    TOO_LONG("json_schema", mcandle_generate_options_set_json_schema(options, "{}", SIZE_MAX, error));
    FAILS(mcandle_generate_options_set_json_schema(options, NULL, 0, error),
          MCANDLE_INVALID_ARGUMENT, "`json_schema` is not JSON");
    NOT_UTF8("regex", mcandle_generate_options_set_regex(options, "a\xFF", 2, error));
    TOO_LONG("regex", mcandle_generate_options_set_regex(options, "a", SIZE_MAX, error));
    SUCCEEDS(mcandle_generate_options_set_regex(options, NULL, 0, error));
    NOT_UTF8("lark", mcandle_generate_options_set_lark(options, "a\xFF", 2, error));
    TOO_LONG("lark", mcandle_generate_options_set_lark(options, "a", SIZE_MAX, error));
    SUCCEEDS(mcandle_generate_options_set_lark(options, NULL, 0, error));
    CHECK(read == NULL);
    mcandle_generate_options_free(options);
}

static void generators(void) {
    mcandle_generator *made = NULL;
    mcandle_floats *floats = NULL;
    double perplexity = 7;
    NO_CONSTANT("cache_type", "MCANDLE_CACHE_",
                mcandle_generator_new_with_cache_type(model, 99, &made, error));
    NOT_UTF8("prompt", mcandle_generator_generate(generator, "a\xFF", 2, NULL, NULL, NULL, NULL, error));
    TOO_LONG("prompt",
             mcandle_generator_generate(generator, "a", SIZE_MAX, NULL, NULL, NULL, NULL, error));
    FAILS(mcandle_generator_generate(generator, NULL, 0, NULL, NULL, NULL, NULL, error),
          MCANDLE_INVALID_ARGUMENT, "`prompt` is empty");
    TOO_LONG("ids", mcandle_generator_generate_from_ids(generator, IDS, SIZE_MAX, NULL, NULL, NULL,
                                                        NULL, error));
    FAILS(mcandle_generator_generate_from_ids(generator, NULL, 0, NULL, NULL, NULL, NULL, error),
          MCANDLE_INVALID_ARGUMENT, "`prompt` is empty");
    NOT_UTF8("messages", mcandle_generator_chat(generator, "a\xFF", 2, NULL, 0, NULL, NULL, NULL,
                                                NULL, error));
    TOO_LONG("messages", mcandle_generator_chat(generator, "[]", SIZE_MAX, NULL, 0, NULL, NULL,
                                                NULL, NULL, error));
    FAILS(mcandle_generator_chat(generator, NULL, 0, NULL, 0, NULL, NULL, NULL, NULL, error),
          MCANDLE_INVALID_ARGUMENT, "`messages` is not JSON");
    NOT_UTF8("chat_options", mcandle_generator_chat(generator, "[]", 2, "a\xFF", 2, NULL, NULL,
                                                    NULL, NULL, error));
    TOO_LONG("chat_options", mcandle_generator_chat(generator, "[]", 2, "{}", SIZE_MAX, NULL, NULL,
                                                    NULL, NULL, error));
    TOO_LONG("ids", mcandle_generator_next_logits(generator, IDS, SIZE_MAX, &floats, error));
    FAILS(mcandle_generator_next_logits(generator, NULL, 0, &floats, error),
          MCANDLE_INVALID_ARGUMENT, "0 ids");
    TOO_LONG("ids", mcandle_generator_logprobs(generator, IDS, SIZE_MAX, &floats, error));
    FAILS(mcandle_generator_logprobs(generator, NULL, 0, &floats, error),
          MCANDLE_INVALID_ARGUMENT, "0 ids");
    TOO_LONG("ids", mcandle_generator_embed(generator, IDS, SIZE_MAX, MCANDLE_POOLING_MEAN, true,
                                            &floats, error));
    FAILS(mcandle_generator_embed(generator, NULL, 0, MCANDLE_POOLING_MEAN, true, &floats, error),
          MCANDLE_INVALID_ARGUMENT, "0 ids");
    NO_CONSTANT("pooling", "MCANDLE_POOLING_",
                mcandle_generator_embed(generator, IDS, 3, 99, true, &floats, error));
    TOO_LONG("ids", mcandle_generator_perplexity(generator, IDS, SIZE_MAX, 2, 1, &perplexity, NULL,
                                                 NULL, error));
    FAILS(mcandle_generator_perplexity(generator, NULL, 0, 2, 1, &perplexity, NULL, NULL, error),
          MCANDLE_INVALID_ARGUMENT, "0 ids");
    FAILS(mcandle_generator_perplexity(generator, IDS, 3, SIZE_MAX, SIZE_MAX - 1, &perplexity, NULL,
                                       NULL, error),
          MCANDLE_INVALID_ARGUMENT, "`window` is ");
    NOT_UTF8("path", mcandle_generator_save_session(generator, "a\xFF", error));
    NOT_UTF8("path", mcandle_generator_load_session(generator, "a\xFF", error));
    SUCCEEDS(mcandle_generator_truncate(generator, SIZE_MAX, error));
    CHECK(made == NULL && floats == NULL && perplexity == 7);
}

static void batches(void) {
    mcandle_batch *batch = NULL;
    size_t sequence = 7;
    bool found = true;
    SUCCEEDS(mcandle_batch_new(model, SIZE_MAX, &batch, error));
    NOT_UTF8("prompt", mcandle_batch_push(batch, "a\xFF", 2, NULL, &sequence, error));
    TOO_LONG("prompt", mcandle_batch_push(batch, "a", SIZE_MAX, NULL, &sequence, error));
    FAILS(mcandle_batch_push(batch, NULL, 0, NULL, &sequence, error), MCANDLE_INVALID_ARGUMENT,
          "`prompt` is empty");
    TOO_LONG("ids", mcandle_batch_push_ids(batch, IDS, SIZE_MAX, NULL, &sequence, error));
    FAILS(mcandle_batch_push_ids(batch, NULL, 0, NULL, &sequence, error), MCANDLE_INVALID_ARGUMENT,
          "`prompt` is empty");
    TOO_LONG("ids", mcandle_batch_push_ids_with(batch, IDS, SIZE_MAX, NULL, NULL, NULL, NULL,
                                                &sequence, error));
    FAILS(mcandle_batch_push_ids_with(batch, NULL, 0, NULL, NULL, NULL, NULL, &sequence, error),
          MCANDLE_INVALID_ARGUMENT, "`prompt` is empty");
    SUCCEEDS(mcandle_batch_cancel_sequence(batch, SIZE_MAX, &found, error));
    CHECK(sequence == 7 && !found);
    mcandle_batch_free(batch);
}

/* Counts without a bound of their own: no memory is taken, and no sum overflows, for what is only
 * allowed. */
static bool stop_soon(const mcandle_chunk *chunk, void *user_data) {
    (void)user_data;
    return mcandle_chunk_index(chunk) < 1;
}

static void counts(void) {
    static void (*const SETTERS[])(mcandle_generate_options *, size_t) = {
        mcandle_generate_options_set_max_tokens,
        mcandle_generate_options_set_prefill_chunk,
        mcandle_generate_options_set_max_kv_size,
        mcandle_generate_options_set_top_k,
        mcandle_generate_options_set_penalty_last_n,
        mcandle_generate_options_set_dry_penalty_last_n,
        mcandle_generate_options_set_dry_allowed_length,
        mcandle_generate_options_set_prompt_lookup_num_tokens,
        mcandle_generate_options_set_num_draft_tokens,
    };
    static const size_t COUNTS[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 8 + 1};
    mcandle_generate_options *options = mcandle_generate_options_new();
    size_t i, j;
    mcandle_generate_options_set_repetition_penalty(options, 1.1);
    mcandle_generate_options_set_dry_multiplier(options, 0.5);
    for (i = 0; i < sizeof SETTERS / sizeof SETTERS[0]; i++) {
        for (j = 0; j < (is_light() ? 1 : sizeof COUNTS / sizeof COUNTS[0]); j++) {
            mcandle_generation *generation = NULL;
            SETTERS[i](options, COUNTS[j]);
            SUCCEEDS(mcandle_generator_generate(generator, "ab ab ab", 8, options, stop_soon, NULL,
                                                &generation, error));
            CHECK(mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_CANCELLED);
            mcandle_generation_free(generation);
        }
    }
    mcandle_generate_options_set_max_tokens(options, SIZE_MAX);
    mcandle_generate_options_set_min_tokens(options, SIZE_MAX);
    SUCCEEDS(mcandle_generator_generate(generator, "a", 1, options, stop_soon, NULL, NULL, error));
    mcandle_generate_options_set_context_shift(options, true);
    mcandle_generate_options_set_keep(options, SIZE_MAX);
    FAILS(mcandle_generator_generate(generator, "a", 1, options, NULL, NULL, NULL, error),
          MCANDLE_INVALID_ARGUMENT, "`keep` is ");
    mcandle_generate_options_set_context_shift(options, false);
    mcandle_generate_options_set_top_logprobs(options, SIZE_MAX);
    FAILS(mcandle_generator_generate(generator, "a", 1, options, NULL, NULL, NULL, error),
          MCANDLE_INVALID_ARGUMENT, "`top_logprobs` is ");
    mcandle_generate_options_free(options);
}

/* The row of a callback is as long as it says. */
static int32_t endless_row(const char **row, size_t *row_length, void *user_data) {
    (void)user_data;
    *row = "{}";
    *row_length = SIZE_MAX;
    return 1;
}

static int32_t bad_row(const char **row, size_t *row_length, void *user_data) {
    (void)user_data;
    *row = "{\"text\": \"a\xFF\"}";
    *row_length = strlen(*row);
    return 1;
}

static int32_t no_such_answer(const char **row, size_t *row_length, void *user_data) {
    (void)row, (void)row_length, (void)user_data;
    return 2;
}

static void data_sets(void) {
    mcandle_dataset_options *options = mcandle_dataset_options_new(), *read = NULL;
    mcandle_dataset *rows = NULL, *others = NULL;
    NOT_UTF8("json", mcandle_dataset_options_from_json("a\xFF", 2, &read, error));
    TOO_LONG("json", mcandle_dataset_options_from_json("{}", SIZE_MAX, &read, error));
    FAILS(mcandle_dataset_options_from_json(NULL, 0, &read, error), MCANDLE_INVALID_ARGUMENT,
          "`options`");
    NOT_UTF8("field", mcandle_dataset_options_set_field(options, "a\xFF", "x", error));
    NOT_UTF8("key", mcandle_dataset_options_set_field(options, "text", "a\xFF", error));
    NOT_UTF8("path", mcandle_dataset_from_jsonl("a\xFF", model, NULL, &rows, error));
    NOT_UTF8("path", mcandle_dataset_from_folder("a\xFF", model, NULL, &rows, &others, NULL, error));
    FAILS(mcandle_dataset_from_callback(endless_row, NULL, model, NULL, &rows, error),
          MCANDLE_INVALID_ARGUMENT, "`row_length` is ", "fits into memory");
    FAILS(mcandle_dataset_from_callback(bad_row, NULL, model, NULL, &rows, error),
          MCANDLE_INVALID_FORMAT, "UTF-8");
    FAILS(mcandle_dataset_from_callback(no_such_answer, NULL, model, NULL, &rows, error),
          MCANDLE_INVALID_ARGUMENT, "`next` is 2");
    mcandle_dataset_options_set_mask(options, 99);
    NO_CONSTANT("mask", "MCANDLE_LOSS_MASK_",
                mcandle_dataset_from_jsonl(in("rows.jsonl"), model, options, &rows, error));
    mcandle_dataset_options_set_mask(options, MCANDLE_LOSS_MASK_NONE);
    mcandle_dataset_options_set_on_bad_row(options, 99);
    NO_CONSTANT("on_bad_row", "MCANDLE_BAD_ROW_",
                mcandle_dataset_from_jsonl(in("rows.jsonl"), model, options, &rows, error));
    mcandle_dataset_options_set_on_bad_row(options, MCANDLE_BAD_ROW_STOP);
    CHECK(rows == NULL && others == NULL && read == NULL);
    mcandle_dataset_options_set_max_seq_length(options, SIZE_MAX);
    mcandle_dataset_options_set_max_bytes_in_memory(options, UINT64_MAX);
    SUCCEEDS(mcandle_dataset_from_jsonl(in("rows.jsonl"), model, options, &rows, error));
    CHECK(mcandle_dataset_skipped_line(rows, SIZE_MAX) == 0);
    CHECK(strcmp(mcandle_dataset_skipped_reason(rows, SIZE_MAX), "") == 0);
    mcandle_dataset_free(rows);
    mcandle_dataset_options_free(options);
}

static void tool_calls(void) {
    mcandle_tool_call_parser *parser = mcandle_tool_call_parser_new(false, false);
    NOT_UTF8("text", mcandle_tool_call_parser_push(parser, "a\xFF", 2, NULL, NULL, error));
    TOO_LONG("text", mcandle_tool_call_parser_push(parser, "a", SIZE_MAX, NULL, NULL, error));
    SUCCEEDS(mcandle_tool_call_parser_push(parser, NULL, 0, NULL, NULL, error));
    FAILS(mcandle_tool_call_parser_push(NULL, "a", 1, NULL, NULL, error), MCANDLE_NULL_POINTER,
          "`parser`");
    CHECK(mcandle_piece_text(NULL, NULL)[0] == '\0' && mcandle_piece_name(NULL, NULL)[0] == '\0');
    mcandle_tool_call_parser_free(parser);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    folder = argv[1];
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    SUCCEEDS(mcandle_model_tokenizer(model, &tokenizer, error));
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    SUCCEEDS(mcandle_adapter_load("tests/fixtures/lora/nonzero_b", model, &adapter, error));
    models();
    adapters();
    texts();
    fill_in_the_middle();
    generate_options();
    generators();
    batches();
    counts();
    data_sets();
    tool_calls();
    mcandle_adapter_free(adapter);
    mcandle_generator_free(generator);
    mcandle_tokenizer_free(tokenizer);
    mcandle_model_free(model);
    return 0;
}
