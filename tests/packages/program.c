/* A program that uses an installed library: it loads the model, and continues a text with it.
 *
 * Usage: program MODEL_DIR
 *
 * With NEIGHBOUR defined it is also linked with another Rust library, before, between and after whose
 * calls it uses ours.
 */
#include <metal_candle.h>

#include <stdio.h>
#include <string.h>

static const char PROMPT[] = "fn main() {";

/* Continues the prompt; returns whether that worked. */
static bool generate(const mcandle_model *model) {
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_generator *generator = NULL;
    mcandle_generation *generation = NULL;
    mcandle_error *error = NULL;
    bool good;
    mcandle_generate_options_set_max_tokens(options, 4);
    good = mcandle_generator_new(model, &generator, &error) == MCANDLE_OK &&
           mcandle_generator_generate(generator, PROMPT, strlen(PROMPT), options, NULL, NULL,
                                      &generation, &error) == MCANDLE_OK;
    if (good) {
        printf("%s%s\n", PROMPT, mcandle_generation_text(generation, NULL));
    } else {
        fprintf(stderr, "program: %s\n", mcandle_error_message(error));
    }
    mcandle_error_free(error);
    mcandle_generation_free(generation);
    mcandle_generator_free(generator);
    mcandle_generate_options_free(options);
    return good;
}

#ifdef NEIGHBOUR
size_t neighbour_panics(size_t threads);
#endif

int main(int argc, char **argv) {
    mcandle_model *model = NULL;
    mcandle_error *error = NULL;
    bool good;
    if (argc != 2) {
        fprintf(stderr, "usage: program MODEL_DIR\n");
        return 2;
    }
    if (mcandle_abi_version() != MCANDLE_ABI_VERSION) {
        fprintf(stderr, "program: the library has another interface than the header\n");
        return 1;
    }
    /* No model lies there, so this fails, and the library unwinds nothing. */
    if (mcandle_model_load("/nowhere", NULL, &model, &error) == MCANDLE_OK) {
        fprintf(stderr, "program: a model was loaded from nowhere\n");
        return 1;
    }
    mcandle_error_free(error);
    error = NULL;
    if (mcandle_model_load(argv[1], NULL, &model, &error) != MCANDLE_OK) {
        fprintf(stderr, "program: %s\n", mcandle_error_message(error));
        mcandle_error_free(error);
        return 1;
    }
#ifdef NEIGHBOUR
    /* Twice, since the first call of each library sets its panic hook, and keeps the one before. */
    if (neighbour_panics(3) != 3 || !generate(model) || neighbour_panics(4) != 7) {
        fprintf(stderr, "program: the other library lost a panic\n");
        return 1;
    }
#endif
    good = generate(model);
    mcandle_model_free(model);
    return good ? 0 : 1;
}
