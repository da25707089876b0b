/* A model's numbers, for the test to compare with those of transformers and PEFT: the logits after a
 * prompt, and the greedy tokens that follow, alone, token by token, in a batch and with a cache of its
 * own kind.
 *
 * Usage: parity MODEL ADAPTER COUNT ID..., with "-" for no adapter. Prints the logits in a line, and the
 * tokens of each way in one more.
 */
#include "test.h"

enum { MOST_IDS = 256 };

static uint32_t ids[MOST_IDS];
static size_t id_count;

static void print_tokens(const mcandle_generation *generation) {
    size_t count = 0, i;
    const uint32_t *tokens = mcandle_generation_tokens(generation, &count);
    CHECK(generation != NULL && mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_LENGTH);
    for (i = 0; i < count; i++) {
        printf(i == 0 ? "%u" : " %u", (unsigned)tokens[i]);
    }
    printf("\n");
}

static void print_logits(mcandle_generator *generator, size_t vocab_size) {
    mcandle_floats *logits = NULL;
    size_t i;
    SUCCEEDS(mcandle_generator_next_logits(generator, ids, id_count, &logits, error));
    CHECK(mcandle_floats_length(logits) == vocab_size);
    for (i = 0; i < vocab_size; i++) {
        printf(i == 0 ? "%.9g" : " %.9g", mcandle_floats_data(logits)[i]);
    }
    printf("\n");
    mcandle_floats_free(logits);
}

static void generate(const mcandle_model *model, const mcandle_adapter *adapter,
                     const mcandle_generate_options *options) {
    mcandle_generator *generator = NULL;
    mcandle_generation *generation = NULL;
    SUCCEEDS(mcandle_generator_new_with_cache_type(model, MCANDLE_CACHE_FULL, &generator, error));
    SUCCEEDS(mcandle_generator_set_adapter(generator, adapter, error));
    SUCCEEDS(mcandle_generator_generate_from_ids(generator, ids, id_count, options, NULL, NULL,
                                                 &generation, error));
    print_tokens(generation);
    mcandle_generation_free(generation);
    mcandle_generator_free(generator);
}

static void generate_in_a_batch(const mcandle_model *model, const mcandle_adapter *adapter,
                                const mcandle_generate_options *options) {
    mcandle_batch *batch = NULL;
    mcandle_batch_results *results = NULL;
    SUCCEEDS(mcandle_batch_new(model, 2, &batch, error));
    SUCCEEDS(mcandle_batch_set_adapter(batch, adapter, error));
    SUCCEEDS(mcandle_batch_push_ids(batch, ids, id_count, options, NULL, error));
    SUCCEEDS(mcandle_batch_push_ids(batch, ids, id_count / 2 + 1, options, NULL, error));
    SUCCEEDS(mcandle_batch_run(batch, NULL, NULL, &results, error));
    CHECK(mcandle_batch_results_length(results) == 2);
    print_tokens(mcandle_batch_results_generation(
        results, mcandle_batch_results_sequence(results, 0) == 0 ? 0 : 1));
    mcandle_batch_results_free(results);
    mcandle_batch_free(batch);
}

int main(int argc, char **argv) {
    mcandle_model_options *load = mcandle_model_options_new();
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_model *model = NULL;
    mcandle_adapter *adapter = NULL;
    mcandle_generator *generator = NULL;
    int i;
    CHECK(argc > 4 && argc - 4 <= MOST_IDS);
    for (i = 4; i < argc; i++) {
        ids[id_count++] = (uint32_t)strtoul(argv[i], NULL, 10);
    }
    mcandle_model_options_set_device(load, MCANDLE_DEVICE_CPU);
    mcandle_model_options_set_dtype(load, MCANDLE_DTYPE_F32);
    SUCCEEDS(mcandle_model_load(argv[1], load, &model, error));
    mcandle_model_options_free(load);
    if (strcmp(argv[2], "-") != 0) {
        SUCCEEDS(mcandle_adapter_load(argv[2], model, &adapter, error));
    }
    mcandle_generate_options_set_max_tokens(options, strtoul(argv[3], NULL, 10));
    mcandle_generate_options_set_ignore_eos(options, true);
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    SUCCEEDS(mcandle_generator_set_adapter(generator, adapter, error));
    print_logits(generator, mcandle_model_vocab_size(model));
    mcandle_generator_free(generator);
    generate(model, adapter, options);
    generate_in_a_batch(model, adapter, options);
    mcandle_generate_options_set_prefill_chunk(options, 1);
    generate(model, adapter, options);
    mcandle_generate_options_free(options);
    mcandle_adapter_free(adapter);
    mcandle_model_free(model);
    return 0;
}
