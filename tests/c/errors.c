/* Every mistake has its status and a message that names what is wrong, and leaves outputs alone.
 *
 * Usage: errors FOLDER, with the broken inputs that the test harness makes.
 */
#include "test.h"

static const char *folder;
static mcandle_model *model;
static mcandle_tokenizer *tokenizer;
static mcandle_generator *generator;
static mcandle_dataset *rows;

/* What outputs hold before a call that fails, and still must hold after it. */
static char mark;
#define UNTOUCHED ((void *)&mark)

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
    mcandle_dataset_options *options = mcandle_dataset_options_new();
    mcandle_dataset *read = UNTOUCHED;
    FAILS(mcandle_dataset_from_jsonl(in("missing.jsonl"), tokenizer, NULL, &read, error),
          MCANDLE_NOT_FOUND, "/missing.jsonl: ", "expected");
    FAILS(mcandle_dataset_from_jsonl(in("empty.jsonl"), tokenizer, NULL, &read, error),
          MCANDLE_INVALID_FORMAT, "/empty.jsonl: ", "expected at least one row");
    FAILS(mcandle_dataset_from_jsonl(in("bad_row.jsonl"), tokenizer, NULL, &read, error),
          MCANDLE_INVALID_FORMAT, "/bad_row.jsonl:3: ", "`completion`", "expected");
    FAILS(mcandle_dataset_from_jsonl(in("bad_bytes.jsonl"), tokenizer, NULL, &read, error),
          MCANDLE_INVALID_FORMAT, "/bad_bytes.jsonl:1: ", "UTF-8 at column");
    mcandle_dataset_options_set_mask_prompt(options, false);
    mcandle_dataset_options_set_max_seq_length(options, 1);
    FAILS(mcandle_dataset_from_jsonl(in("rows.jsonl"), tokenizer, options, &read, error),
          MCANDLE_INVALID_ARGUMENT, "`max_seq_length` is 1", "at least 2");
    CHECK((void *)read == UNTOUCHED);
    mcandle_dataset_options_set_max_seq_length(options, 2);
    SUCCEEDS(mcandle_dataset_from_jsonl(in("rows.jsonl"), tokenizer, options, &read, error));
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

static void bad_generate_options(void) {
    mcandle_generation *generation = UNTOUCHED;
    mcandle_generate_options *options = mcandle_generate_options_new();
#define GENERATE_FAILS(...)                                                                        \
    FAILS(mcandle_generator_generate(generator, "a", 1, options, NULL, NULL, &generation, error),  \
          MCANDLE_INVALID_ARGUMENT, __VA_ARGS__)
    mcandle_generate_options_set_temperature(options, -1);
    GENERATE_FAILS("`temperature` is -1", "at least 0");
    mcandle_generate_options_set_temperature(options, 1);
    mcandle_generate_options_set_top_p(options, 0);
    GENERATE_FAILS("`top_p` is 0", "above 0");
    mcandle_generate_options_set_top_p(options, 1);
    mcandle_generate_options_set_max_tokens(options, 0);
    GENERATE_FAILS("`max_tokens` is 0", "at least 1");
    mcandle_generate_options_set_max_tokens(options, 1);
    mcandle_generate_options_set_prefill_chunk(options, 0);
    GENERATE_FAILS("`prefill_chunk` is 0", "at least 1");
    CHECK((void *)generation == UNTOUCHED);
    mcandle_generate_options_free(options);
}

static void bad_train_options(void) {
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
    mcandle_trainer *trainer = UNTOUCHED;
    mcandle_string *checkpoint = UNTOUCHED;
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
    SUCCEEDS(mcandle_adapter_load(in("other_adapter"), other, &adapter, error));
    CHECK(mcandle_adapter_rank(adapter) == 2 && mcandle_adapter_parameter_count(adapter) > 0);
    FAILS(mcandle_generator_set_adapter(generator, adapter, error), MCANDLE_INVALID_ARGUMENT,
          "`adapter`", "expected");
    FAILS(mcandle_adapter_save(adapter, in("empty.jsonl/x"), error), MCANDLE_IO, "/empty.jsonl");
    /* The rows have tokens beyond the small vocabulary of the other model. */
    FAILS(mcandle_trainer_new(other, rows, NULL, NULL, &trainer, error), MCANDLE_INVALID_ARGUMENT,
          "208");
    CHECK((void *)trainer == UNTOUCHED);

    FAILS(mcandle_latest_checkpoint(in("empty.jsonl"), &checkpoint, error), MCANDLE_IO,
          "/empty.jsonl");
    CHECK((void *)checkpoint == UNTOUCHED);
    SUCCEEDS(mcandle_latest_checkpoint(in("no_config"), &checkpoint, error));
    CHECK(checkpoint == NULL);
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
    SUCCEEDS(mcandle_dataset_from_jsonl(in("rows.jsonl"), tokenizer, NULL, &rows, error));
    broken_data();
    broken_prompts();
    bad_generate_options();
    bad_train_options();
    foreign_adapters();
    mcandle_dataset_free(rows);
    mcandle_generator_free(generator);
    mcandle_tokenizer_free(tokenizer);
    mcandle_model_free(model);
    return 0;
}
