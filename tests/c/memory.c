/* Memory that the system refuses is an error where much of it is asked for at once, and what is there
 * stays usable. Only Linux holds a process to a limit of addresses.
 *
 * Usage: memory ROWS
 */
#define _POSIX_C_SOURCE 200809L
#include "test.h"

#include <sys/resource.h>

static mcandle_model *model;
static mcandle_dataset *rows;

/* Lets the process have so many MiB more than it has, or all that there are. */
static void allow(unsigned long more) {
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    if (more > 0) {
        unsigned long pages = 0;
        FILE *file = fopen("/proc/self/statm", "r");
        CHECK(file != NULL && fscanf(file, "%lu", &pages) == 1 && fclose(file) == 0);
        limit.rlim_cur = pages * 4096 + (more << 20);
    }
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

static void training(mcandle_method method, size_t rank, const char *what) {
    mcandle_train_options *options = mcandle_train_options_new();
    mcandle_trainer *trainer = NULL;
    mcandle_train_options_set_method(options, method);
    mcandle_train_options_set_rank(options, rank);
    mcandle_train_options_set_steps(options, 1);
    allow(64);
    FAILS(mcandle_trainer_new(model, rows, NULL, options, &trainer, error), MCANDLE_BACKEND, what,
          "the system has no memory for");
    CHECK(trainer == NULL);
    allow(0);
    SUCCEEDS(mcandle_trainer_new(model, rows, NULL, options, &trainer, error));
    SUCCEEDS(mcandle_trainer_train(trainer, NULL, NULL, NULL, error));
    mcandle_trainer_free(trainer);
    mcandle_train_options_free(options);
}

int main(int argc, char **argv) {
    mcandle_model *loaded = NULL;
    CHECK(argc == 2);
#ifdef __linux__
    /* Enough for the file, and not for the weights beside it; before there is memory to use again. */
    allow(26);
    FAILS(mcandle_model_load(MODEL_DIR, NULL, &loaded, error), MCANDLE_BACKEND,
          "the weights of the model", "the system has no memory for");
    allow(0);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    SUCCEEDS(mcandle_dataset_from_jsonl(argv[1], model, NULL, &rows, error));
    training(MCANDLE_METHOD_FULL, 8, "the weights to train");
    training(MCANDLE_METHOD_LORA, 256, "the adapter to train");
    /* Less than the file that is mapped. */
    allow(8);
    FAILS(mcandle_model_load(MODEL_DIR, NULL, &loaded, error), MCANDLE_IO, "model.safetensors");
    allow(0);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &loaded, error));
    mcandle_model_free(loaded);
    mcandle_dataset_free(rows);
    mcandle_model_free(model);
#else
    (void)training, (void)loaded, (void)argv, (void)rows, (void)model;
    fprintf(stderr, "!!! NOT CHECKED: this system has no limit of addresses !!!\n");
#endif
    return 0;
}
