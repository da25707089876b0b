/* Adapters of a model: listed, weighed, switched while threads generate; converted, merged, saved.
 *
 * Usage: adapters FOLDER, which is written to.
 */
#define _POSIX_C_SOURCE 200809L
#include "test.h"

#include <limits.h>
#include <math.h>
#include <pthread.h>

#define STYLE_DIR "tests/fixtures/lora/nonzero_b"
#define NAMES_DIR "tests/fixtures/mlx/lora_adapter"

enum { TOKENS = 4, THREADS = 4, SETS = 4 };

static const char *folder;
static mcandle_model *model;
static mcandle_generate_options *options;

static const char *in(const char *name) {
    static char path[4096];
    CHECK((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) < sizeof path);
    return path;
}

typedef struct {
    uint32_t ids[TOKENS];
} tokens;

static tokens generate(mcandle_generator *generator) {
    static const char PROMPT[] = "fn main() {";
    mcandle_generation *generation = NULL;
    size_t count;
    const uint32_t *ids;
    tokens found;
    SUCCEEDS(mcandle_generator_generate(generator, PROMPT, strlen(PROMPT), options, NULL, NULL,
                                        &generation, error));
    ids = mcandle_generation_tokens(generation, &count);
    CHECK(count == TOKENS);
    memcpy(found.ids, ids, sizeof found.ids);
    mcandle_generation_free(generation);
    return found;
}

static tokens generate_with(const mcandle_model *of, const mcandle_adapter *adapter) {
    mcandle_generator *generator = NULL;
    tokens found;
    SUCCEEDS(mcandle_generator_new(of, &generator, error));
    SUCCEEDS(mcandle_generator_set_adapter(generator, adapter, error));
    found = generate(generator);
    mcandle_generator_free(generator);
    return found;
}

static bool same(const tokens *a, const tokens *b) {
    return memcmp(a, b, sizeof *a) == 0;
}

/* What is generated with each set: nothing, style, names, both. */
static tokens texts[SETS];

static void use_set(size_t set) {
    static const char *const NAMES[] = {"style", "names"};
    SUCCEEDS(mcandle_model_set_active_adapters(model, set == 2 ? NAMES + 1 : NAMES, (set + 1) / 2,
                                               error));
}

static void texts_differ_by_what_is_active(void) {
    mcandle_generator *generator = NULL;
    size_t set, other;
    tokens found;
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    for (set = 0; set < SETS; set++) {
        use_set(set);
        texts[set] = generate(generator);
        for (other = 0; other < set; other++) {
            CHECK(!same(&texts[other], &texts[set]));
        }
    }
    /* One by one it is the same. */
    SUCCEEDS(mcandle_model_deactivate_adapter(model, "style", error));
    found = generate(generator);
    CHECK(same(&found, &texts[2]));
    SUCCEEDS(mcandle_model_activate_adapter(model, "style", error));
    found = generate(generator);
    CHECK(same(&found, &texts[3]));
    SUCCEEDS(mcandle_model_set_active_adapters(model, NULL, 0, error));
    found = generate(generator);
    CHECK(same(&found, &texts[0]));
    mcandle_generator_free(generator);
}

static void an_adapter_of_its_own_comes_first(void) {
    mcandle_adapter *style = NULL;
    tokens found;
    use_set(2);
    SUCCEEDS(mcandle_model_get_adapter(model, "style", &style, error));
    found = generate_with(model, style);
    CHECK(same(&found, &texts[1]));
    found = generate_with(model, NULL);
    CHECK(same(&found, &texts[2]));
    mcandle_adapter_free(style);
}

static void the_list_tells_all(void) {
    mcandle_adapter_list *list = NULL;
    const char *json;
    size_t length;
    SUCCEEDS(mcandle_model_list_adapters(model, &list, error));
    CHECK(mcandle_adapter_list_length(list) == 2);
    CHECK(strcmp(mcandle_adapter_list_name(list, 0, &length), "names") == 0 && length == 5);
    CHECK(mcandle_adapter_list_rank(list, 0) == 4 && mcandle_adapter_list_rank(list, 1) == 8);
    CHECK(mcandle_adapter_list_parameter_count(list, 1) == 233472);
    CHECK(mcandle_adapter_list_weight(list, 0) == 0.5 && mcandle_adapter_list_weight(list, 1) == 1);
    CHECK(mcandle_adapter_list_is_active(list, 0) && !mcandle_adapter_list_is_active(list, 1));
    CHECK(!mcandle_adapter_list_use_dora(list, 0));
    CHECK(mcandle_adapter_list_rank(list, 2) == 0 && mcandle_adapter_list_weight(list, 2) == 0);
    CHECK(mcandle_adapter_list_name(list, 2, &length)[0] == '\0' && length == 0);
    json = mcandle_adapter_list_json(list, &length);
    CHECK(strlen(json) == length);
    CHECK(strstr(json, "{\"name\":\"style\",\"rank\":8,\"parameters\":233472,\"use_dora\":false,"
                       "\"active\":false,\"weight\":1.0}]") != NULL);
    mcandle_adapter_list_free(list);
}

