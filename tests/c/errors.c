/* Every mistake has its status and a message that names what is wrong, and leaves outputs alone.
 *
 * Usage: errors FOLDER, with the broken inputs that the test harness makes.
 */
#include "test.h"

#include <math.h>

static const char *folder;
static mcandle_model *model;
static mcandle_tokenizer *tokenizer;
static mcandle_generator *generator;
static mcandle_dataset *rows;

/* The path of an input; the next call overwrites it. */
static const char *in(const char *name) {
    static char path[4096];
    CHECK((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) < sizeof path);
    return path;
}

#define LOAD_FAILS(name, status, ...)                                                              \
    do {                                                                                           \
        mcandle_model *loaded = UNTOUCHED;                                                         \
        FAILS(mcandle_model_load(in(name), NULL, &loaded, error), status, __VA_ARGS__);            \
        CHECK((void *)loaded == UNTOUCHED);                                                        \
    } while (0)

static void broken_models(void) {
    mcandle_model_options *options = mcandle_model_options_new();
    mcandle_model *loaded = UNTOUCHED;
    LOAD_FAILS("missing", MCANDLE_NOT_FOUND, "/missing: ", "expected a model directory");
    LOAD_FAILS("empty.jsonl", MCANDLE_INVALID_FORMAT, "/empty.jsonl", "expected a model directory");
    LOAD_FAILS("no_config", MCANDLE_NOT_FOUND, "/no_config/config.json: ", "expected");
    LOAD_FAILS("bad_json", MCANDLE_INVALID_FORMAT, "/bad_json/config.json: ", "line 1");
    LOAD_FAILS("bad_value", MCANDLE_INVALID_FORMAT, "/bad_value/config.json: ", "`hidden_size`",
               "wide", "expected a whole number");
    LOAD_FAILS("unknown_architecture", MCANDLE_UNSUPPORTED, "architecture `fancy`", "supported: qwen2");
    LOAD_FAILS("no_weights", MCANDLE_NOT_FOUND, "/no_weights", "model.safetensors");
    LOAD_FAILS("truncated", MCANDLE_INVALID_FORMAT, "/truncated/model.safetensors: ", "truncated",
               "expected 254808");
    LOAD_FAILS("wrong_shape", MCANDLE_INVALID_FORMAT, "/wrong_shape/model.safetensors: ",
               "`model.layers.1.mlp.up_proj.weight`", "[32, 128]", "expected [64, 64]");
    LOAD_FAILS("missing_tensor", MCANDLE_INVALID_FORMAT, "/missing_tensor", "`model.norm.weight`",
               "missing", "expected shape [64]");
    LOAD_FAILS("small_vocabulary", MCANDLE_INVALID_FORMAT, "/small_vocabulary/config.json: ",
               "`vocab_size` is 208", "at least");
    LOAD_FAILS("bad_tokenizer", MCANDLE_INVALID_FORMAT, "/bad_tokenizer/tokenizer.json: ",
               "not a valid tokenizer");

    mcandle_model_options_set_device(options, 99);
    FAILS(mcandle_model_load(MODEL_DIR, options, &loaded, error), MCANDLE_INVALID_ARGUMENT,
          "`device` is 99", "MCANDLE_DEVICE_");
    mcandle_model_options_set_device(options, MCANDLE_DEVICE_CPU);
    mcandle_model_options_set_dtype(options, 99);
    FAILS(mcandle_model_load(MODEL_DIR, options, &loaded, error), MCANDLE_INVALID_ARGUMENT,
          "`dtype` is 99", "MCANDLE_DTYPE_");
    FAILS(mcandle_model_load("bad \xFF path", NULL, &loaded, error), MCANDLE_INVALID_UTF8, "`path`",
          "byte 4 is 0xFF");
    CHECK((void *)loaded == UNTOUCHED);
    mcandle_model_options_free(options);
}

