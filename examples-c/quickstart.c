/* Loads a model, completes a question, teaches the model SQL with LoRA, and asks again.
 *
 * Usage: quickstart [MODEL_DIR [DATA_DIR [OUTPUT_DIR [STEPS]]]]
 */
#include "metal_candle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A row of test.jsonl, which holds what training never sees. */
static const char QUESTION[] =
    "table: dogs_10\ncolumns: name, color, height\n"
    "Q: What is the height of each dog whose color is gold?\nA:";
static const char ANSWER[] = " SELECT height FROM dogs_10 WHERE color = 'gold'";

/* Prints the reason of a failure in one line. */
static int fail(const char *what, mcandle_error *error) {
    fprintf(stderr, "quickstart: %s: %s\n", what, mcandle_error_message(error));
    mcandle_error_free(error);
    return 1;
}

static bool print_chunk(const mcandle_chunk *chunk, void *user_data) {
    size_t length = 0;
    const char *text = mcandle_chunk_text(chunk, &length);
    (void)user_data;
    fwrite(text, 1, length, stdout);
    fflush(stdout);
    return true;
}

/* Streams an answer to the question. The caller frees the generation. */
static mcandle_status ask(mcandle_generator *generator, mcandle_generation **generation,
                          mcandle_error **error) {
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_status status;
    mcandle_generate_options_set_max_tokens(options, 40);
    status = mcandle_generator_generate(generator, QUESTION, strlen(QUESTION), options, print_chunk,
                                        NULL, generation, error);
    mcandle_generate_options_free(options);
    if (status == MCANDLE_OK) {
        printf("\n  [%.1f ms to the first token, %.0f tokens/s]\n",
               1e3 * mcandle_generation_time_to_first_token(*generation),
               mcandle_generation_tokens_per_second(*generation));
    }
    return status;
}

/* Draws the progress bar. */
static bool show_progress(const mcandle_train_event *event, void *user_data) {
    double *first_loss = (double *)user_data;
    mcandle_train_event_kind kind = mcandle_train_event_kind_of(event);
    if (kind == MCANDLE_TRAIN_EVENT_STEP) {
        enum { WIDTH = 24 };
        size_t step = mcandle_train_event_step(event);
        size_t total = mcandle_train_event_total_steps(event);
        char bar[WIDTH + 1];
        size_t i;
        for (i = 0; i < WIDTH; i++) {
            bar[i] = i * total < step * WIDTH ? '#' : '.';
        }
        bar[WIDTH] = '\0';
        printf("\r  [%s] %zu/%zu  loss %.3f  %5.0f tokens/s  %3.0f s left ", bar, step, total,
               mcandle_train_event_loss(event), mcandle_train_event_tokens_per_second(event),
               mcandle_train_event_seconds_remaining(event));
        fflush(stdout);
    } else if (kind == MCANDLE_TRAIN_EVENT_EVALUATION && mcandle_train_event_step(event) == 0) {
        *first_loss = mcandle_train_event_loss(event);
    }
    return true;
}

/* Everything that main() frees. */
typedef struct {
    mcandle_model *model;
    mcandle_generator *generator;
    mcandle_generation *generation;
    mcandle_dataset *train;
    mcandle_dataset *valid;
    mcandle_train_options *options;
    mcandle_trainer *trainer;
    mcandle_train_summary *summary;
    mcandle_adapter *adapter;
    mcandle_string *text;
} state;

static int load(state *s, const char *model_dir) {
    mcandle_error *error = NULL;
    if (mcandle_model_load(model_dir, NULL, &s->model, &error) != MCANDLE_OK ||
        mcandle_model_summary(s->model, &s->text, &error) != MCANDLE_OK ||
        mcandle_generator_new(s->model, &s->generator, &error) != MCANDLE_OK) {
        return fail("cannot load the model", error);
    }
    printf("metal-candle %s\nmodel: %s\n\n", mcandle_version(), mcandle_string_data(s->text));
    printf("%s", QUESTION);
    if (ask(s->generator, &s->generation, &error) != MCANDLE_OK) {
        return fail("cannot complete", error);
    }
    mcandle_generation_free(s->generation);
    s->generation = NULL;
    return 0;
}