static void mistakes_are_named(void) {
    static const char *const NAMES[] = {"style", "other"};
    mcandle_adapter *adapter = UNTOUCHED;
    FAILS(mcandle_model_load_adapter(model, "", STYLE_DIR, error), MCANDLE_INVALID_ARGUMENT,
          "`name` is empty");
    FAILS(mcandle_model_load_adapter(model, "style", STYLE_DIR, error), MCANDLE_INVALID_ARGUMENT,
          "`style`", "loaded already");
    FAILS(mcandle_model_load_adapter(model, "other", in("missing"), error), MCANDLE_NOT_FOUND,
          "/missing", "adapters.safetensors");
    FAILS(mcandle_model_activate_adapter(model, "other", error), MCANDLE_INVALID_ARGUMENT,
          "`other`", "`names`, `style`");
    FAILS(mcandle_model_deactivate_adapter(model, "other", error), MCANDLE_INVALID_ARGUMENT,
          "`other`");
    FAILS(mcandle_model_set_active_adapters(model, NAMES, 2, error), MCANDLE_INVALID_ARGUMENT,
          "`other`");
    FAILS(mcandle_model_set_adapter_weight(model, "other", 1, error), MCANDLE_INVALID_ARGUMENT,
          "`other`");
    FAILS(mcandle_model_set_adapter_weight(model, "style", NAN, error), MCANDLE_INVALID_ARGUMENT,
          "`weight`", "finite");
    FAILS(mcandle_model_unload_adapter(model, "other", error), MCANDLE_INVALID_ARGUMENT, "`other`");
    FAILS(mcandle_model_get_adapter(model, "other", &adapter, error), MCANDLE_INVALID_ARGUMENT,
          "`other`");
    CHECK((void *)adapter == UNTOUCHED);
    the_list_tells_all();
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static size_t finished;

/* Every text is that of a set, however the sets change meanwhile. */
static void *generate_some(void *seen) {
    mcandle_generator *generator = NULL;
    size_t count = is_light() ? 1 : 12, set;
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    while (count-- > 0) {
        tokens found = generate(generator);
        for (set = 0; set < SETS && !same(&found, &texts[set]); set++) {
        }
        CHECK(set < SETS);
        *(unsigned *)seen |= 1u << set;
    }
    mcandle_generator_free(generator);
    pthread_mutex_lock(&mutex);
    finished++;
    pthread_mutex_unlock(&mutex);
    return NULL;
}

static void threads_generate_while_adapters_change(void) {
    pthread_t threads[THREADS];
    unsigned seen[THREADS] = {0};
    size_t i, step = 0;
    bool is_done = false;
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, generate_some, &seen[i]) == 0);
    }
    while (!is_done) {
        /* A memory checker runs one thread at a time. */
        struct timespec pause = {0, is_light() ? 500000000 : 2000000};
        mcandle_adapter_list *list = NULL;
        use_set(step++ % SETS);
        /* An adapter that is not active may come and go. */
        SUCCEEDS(mcandle_model_load_adapter(model, "guest", NAMES_DIR, error));
        SUCCEEDS(mcandle_model_set_adapter_weight(model, "guest", 3, error));
        SUCCEEDS(mcandle_model_list_adapters(model, &list, error));
        CHECK(mcandle_adapter_list_length(list) == 3);
        mcandle_adapter_list_free(list);
        SUCCEEDS(mcandle_model_unload_adapter(model, "guest", error));
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&mutex);
        is_done = finished == THREADS;
        pthread_mutex_unlock(&mutex);
    }
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(seen[i] != 0);
    }
}

/* There and back, and once more by the model itself. */
static void adapters_are_converted(void) {
    mcandle_adapter *style = NULL, *converted = NULL;
    tokens found;
    SUCCEEDS(mcandle_adapter_load(STYLE_DIR, model, &style, error));
    SUCCEEDS(mcandle_adapter_save_as(style, in("adapter"), MCANDLE_ADAPTER_FORMAT_MLX, error));
    SUCCEEDS(mcandle_adapter_load(in("adapter"), model, &converted, error));
    found = generate_with(model, converted);
    CHECK(same(&found, &texts[1]));
    SUCCEEDS(mcandle_adapter_save_as(converted, in("adapter"), MCANDLE_ADAPTER_FORMAT_PEFT, error));
    SUCCEEDS(mcandle_model_add_adapter(model, "converted", converted, error));
    FAILS(mcandle_model_add_adapter(model, "converted", converted, error),
          MCANDLE_INVALID_ARGUMENT, "`converted`");
    mcandle_adapter_free(converted);
    SUCCEEDS(mcandle_model_unload_adapter(model, "converted", error));
    SUCCEEDS(mcandle_model_load_adapter(model, "converted", in("adapter"), error));
    SUCCEEDS(mcandle_model_unload_adapter(model, "converted", error));
    FAILS(mcandle_adapter_save_as(style, in("adapter"), 7, error), MCANDLE_INVALID_ARGUMENT,
          "`format` is 7");
    FAILS(mcandle_adapter_save_as(style, "Cargo.toml/x", MCANDLE_ADAPTER_FORMAT_MLX, error),
          MCANDLE_IO, "Cargo.toml");
    mcandle_adapter_free(style);
}