static void broken_data(void) {
    mcandle_dataset_options *options = mcandle_dataset_options_new(), *made = UNTOUCHED;
    mcandle_dataset *read = UNTOUCHED;
    FAILS(mcandle_dataset_from_jsonl(in("missing.jsonl"), model, NULL, &read, error),
          MCANDLE_NOT_FOUND, "/missing.jsonl: ", "expected");
    FAILS(mcandle_dataset_from_jsonl(in("empty.jsonl"), model, NULL, &read, error),
          MCANDLE_INVALID_FORMAT, "/empty.jsonl: ", "expected at least one row");
    FAILS(mcandle_dataset_from_jsonl(in("bad_row.jsonl"), model, NULL, &read, error),
          MCANDLE_INVALID_FORMAT, "/bad_row.jsonl:3: ", "`completion`", "expected");
    FAILS(mcandle_dataset_from_jsonl(in("bad_bytes.jsonl"), model, NULL, &read, error),
          MCANDLE_INVALID_FORMAT, "/bad_bytes.jsonl:1: ", "UTF-8 at column");
    FAILS(mcandle_dataset_from_folder(in("other_model"), model, NULL, &read, NULL, NULL, error),
          MCANDLE_NOT_FOUND, "/train.jsonl: ", "valid.jsonl (or validation.jsonl)");
    mcandle_dataset_options_set_mask(options, 3);
    FAILS(mcandle_dataset_from_jsonl(in("rows.jsonl"), model, options, &read, error),
          MCANDLE_INVALID_ARGUMENT, "`mask` is 3", "MCANDLE_LOSS_MASK_");
    mcandle_dataset_options_set_mask(options, MCANDLE_LOSS_MASK_NONE);
    mcandle_dataset_options_set_on_bad_row(options, -1);
    FAILS(mcandle_dataset_from_jsonl(in("rows.jsonl"), model, options, &read, error),
          MCANDLE_INVALID_ARGUMENT, "`on_bad_row` is -1", "MCANDLE_BAD_ROW_");
    mcandle_dataset_options_set_on_bad_row(options, MCANDLE_BAD_ROW_STOP);
    FAILS(mcandle_dataset_options_set_field(options, "question", "prompt", error),
          MCANDLE_INVALID_ARGUMENT, "`field` is question", "text, prompt");
    FAILS(mcandle_dataset_options_from_json("{\"mask\": 1}", 11, &made, error),
          MCANDLE_INVALID_ARGUMENT, "`options`");
    CHECK((void *)made == UNTOUCHED);
    mcandle_dataset_options_set_max_seq_length(options, 1);
    FAILS(mcandle_dataset_from_jsonl(in("rows.jsonl"), model, options, &read, error),
          MCANDLE_INVALID_ARGUMENT, "`max_seq_length` is 1", "at least 2");
    CHECK((void *)read == UNTOUCHED);
    mcandle_dataset_options_set_max_seq_length(options, 2);
    SUCCEEDS(mcandle_dataset_from_jsonl(in("rows.jsonl"), model, options, &read, error));
    CHECK(mcandle_dataset_length(read) == 2 && mcandle_dataset_truncated_count(read) == 2);
    CHECK(mcandle_dataset_token_count(read) == 4);
    mcandle_dataset_free(read);
    mcandle_dataset_options_free(options);
}

static void broken_prompts(void) {
    enum { LONG = 4096 };
    static char text[LONG];
    mcandle_generation *generation = UNTOUCHED;
    size_t i;
    FAILS(mcandle_generator_generate(generator, "ab\xC3(", 4, NULL, NULL, NULL, &generation, error),
          MCANDLE_INVALID_UTF8, "`prompt`", "byte 2 is 0xC3");
    FAILS(mcandle_generator_generate(generator, NULL, 0, NULL, NULL, NULL, &generation, error),
          MCANDLE_INVALID_ARGUMENT, "`prompt` is empty", "expected at least one token");
    for (i = 0; i < LONG; i++) {
        text[i] = i % 2 == 0 ? '1' : '\n';
    }
    FAILS(mcandle_generator_generate(generator, text, LONG, NULL, NULL, NULL, &generation, error),
          MCANDLE_CONTEXT_FULL, "4097 tokens", "2048");
    CHECK((void *)generation == UNTOUCHED);
}

