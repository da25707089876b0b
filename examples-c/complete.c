/* Streams a completion of any prompt with any model directory. See USAGE. */
#include "arguments.h"
#include "metal_candle.h"

#include <stdio.h>
#include <string.h>

static const char USAGE[] =
    "Usage: complete [OPTION]... PROMPT\n"
    "Continues PROMPT and prints the text as it is generated.\n"
    "\n"
    "  --model DIR          model directory (default ../assets/tiny-coder)\n"
    "  --adapter DIR        LoRA adapter directory in PEFT's format\n"
    "  --device NAME        auto, cpu, metal or cuda (default auto)\n"
    "  --dtype NAME         auto, f32, f16 or bf16 (default auto)\n"
    "  --max-tokens N       most tokens to generate (default 128)\n"
    "  --temperature T      0 for the most likely token (default 0)\n"
    "  --top-k K            sample from the K most likely tokens (default all)\n"
    "  --top-p P            sample from the most likely tokens that reach P (default 1)\n"
    "  --seed N             seed of sampling (default 0)\n"
    "  --ids                print token ids instead of text\n"
    "  --help               print this\n";

static int usage_error(const char *what, const char *value) {
    fprintf(stderr, "complete: %s: %s (see --help)\n", what, value);
    return 2;
}

static int fail(const char *what, mcandle_error *error) {
    fprintf(stderr, "complete: %s: %s\n", what, mcandle_error_message(error));
    mcandle_error_free(error);
    return 1;
}

static bool print_chunk(const mcandle_chunk *chunk, void *user_data) {
    const bool *ids = (const bool *)user_data;
    if (*ids) {
        printf("%u\n", (unsigned)mcandle_chunk_token(chunk));
    } else {
        size_t length = 0;
        const char *text = mcandle_chunk_text(chunk, &length);
        fwrite(text, 1, length, stdout);
    }
    return fflush(stdout) == 0;
}

static int complete(const char *model_dir, const char *adapter_dir,
                    const mcandle_model_options *model_options,
                    const mcandle_generate_options *options, const char *prompt, bool ids) {
    mcandle_error *error = NULL;
    mcandle_model *model = NULL;
    mcandle_adapter *adapter = NULL;
    mcandle_generator *generator = NULL;
    mcandle_generation *generation = NULL;
    int result = 0;
    if (mcandle_model_load(model_dir, model_options, &model, &error) != MCANDLE_OK ||
        (adapter_dir != NULL &&
         mcandle_adapter_load(adapter_dir, model, &adapter, &error) != MCANDLE_OK) ||
        mcandle_generator_new(model, &generator, &error) != MCANDLE_OK ||
        mcandle_generator_set_adapter(generator, adapter, &error) != MCANDLE_OK) {
        result = fail("cannot load", error);
    } else if (mcandle_generator_generate(generator, prompt, strlen(prompt), options, print_chunk,
                                          &ids, &generation, &error) != MCANDLE_OK) {
        result = fail("cannot complete", error);
    } else {
        size_t count = 0;
        mcandle_generation_tokens(generation, &count);
        fprintf(stderr, "\n%zu prompt tokens, %zu generated, %.1f ms to the first, %.1f tokens/s\n",
                mcandle_generation_prompt_tokens(generation), count,
                1e3 * mcandle_generation_time_to_first_token(generation),
                mcandle_generation_tokens_per_second(generation));
    }
    mcandle_generation_free(generation);
    mcandle_generator_free(generator);
    mcandle_adapter_free(adapter);
    mcandle_model_free(model);
    return result;
}

int main(int argc, char **argv) {
    static const char *const DEVICES[] = {"auto", "cpu", "metal", "cuda", NULL};
    static const char *const DTYPES[] = {"auto", "f32", "f16", "bf16", NULL};
    const char *model_dir = "../assets/tiny-coder";
    const char *adapter_dir = NULL;
    const char *prompt = NULL;
    bool ids = false;
    mcandle_model_options *model_options = mcandle_model_options_new();
    mcandle_generate_options *options = mcandle_generate_options_new();
    int result = 0;
    int i;

    mcandle_generate_options_set_max_tokens(options, 128);
    for (i = 1; i < argc && result == 0; i++) {
        const char *name = argv[i];
        const char *value;
        unsigned long long count = 0;
        double real = 0;
        int choice;
        if (strcmp(name, "--help") == 0) {
            fputs(USAGE, stdout);
            goto done;
        }
        if (strcmp(name, "--ids") == 0) {
            ids = true;
            continue;
        }
        if (strncmp(name, "--", 2) != 0) {
            if (prompt != NULL) {
                result = usage_error("more than one prompt", name);
            }
            prompt = name;
            continue;
        }
        if (i + 1 >= argc) {
            result = usage_error("unknown option, or value missing", name);
            break;
        }
        value = argv[++i];
        if (strcmp(name, "--model") == 0) {
            model_dir = value;
        } else if (strcmp(name, "--adapter") == 0) {
            adapter_dir = value;
        } else if (strcmp(name, "--device") == 0 && (choice = index_of(value, DEVICES)) >= 0) {
            mcandle_model_options_set_device(model_options, choice);
        } else if (strcmp(name, "--dtype") == 0 && (choice = index_of(value, DTYPES)) >= 0) {
            mcandle_model_options_set_dtype(model_options, choice);
        } else if (strcmp(name, "--max-tokens") == 0 && parse_count(value, &count)) {
            mcandle_generate_options_set_max_tokens(options, (size_t)count);
        } else if (strcmp(name, "--temperature") == 0 && parse_real(value, &real)) {
            mcandle_generate_options_set_temperature(options, real);
        } else if (strcmp(name, "--top-k") == 0 && parse_count(value, &count)) {
            mcandle_generate_options_set_top_k(options, (size_t)count);
        } else if (strcmp(name, "--top-p") == 0 && parse_real(value, &real)) {
            mcandle_generate_options_set_top_p(options, real);
        } else if (strcmp(name, "--seed") == 0 && parse_count(value, &count)) {
            mcandle_generate_options_set_seed(options, count);
        } else {
            fprintf(stderr, "complete: %s %s: no such option, or not a value of it (see --help)\n",
                    name, value);
            result = 2;
        }
    }
    if (result == 0 && prompt == NULL) {
        result = usage_error("missing", "PROMPT");
    }
    if (result == 0) {
        result = complete(model_dir, adapter_dir, model_options, options, prompt, ids);
    }
done:
    mcandle_generate_options_free(options);
    mcandle_model_options_free(model_options);
    return result;
}