static int read_rows(state *s, const char *data_dir) {
    mcandle_error *error = NULL;
    if (mcandle_dataset_from_folder(data_dir, s->model, NULL, &s->train, &s->valid, NULL, &error) !=
        MCANDLE_OK) {
        return fail("cannot read the data", error);
    }
    return 0;
}

static int train(state *s, const char *output_dir, size_t steps) {
    mcandle_error *error = NULL;
    double first_loss = 0;
    s->options = mcandle_train_options_new();
    mcandle_train_options_set_steps(s->options, steps);
    mcandle_train_options_set_batch_size(s->options, 8);
    mcandle_train_options_set_rank(s->options, 16);
    mcandle_train_options_set_alpha(s->options, 32);
    mcandle_train_options_set_learning_rate(s->options, 4e-3);
    mcandle_train_options_set_schedule(s->options, MCANDLE_SCHEDULE_COSINE);
    mcandle_train_options_set_warmup_steps(s->options, steps / 25);
    mcandle_train_options_set_eval_every(s->options, steps);
    mcandle_train_options_set_eval_batches(s->options, 0);
    mcandle_train_options_set_save_every(s->options, 0);
    mcandle_train_options_set_output_dir(s->options, output_dir);
    if (mcandle_trainer_new(s->model, s->train, s->valid, s->options, &s->trainer, &error) !=
            MCANDLE_OK ||
        mcandle_trainer_adapter(s->trainer, &s->adapter, &error) != MCANDLE_OK) {
        return fail("cannot start training", error);
    }
    printf("\ntraining %llu LoRA weights on %zu questions, %zu tokens\n",
           (unsigned long long)mcandle_adapter_parameter_count(s->adapter),
           mcandle_dataset_length(s->train), mcandle_dataset_token_count(s->train));
    mcandle_adapter_free(s->adapter);
    s->adapter = NULL;
    if (mcandle_trainer_train(s->trainer, show_progress, &first_loss, &s->summary, &error) !=
        MCANDLE_OK) {
        printf("\n");
        return fail("training failed", error);
    }
    printf("\n  validation loss %.3f -> %.3f in %.0f s, peak memory %.0f MB\n", first_loss,
           mcandle_train_summary_validation_loss(s->summary),
           mcandle_train_summary_seconds(s->summary), (double)mcandle_memory_peak() / 1e6);
    return 0;
}

static int ask_again(state *s, const char *output_dir) {
    mcandle_error *error = NULL;
    const char *text;
    if (mcandle_adapter_load(output_dir, s->model, &s->adapter, &error) != MCANDLE_OK ||
        mcandle_generator_set_adapter(s->generator, s->adapter, &error) != MCANDLE_OK) {
        return fail("cannot use the adapter", error);
    }
    printf("  adapter saved to %s\n\n%s", output_dir, QUESTION);
    if (ask(s->generator, &s->generation, &error) != MCANDLE_OK) {
        return fail("cannot complete", error);
    }
    text = mcandle_generation_text(s->generation, NULL);
    if (strncmp(text, " SELECT ", 8) != 0) {
        fprintf(stderr, "quickstart: the answer after training is not SQL\n");
        return 1;
    }
    if (strcmp(text, ANSWER) == 0) {
        printf("  right: the question is one that training never saw\n");
    } else {
        printf("  expected:%s\n", ANSWER);
    }
    return 0;
}

int main(int argc, char **argv) {
    const char *model_dir = argc > 1 ? argv[1] : "../assets/tiny-coder";
    const char *data_dir = argc > 2 ? argv[2] : "../assets/sql";
    const char *output_dir = argc > 3 ? argv[3] : "build/sql-adapter";
    size_t steps = argc > 4 ? (size_t)strtoul(argv[4], NULL, 10) : 180;
    state s = {0};
    int failed = load(&s, model_dir) || read_rows(&s, data_dir) || train(&s, output_dir, steps) ||
                 ask_again(&s, output_dir);

    mcandle_string_free(s.text);
    mcandle_adapter_free(s.adapter);
    mcandle_train_summary_free(s.summary);
    mcandle_trainer_free(s.trainer);
    mcandle_train_options_free(s.options);
    mcandle_dataset_free(s.valid);
    mcandle_dataset_free(s.train);
    mcandle_generation_free(s.generation);
    mcandle_generator_free(s.generator);
    mcandle_model_free(s.model);
    return failed;
}