static void broken_conversations(void) {
    static const char QUESTION[] = "[{\"role\": \"user\", \"content\": \"a\"}]";
    mcandle_generation *generation = UNTOUCHED;
#define CHAT_FAILS(messages, options, status, ...)                                                 \
    FAILS(mcandle_generator_chat(generator, messages, strlen(messages), options, strlen(options),  \
                                 NULL, NULL, NULL, &generation, error),                            \
          status, __VA_ARGS__)
    CHAT_FAILS("[", "{}", MCANDLE_INVALID_ARGUMENT, "`messages` is not JSON", "line 1", "expected");
    CHAT_FAILS("", "{}", MCANDLE_INVALID_ARGUMENT, "`messages` is not JSON");
    CHAT_FAILS("{}", "{}", MCANDLE_INVALID_ARGUMENT, "`messages` is {}", "expected");
    CHAT_FAILS("[{}]", "{}", MCANDLE_INVALID_ARGUMENT, "`messages[0].role` is missing");
    CHAT_FAILS(QUESTION, "{", MCANDLE_INVALID_ARGUMENT, "`chat_options` is not JSON", "line 1");
    CHAT_FAILS(QUESTION, "{\"tool\": 1}", MCANDLE_INVALID_ARGUMENT, "tool", "is 1");
    CHAT_FAILS("\xFF", "{}", MCANDLE_INVALID_UTF8, "`messages`");
    CHAT_FAILS(QUESTION, "\xFF", MCANDLE_INVALID_UTF8, "`chat_options`");
    CHECK((void *)generation == UNTOUCHED);
}

