/* Stored models: what they are, how they are loaded, how far, and in how many bits.
 *
 * Usage: formats
 */
#include "test.h"

#define MLX_DIR "tests/fixtures/mlx/q4"
#define PICKLE_DIR "tests/fixtures/models/qwen2_tied_pickle"

static void headers_tell_what_a_model_is(void) {
    mcandle_model_info *info = NULL;
    mcandle_string *json = NULL;
    uint64_t bytes = 0;
    SUCCEEDS(mcandle_model_inspect(MODEL_DIR, &info, error));
    CHECK(strcmp(mcandle_model_info_format(info), "safetensors") == 0);
    CHECK(strcmp(mcandle_model_info_architecture(info), "qwen2") == 0);
    CHECK(mcandle_model_info_quantization(info) == NULL);
    CHECK(mcandle_model_info_parameter_count(info) == 6297856);
    CHECK(mcandle_model_info_context_length(info) > 0);
    SUCCEEDS(mcandle_model_info_weights_size(info, MCANDLE_DTYPE_BF16, &bytes, error));
    CHECK(bytes == 2 * 6297856);
    SUCCEEDS(mcandle_model_info_cache_size(info, 1000, MCANDLE_DTYPE_F32, MCANDLE_CACHE_FULL,
                                           &bytes, error));
    CHECK(bytes > 0);
    bytes = 7;
    FAILS(mcandle_model_info_weights_size(info, MCANDLE_DTYPE_AUTO, &bytes, error),
          MCANDLE_INVALID_ARGUMENT, "`dtype` is 0", "MCANDLE_DTYPE_F32");
    FAILS(mcandle_model_info_cache_size(info, 1, MCANDLE_DTYPE_F32, 9, &bytes, error),
          MCANDLE_INVALID_ARGUMENT, "`cache_type` is 9");
    CHECK(bytes == 7);
    SUCCEEDS(mcandle_model_info_json(info, &json, error));
    CHECK(strstr(mcandle_string_data(json), "\"parameters\":6297856") != NULL);
    CHECK(strstr(mcandle_string_data(json), "\"quantization\":null") != NULL);
    mcandle_string_free(json);
    mcandle_model_info_free(info);

    info = NULL;
    SUCCEEDS(mcandle_model_inspect(MLX_DIR, &info, error));
    CHECK(strcmp(mcandle_model_info_format(info), "mlx") == 0);
    CHECK(strcmp(mcandle_model_info_quantization(info), "4-bit affine, groups of 64") == 0);
    mcandle_model_info_free(info);

    info = UNTOUCHED;
    FAILS(mcandle_model_inspect("no/such/model", &info, error), MCANDLE_NOT_FOUND, "no/such/model");
    CHECK((void *)info == UNTOUCHED);
}

typedef struct {
    int calls;
    int stop_at;
    uint64_t loaded, total;
} watch;

static bool on_progress(uint64_t loaded, uint64_t total, void *user_data) {
    watch *seen = (watch *)user_data;
    CHECK(loaded >= seen->loaded && loaded <= total);
    seen->loaded = loaded;
    seen->total = total;
    seen->calls++;
    return seen->calls != seen->stop_at;
}

static void loading_is_watched_and_ended(void) {
    mcandle_model_options *options = mcandle_model_options_new();
    mcandle_model *model = NULL;
    watch seen = {0};
    mcandle_model_options_set_progress(options, on_progress, &seen);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, options, &model, error));
    CHECK(seen.calls > 10 && seen.loaded == seen.total && seen.total > 0);
    mcandle_model_free(model);

    memset(&seen, 0, sizeof seen);
    seen.stop_at = 5;
    model = UNTOUCHED;
    {
        mcandle_error *error = NULL;
        CHECK(mcandle_model_load(MODEL_DIR, options, &model, &error) == MCANDLE_CANCELLED);
        mcandle_error_free(error);
    }
    CHECK((void *)model == UNTOUCHED && seen.calls == 5);

    seen.calls = 0;
    model = NULL;
    mcandle_model_options_set_progress(options, NULL, &seen);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, options, &model, error));
    CHECK(seen.calls == 0);
    mcandle_model_free(model);
    mcandle_model_options_free(options);
}

static bool is_quantized(const char *path, size_t bits, size_t group_size) {
    mcandle_model_options *options = mcandle_model_options_new();
    mcandle_model *model = NULL;
    bool quantized;
    mcandle_model_options_set_quantization(options, bits, group_size);
    SUCCEEDS(mcandle_model_load(path, options, &model, error));
    quantized = mcandle_model_is_quantized(model);
    mcandle_model_free(model);
    mcandle_model_options_free(options);
    return quantized;
}

static void weights_are_kept_in_fewer_bits(void) {
    mcandle_model_options *options = mcandle_model_options_new();
    mcandle_model *model = UNTOUCHED;
    CHECK(!is_quantized(MODEL_DIR, 0, 0));
    CHECK(is_quantized(MODEL_DIR, 4, 64));
    CHECK(is_quantized(MLX_DIR, 0, 0));
    CHECK(!is_quantized(PICKLE_DIR, 0, 0));
    mcandle_model_options_set_quantization(options, 5, 64);
    FAILS(mcandle_model_load(MODEL_DIR, options, &model, error), MCANDLE_INVALID_ARGUMENT,
          "`bits` is 5", "4 or 8");
    CHECK((void *)model == UNTOUCHED);
    mcandle_model_options_free(options);
}

int main(void) {
    headers_tell_what_a_model_is();
    loading_is_watched_and_ended();
    weights_are_kept_in_fewer_bits();
    return 0;
}