static void a_merged_model_is_saved(void) {
    mcandle_adapter *style = NULL;
    mcandle_model *merged = NULL, *saved = NULL, *other = UNTOUCHED;
    tokens found;
    SUCCEEDS(mcandle_adapter_load(STYLE_DIR, model, &style, error));
    SUCCEEDS(mcandle_model_merge(model, style, &merged, error));
    found = generate_with(merged, NULL);
    CHECK(same(&found, &texts[1]));
    SUCCEEDS(mcandle_model_save(merged, in("merged"), error));
    SUCCEEDS(mcandle_model_load(in("merged"), NULL, &saved, error));
    found = generate_with(saved, NULL);
    CHECK(same(&found, &texts[1]));
    FAILS(mcandle_model_save(merged, "Cargo.toml", error), MCANDLE_INVALID_FORMAT, "Cargo.toml",
          "directory");
    mcandle_model_free(saved);
    mcandle_model_free(merged);
    SUCCEEDS(mcandle_model_load("tests/fixtures/models/qwen2_tied", NULL, &merged, error));
    FAILS(mcandle_model_merge(merged, style, &other, error), MCANDLE_INVALID_ARGUMENT, "`adapter`",
          "another shape");
    FAILS(mcandle_model_add_adapter(merged, "style", style, error), MCANDLE_INVALID_ARGUMENT,
          "`adapter`", "another shape");
    CHECK((void *)other == UNTOUCHED);
    mcandle_model_free(merged);
    mcandle_adapter_free(style);
}

static void a_model_is_saved_for_llama_cpp(void) {
    static const mcandle_gguf_type types[] = {MCANDLE_GGUF_F16,  MCANDLE_GGUF_BF16,
                                              MCANDLE_GGUF_Q8_0, MCANDLE_GGUF_Q6_K,
                                              MCANDLE_GGUF_Q4_K, MCANDLE_GGUF_Q4_0};
    mcandle_model *other = NULL;
    char magic[4];
    long size, larger = LONG_MAX;
    size_t i;
    FILE *file;
    for (i = 0; i < sizeof types / sizeof types[0]; i++) {
        SUCCEEDS(mcandle_model_save_gguf(model, in("model.gguf"), types[i], error));
        CHECK((file = fopen(in("model.gguf"), "rb")) != NULL);
        CHECK(fread(magic, 1, 4, file) == 4 && memcmp(magic, "GGUF", 4) == 0);
        CHECK(fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) > 0);
        /* From the most bits to the fewest; the first two have as many. */
        CHECK(i == 1 ? size == larger : size < larger);
        larger = size;
        fclose(file);
    }
    FAILS(mcandle_model_save_gguf(model, in("model.gguf"), 99, error), MCANDLE_INVALID_ARGUMENT,
          "`gguf_type` is 99", "MCANDLE_GGUF_");
    FAILS(mcandle_model_save_gguf(model, folder, MCANDLE_GGUF_F16, error), MCANDLE_INVALID_FORMAT,
          "is a directory");
    SUCCEEDS(mcandle_model_load("tests/fixtures/models/qwen2_tied", NULL, &other, error));
    FAILS(mcandle_model_save_gguf(other, in("other.gguf"), MCANDLE_GGUF_F16, error),
          MCANDLE_TOKENIZER, "no tokenizer.json");
    mcandle_model_free(other);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    folder = argv[1];
    options = mcandle_generate_options_new();
    mcandle_generate_options_set_max_tokens(options, TOKENS);
    mcandle_generate_options_set_ignore_eos(options, true);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    SUCCEEDS(mcandle_model_load_adapter(model, "style", STYLE_DIR, error));
    SUCCEEDS(mcandle_model_load_adapter(model, "names", NAMES_DIR, error));
    SUCCEEDS(mcandle_model_set_adapter_weight(model, "names", 0.5, error));
    texts_differ_by_what_is_active();
    an_adapter_of_its_own_comes_first();
    the_list_tells_all();
    mistakes_are_named();
    threads_generate_while_adapters_change();
    use_set(0);
    adapters_are_converted();
    a_merged_model_is_saved();
    a_model_is_saved_for_llama_cpp();
    mcandle_model_free(model);
    mcandle_generate_options_free(options);
    return 0;
}