static void bad_generate_options(void) {
    const double NaN = NAN;
    mcandle_generation *generation = UNTOUCHED;
    mcandle_generate_options *options = mcandle_generate_options_new();
#define GENERATE_FAILS(...)                                                                        \
    FAILS(mcandle_generator_generate(generator, "a", 1, options, NULL, NULL, &generation, error),  \
          MCANDLE_INVALID_ARGUMENT, __VA_ARGS__)
#define OUT_OF_RANGE(setting, value, good, range)                                                  \
    mcandle_generate_options_set_##setting(options, value);                                        \
    GENERATE_FAILS("`" #setting "` is " #value, range);                                            \
    mcandle_generate_options_set_##setting(options, good)
    OUT_OF_RANGE(temperature, -1, 1, "at least 0");
    OUT_OF_RANGE(top_p, 0, 1, "above 0");
    OUT_OF_RANGE(min_p, 2, 0, "0 to 1");
    OUT_OF_RANGE(typical_p, 0, 1, "above 0");
    OUT_OF_RANGE(xtc_probability, 2, 0, "0 to 1");
    OUT_OF_RANGE(xtc_threshold, 1, 0.1, "0 to 0.5");
    OUT_OF_RANGE(repetition_penalty, 0, 1, "above 0");
    OUT_OF_RANGE(presence_penalty, NaN, 0, "finite");
    OUT_OF_RANGE(frequency_penalty, NaN, 0, "finite");
    OUT_OF_RANGE(dry_multiplier, -1, 0, "at least 0");
    OUT_OF_RANGE(dry_base, 0, 1.75, "at least 1");
    OUT_OF_RANGE(max_tokens, 0, 1, "at least 1");
    OUT_OF_RANGE(min_tokens, 2, 0, "at most `max_tokens`, 1");
    OUT_OF_RANGE(max_time, -1, 0, "above 0, in seconds");
    OUT_OF_RANGE(max_time, NaN, 0, "above 0, in seconds");
    OUT_OF_RANGE(top_logprobs, 101, 0, "at most 100");
    OUT_OF_RANGE(prefill_chunk, 0, 1, "at least 1");
    OUT_OF_RANGE(max_kv_size, 1, 0, "at least 2");
    OUT_OF_RANGE(num_draft_tokens, 0, 3, "at least 1");
    mcandle_generate_options_set_context_shift(options, true);
    OUT_OF_RANGE(keep, 1024, 4, "below half the context of 2048");
    mcandle_generate_options_set_context_shift(options, false);
    mcandle_generate_options_set_logit_bias(options, 5, NAN);
    GENERATE_FAILS("`logit_bias` is NaN for token id 5", "negative infinity");
    mcandle_generate_options_clear_logit_bias(options);
    mcandle_generate_options_set_logit_bias(options, 6144, 1);
    GENERATE_FAILS("`logit_bias`", "6144");
    mcandle_generate_options_clear_logit_bias(options);
    mcandle_generate_options_add_stop_token_id(options, 6144);
    GENERATE_FAILS("`stop_token_ids` is token id 6144", "below the vocabulary size of 6144");
    mcandle_generate_options_clear_stop_token_ids(options);
    SUCCEEDS(mcandle_generate_options_add_stop(options, NULL, 0, error));
    GENERATE_FAILS("`stop` is an empty string", "text");
    mcandle_generate_options_clear_stop(options);
    SUCCEEDS(mcandle_generate_options_add_dry_sequence_breaker(options, NULL, 0, error));
    GENERATE_FAILS("`dry_sequence_breakers`", "at least one character");
    mcandle_generate_options_clear_dry_sequence_breakers(options);
    CHECK((void *)generation == UNTOUCHED);
    mcandle_generate_options_free(options);
}

static void bad_grammars_and_json(void) {
    mcandle_generation *generation = UNTOUCHED;
    mcandle_generate_options *options = mcandle_generate_options_new(), *read = UNTOUCHED;
    mcandle_string *json = UNTOUCHED;
    FAILS(mcandle_generate_options_set_json_schema(options, "{\"type\":", 8, error),
          MCANDLE_INVALID_ARGUMENT, "`json_schema` is not JSON", "column", "a JSON schema");
    FAILS(mcandle_generate_options_set_regex(options, "\xFF", 1, error), MCANDLE_INVALID_UTF8,
          "`regex`");
    FAILS(mcandle_generate_options_set_lark(options, "\xFF", 1, error), MCANDLE_INVALID_UTF8,
          "`lark`");
    FAILS(mcandle_generate_options_add_stop(options, "\xFF", 1, error), MCANDLE_INVALID_UTF8,
          "`stop`");
    FAILS(mcandle_generate_options_from_json("{\"top_k\": 1}", 12, &read, error),
          MCANDLE_INVALID_ARGUMENT, "`options`", "unknown field `top_k`");
    CHECK((void *)read == UNTOUCHED);
    mcandle_generate_options_set_top_p(options, NAN);
    FAILS(mcandle_generate_options_to_json(options, &json, error), MCANDLE_INVALID_ARGUMENT,
          "`top_p` is NaN");
    CHECK((void *)json == UNTOUCHED);
    mcandle_generate_options_set_top_p(options, 1);
    if (!is_light()) {
        SUCCEEDS(mcandle_generate_options_set_json_schema(options, "{\"typ\": 1}", 10, error));
        GENERATE_FAILS("`json_schema` is unusable", "typ");
        SUCCEEDS(mcandle_generate_options_set_regex(options, "(", 1, error));
        GENERATE_FAILS("`regex` is unusable", "expected a regular expression");
        SUCCEEDS(mcandle_generate_options_set_lark(options, "x", 1, error));
        GENERATE_FAILS("`lark` is unusable", "expected a Lark grammar");
    }
    CHECK((void *)generation == UNTOUCHED);
    mcandle_generate_options_free(options);
}

static void bad_generators_and_batches(void) {
    static const uint32_t IDS[] = {1, 2, 6144};
    mcandle_generator *made = UNTOUCHED;
    mcandle_floats *floats = UNTOUCHED;
    mcandle_batch *batch = UNTOUCHED;
    double perplexity = -1;
    size_t sequence = 77;
    FAILS(mcandle_generator_new_with_cache_type(model, 9, &made, error), MCANDLE_INVALID_ARGUMENT,
          "`cache_type` is 9", "MCANDLE_CACHE_");
    CHECK((void *)made == UNTOUCHED);
    FAILS(mcandle_generator_generate_from_ids(generator, IDS, 3, NULL, NULL, NULL, NULL, error),
          MCANDLE_INVALID_ARGUMENT, "`prompt` is token id 6144", "vocabulary");
    FAILS(mcandle_generator_next_logits(generator, IDS, 0, &floats, error),
          MCANDLE_INVALID_ARGUMENT, "`tokens` is 0 ids", "at least 1");
    FAILS(mcandle_generator_logprobs(generator, IDS, 1, &floats, error), MCANDLE_INVALID_ARGUMENT,
          "`tokens` is 1 ids", "at least 2");
    FAILS(mcandle_generator_embed(generator, IDS, 3, MCANDLE_POOLING_MEAN, true, &floats, error),
          MCANDLE_INVALID_ARGUMENT, "`tokens` is token id 6144");
    FAILS(mcandle_generator_embed(generator, IDS, 2, 9, true, &floats, error),
          MCANDLE_INVALID_ARGUMENT, "`pooling` is 9", "MCANDLE_POOLING_");
    CHECK((void *)floats == UNTOUCHED);
    FAILS(mcandle_generator_perplexity(generator, IDS, 2, 1, 1, &perplexity, NULL, NULL, error),
          MCANDLE_INVALID_ARGUMENT, "`window` is 1", "2 or more");
    FAILS(mcandle_generator_perplexity(generator, IDS, 2, 4, 4, &perplexity, NULL, NULL, error),
          MCANDLE_INVALID_ARGUMENT, "`stride` is 4", "below `window`, 4");
    CHECK(perplexity == -1);

    FAILS(mcandle_generator_load_session(generator, in("missing"), error), MCANDLE_NOT_FOUND,
          "/missing");
    FAILS(mcandle_generator_load_session(generator, in("rows.jsonl"), error),
          MCANDLE_INVALID_FORMAT, "/rows.jsonl");
    FAILS(mcandle_generator_save_session(generator, in("empty.jsonl/x"), error), MCANDLE_IO,
          "/empty.jsonl");

    FAILS(mcandle_batch_new(model, 0, &batch, error), MCANDLE_INVALID_ARGUMENT,
          "`max_batch_size` is 0", "at least 1");
    CHECK((void *)batch == UNTOUCHED);
    SUCCEEDS(mcandle_batch_new(model, 1, &batch, error));
    FAILS(mcandle_batch_push(batch, "\xFF", 1, NULL, &sequence, error), MCANDLE_INVALID_UTF8,
          "`prompt`");
    FAILS(mcandle_batch_push_ids(batch, IDS, 3, NULL, &sequence, error), MCANDLE_INVALID_ARGUMENT,
          "`prompt` is token id 6144");
    CHECK(sequence == 77);
    mcandle_batch_free(batch);
}

static void bad_train_options(void) {
    const double NaN = NAN;
    mcandle_trainer *trainer = UNTOUCHED;
    mcandle_train_options *options = mcandle_train_options_new();
#define TRAINER_FAILS(...)                                                                         \
    FAILS(mcandle_trainer_new(model, rows, NULL, options, &trainer, error),                        \
          MCANDLE_INVALID_ARGUMENT, __VA_ARGS__)
#define REFUSED(setting, value, good, range)                                                       \
    mcandle_train_options_set_##setting(options, value);                                           \
    TRAINER_FAILS("`" #setting "` is " #value, range);                                             \
    mcandle_train_options_set_##setting(options, good)
    REFUSED(steps, 0, 1, "at least 1");
    REFUSED(batch_size, 0, 1, "at least 1");
    REFUSED(gradient_accumulation, 0, 1, "at least 1");
    REFUSED(learning_rate, 0, 1e-4, "above 0");
    REFUSED(schedule, 9, MCANDLE_SCHEDULE_LINEAR, "MCANDLE_SCHEDULE_");
    REFUSED(warmup_steps, 2, 1, "at most the 1 steps");
    REFUSED(weight_decay, -1, 0, "0");
    REFUSED(eps, 0, 1e-8, "above 0");
    REFUSED(max_grad_norm, -1, 0, "0 or more");
    REFUSED(rank, 0, 2, "1 to 4096");
    REFUSED(alpha, 0, 4, "above 0");
    REFUSED(dropout, 1, 0.5, "below 1");
    REFUSED(epochs, -1, 0, "above 0");
    REFUSED(batching, 9, MCANDLE_BATCHING_PLAIN, "MCANDLE_BATCHING_");
    REFUSED(min_learning_rate, 1, 0, "at most the learning rate");
    REFUSED(optimizer, 9, MCANDLE_OPTIMIZER_ADAMW, "MCANDLE_OPTIMIZER_");
    REFUSED(label_smoothing, 1, 0, "below 1");
    REFUSED(early_stopping_min_delta, -1, 0, "0 or more");
    REFUSED(method, 9, MCANDLE_METHOD_LORA, "MCANDLE_METHOD_");
    REFUSED(scale, 0, 20, "above 0");
    REFUSED(scale, NaN, 20, "above 0");
    mcandle_train_options_set_schedule_step(options, 0, 0.1);
    TRAINER_FAILS("`step_size` is 0", "at least 1");
    mcandle_train_options_set_schedule_exponential(options, 2);
    TRAINER_FAILS("`gamma` is 2", "at most 1");
    mcandle_train_options_set_schedule(options, MCANDLE_SCHEDULE_CONSTANT);
    mcandle_train_options_set_preference_dpo(options, 0, 0);
    TRAINER_FAILS("`beta` is 0", "above 0");
    mcandle_train_options_set_preference_dpo(options, 0.1, 0.5);
    TRAINER_FAILS("`label_smoothing` is 0.5", "below 0.5");
    mcandle_train_options_set_preference_orpo(options, -1);
    TRAINER_FAILS("`lambda` is -1", "above 0");
    mcandle_train_options_clear_preference(options);
    mcandle_train_options_set_target_pattern(options, "(");
    TRAINER_FAILS("`target_modules` is `(`", "regular expression");
    mcandle_train_options_set_target_pattern(options, "q_proj");
    TRAINER_FAILS("`q_proj`, which matches nothing", "whole names");
    mcandle_train_options_set_target_pattern(options, "\xFF");
    FAILS(mcandle_trainer_new(model, rows, NULL, options, &trainer, error), MCANDLE_INVALID_UTF8,
          "`target_pattern`");
    mcandle_train_options_set_target_pattern(options, NULL);
    mcandle_train_options_free(options);
    options = mcandle_train_options_new();
    mcandle_train_options_set_batching(options, MCANDLE_BATCHING_PACKED);
    mcandle_train_options_set_pack_length(options, 1);
    TRAINER_FAILS("is 1", "expected");
    mcandle_train_options_set_batching(options, MCANDLE_BATCHING_PLAIN);
    mcandle_train_options_set_optimizer(options, MCANDLE_OPTIMIZER_SGD);
    mcandle_train_options_set_momentum(options, 1);
    TRAINER_FAILS("`momentum` is 1", "below 1");
    mcandle_train_options_free(options);
    options = mcandle_train_options_new();
    mcandle_train_options_set_betas(options, 0.9, 1);
    TRAINER_FAILS("`beta2` is 1", "below 1");
    mcandle_train_options_set_betas(options, 0.9, 0.99);
    mcandle_train_options_set_target_modules(options, "q_proj,z_proj");
    TRAINER_FAILS("`z_proj`", "one of q_proj, k_proj");
    mcandle_train_options_set_target_modules(options, NULL);
    mcandle_train_options_set_output_dir(options, "\xFF");
    FAILS(mcandle_trainer_new(model, rows, NULL, options, &trainer, error), MCANDLE_INVALID_UTF8,
          "`output_dir`");
    mcandle_train_options_set_output_dir(options, NULL);
    FAILS(mcandle_trainer_resume(model, rows, NULL, options, in("missing"), &trainer, error),
          MCANDLE_NOT_FOUND, "/missing");
    CHECK((void *)trainer == UNTOUCHED);
    mcandle_train_options_free(options);
}

static void foreign_adapters(void) {
    mcandle_model *other = NULL;
    mcandle_tokenizer *none = UNTOUCHED;
    mcandle_adapter *adapter = UNTOUCHED;
    mcandle_generator *mute = NULL;
    mcandle_batch *batch = NULL;
    mcandle_trainer *trainer = UNTOUCHED;
    mcandle_string *checkpoint = UNTOUCHED;
    mcandle_checkpoints *checkpoints = UNTOUCHED;
    size_t step = 77;
    double loss = 77;
    FAILS(mcandle_adapter_load(in("missing"), model, &adapter, error), MCANDLE_NOT_FOUND,
          "/missing", "expected");
    FAILS(mcandle_adapter_load(in("other_adapter"), model, &adapter, error), MCANDLE_INCOMPATIBLE,
          "/other_adapter", "lora_A", "[2, 64]", "expected [2, 256]");
    CHECK((void *)adapter == UNTOUCHED);

    SUCCEEDS(mcandle_model_load(in("other_model"), NULL, &other, error));
    FAILS(mcandle_model_tokenizer(other, &none, error), MCANDLE_TOKENIZER, "tokenizer.json");
    CHECK((void *)none == UNTOUCHED);
    SUCCEEDS(mcandle_generator_new(other, &mute, error));
    FAILS(mcandle_generator_generate(mute, "a", 1, NULL, NULL, NULL, NULL, error),
          MCANDLE_TOKENIZER, "tokenizer.json");
    FAILS(mcandle_generator_set_draft_model(generator, other, error), MCANDLE_INVALID_ARGUMENT,
          "`draft_model`", "/other_model");
    SUCCEEDS(mcandle_adapter_load(in("other_adapter"), other, &adapter, error));
    CHECK(mcandle_adapter_rank(adapter) == 2 && mcandle_adapter_parameter_count(adapter) > 0);
    FAILS(mcandle_generator_set_adapter(generator, adapter, error), MCANDLE_INVALID_ARGUMENT,
          "`adapter`", "expected");
    SUCCEEDS(mcandle_batch_new(model, 1, &batch, error));
    FAILS(mcandle_batch_set_adapter(batch, adapter, error), MCANDLE_INVALID_ARGUMENT, "`adapter`",
          "expected");
    FAILS(mcandle_trainer_from_adapter(model, rows, NULL, NULL, adapter, &trainer, error),
          MCANDLE_INVALID_ARGUMENT, "`adapter`", "expected");
    mcandle_batch_free(batch);
    SUCCEEDS(mcandle_generator_save_session(mute, in("other_session"), error));
    FAILS(mcandle_generator_load_session(generator, in("other_session"), error),
          MCANDLE_INCOMPATIBLE, "/other_session", "expected");
    FAILS(mcandle_adapter_save(adapter, in("empty.jsonl/x"), error), MCANDLE_IO, "/empty.jsonl");
    /* The rows have tokens beyond the small vocabulary of the other model. */
    FAILS(mcandle_trainer_new(other, rows, NULL, NULL, &trainer, error), MCANDLE_INVALID_ARGUMENT,
          "208");
    CHECK((void *)trainer == UNTOUCHED);

    FAILS(mcandle_latest_checkpoint(in("empty.jsonl"), &checkpoint, error), MCANDLE_IO,
          "/empty.jsonl");
    FAILS(mcandle_checkpoint_list(in("empty.jsonl"), &checkpoints, error), MCANDLE_IO,
          "/empty.jsonl");
    FAILS(mcandle_checkpoint_best(in("bad_best"), &checkpoint, &step, &loss, error),
          MCANDLE_INVALID_FORMAT, "/best.json", "`loss`", "a number");
    CHECK((void *)checkpoint == UNTOUCHED && (void *)checkpoints == UNTOUCHED);
    CHECK(step == 77 && loss == 77);
    SUCCEEDS(mcandle_latest_checkpoint(in("no_config"), &checkpoint, error));
    CHECK(checkpoint == NULL);
    SUCCEEDS(mcandle_checkpoint_best(in("no_config"), &checkpoint, NULL, NULL, error));
    CHECK(checkpoint == NULL);
    SUCCEEDS(mcandle_checkpoint_list(in("missing"), &checkpoints, error));
    CHECK(mcandle_checkpoints_length(checkpoints) == 0);
    mcandle_checkpoints_free(checkpoints);
    mcandle_generator_free(mute);
    mcandle_adapter_free(adapter);
    mcandle_model_free(other);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    folder = argv[1];
    broken_models();
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    SUCCEEDS(mcandle_model_tokenizer(model, &tokenizer, error));
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    SUCCEEDS(mcandle_dataset_from_jsonl(in("rows.jsonl"), model, NULL, &rows, error));
    broken_data();
    broken_prompts();
    broken_conversations();
    bad_generate_options();
    bad_grammars_and_json();
    bad_generators_and_batches();
    bad_train_options();
    foreign_adapters();
    mcandle_dataset_free(rows);
    mcandle_generator_free(generator);
    mcandle_tokenizer_free(tokenizer);
    mcandle_model_free(model);
    return 0;
}
