/* The greedy tokens for a prompt, by the functions of C alone. */
#include "metal_candle.h"

#include <string.h>

size_t reference_tokens(const char *model_dir, const char *prompt, size_t max_tokens,
                        uint32_t *tokens);

/* Gives their number; 0 where something fails. */
size_t reference_tokens(const char *model_dir, const char *prompt, size_t max_tokens,
                        uint32_t *tokens) {
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_model *model = NULL;
    mcandle_generator *generator = NULL;
    mcandle_generation *generation = NULL;
    size_t count = 0;
    mcandle_generate_options_set_max_tokens(options, max_tokens);
    if (mcandle_model_load(model_dir, NULL, &model, NULL) == MCANDLE_OK &&
        mcandle_generator_new(model, &generator, NULL) == MCANDLE_OK &&
        mcandle_generator_generate(generator, prompt, strlen(prompt), options, NULL, NULL,
                                   &generation, NULL) == MCANDLE_OK) {
        const uint32_t *ids = mcandle_generation_tokens(generation, &count);
        memcpy(tokens, ids, count * sizeof *ids);
    }
    mcandle_generation_free(generation);
    mcandle_generator_free(generator);
    mcandle_model_free(model);
    mcandle_generate_options_free(options);
    return count;
}
