/* Trains a LoRA adapter on any folder of JSONL files. See USAGE. */
#include "arguments.h"
#include "metal_candle.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const char USAGE[] =
    "Usage: finetune [OPTION]... DATA_DIR OUTPUT_DIR\n"
    "Trains on DATA_DIR/train.jsonl, evaluates on DATA_DIR/valid.jsonl where there is one, and\n"
    "writes checkpoints and the adapter, in PEFT's format, to OUTPUT_DIR. Rows are\n"
    "{\"text\": ...} or {\"prompt\": ..., \"completion\": ...}. Ctrl-C leaves a checkpoint.\n"
    "\n"
    "  --model DIR            model directory (default ../assets/tiny-coder)\n"
    "  --device NAME          auto, cpu, metal or cuda (default auto)\n"
    "  --dtype NAME           auto, f32, f16 or bf16 (default auto)\n"
    "  --steps N              optimizer steps (default 1000)\n"
    "  --epochs X             passes over the rows, in the place of steps\n"
    "  --batch-size N         rows of a batch (default 4)\n"
    "  --accumulation N       batches of a step (default 1)\n"
    "  --learning-rate X      highest learning rate (default 1e-4)\n"
    "  --schedule NAME        constant, linear or cosine (default constant)\n"
    "  --warmup N             steps of rising learning rate (default 0)\n"
    "  --rank N               rank of the adapter (default 8)\n"
    "  --alpha X              strength of the adapter (default 16)\n"
    "  --dropout X            dropout of the adapter (default 0)\n"
    "  --targets NAMES        projections, such as q_proj,v_proj (default all)\n"
    "  --max-seq-length N     most tokens of a row (default 2048)\n"
    "  --eval-every N         steps between evaluations, 0 for none (default 200)\n"
    "  --patience N           evaluations without a better loss that end the run, 0 for none\n"
    "                         (default 0)\n"
    "  --save-every N         steps between checkpoints, 0 for none (default 100)\n"
    "  --seed N               seed of weights, order and dropout (default 0)\n"
    "  --grad-checkpoint      less memory, a third slower\n"
    "  --resume               go on from the newest checkpoint in OUTPUT_DIR\n"
    "  --help                 print this\n";

/* What Ctrl-C stops. */
static mcandle_trainer *volatile running = NULL;

static void on_interrupt(int number) {
    (void)number;
    mcandle_trainer_cancel(running);
}

static int fail(const char *what, mcandle_error *error) {
    fprintf(stderr, "finetune: %s: %s\n", what, mcandle_error_message(error));
    mcandle_error_free(error);
    return 1;
}

static bool show(const mcandle_train_event *event, void *user_data) {
    size_t step = mcandle_train_event_step(event);
    (void)user_data;
    switch (mcandle_train_event_kind_of(event)) {
    case MCANDLE_TRAIN_EVENT_START:
        printf("%s: %.2f M of %.2f M parameters, %zu rows, %zu tokens, %zu rows cut, %zu steps\n",
               mcandle_train_event_method(event),
               (double)mcandle_train_event_trainable_parameters(event) / 1e6,
               (double)mcandle_train_event_parameters(event) / 1e6, mcandle_train_event_rows(event),
               mcandle_train_event_tokens(event), mcandle_train_event_truncated(event),
               mcandle_train_event_total_steps(event));
        break;
    case MCANDLE_TRAIN_EVENT_STEP:
        printf("step %zu/%zu  loss %.9g  epoch %.2f  lr %.3g  grad norm %.3g  %.0f tokens/s  %.0f MB"
               "  %.0f s left\n",
               step, mcandle_train_event_total_steps(event), mcandle_train_event_loss(event),
               mcandle_train_event_epoch(event), mcandle_train_event_learning_rate(event),
               mcandle_train_event_grad_norm(event), mcandle_train_event_tokens_per_second(event),
               (double)mcandle_train_event_memory(event) / 1e6,
               mcandle_train_event_seconds_remaining(event));
        break;
    case MCANDLE_TRAIN_EVENT_EVALUATION:
        printf("after step %zu: validation loss %.6f  perplexity %.4f%s\n", step,
               mcandle_train_event_loss(event), mcandle_train_event_perplexity(event),
               mcandle_train_event_best(event) ? "  (best)" : "");
        break;
    case MCANDLE_TRAIN_EVENT_CHECKPOINT:
        printf("checkpoint: %s\n", mcandle_train_event_path(event));
        break;
    default:
        break;
    }
    return fflush(stdout) == 0;
}

static void show_end(const mcandle_train_summary *summary, const char *output_dir) {
    size_t steps = mcandle_train_summary_steps(summary);
    switch (mcandle_train_summary_stop_reason(summary)) {
    case MCANDLE_TRAIN_STOP_CANCELLED:
        printf("stopped after step %zu; --resume goes on\n", steps);
        return;
    case MCANDLE_TRAIN_STOP_EARLY_STOPPING:
        printf("the validation loss no longer falls: ended after step %zu\n", steps);
        break;
    default:
        break;
    }
    if (mcandle_train_summary_best_path(summary)[0] != '\0') {
        printf("best checkpoint, with validation loss %.6f: %s\n",
               mcandle_train_summary_best_loss(summary), mcandle_train_summary_best_path(summary));
    }
    printf("adapter: %s\n", output_dir);
}

/* What the command line says. */
typedef struct {
    const char *model_dir;
    const char *data_dir;
    const char *output_dir;
    bool resume;
    mcandle_model_options *model;
    mcandle_dataset_options *dataset;
    mcandle_train_options *train;
} arguments;

static mcandle_status make_trainer(const arguments *a, const mcandle_model *model,
                                   const mcandle_dataset *train, const mcandle_dataset *valid,
                                   mcandle_trainer **trainer, mcandle_error **error) {
    mcandle_string *checkpoint = NULL;
    mcandle_status status = MCANDLE_OK;
    if (a->resume) {
        status = mcandle_latest_checkpoint(a->output_dir, &checkpoint, error);
    }
    if (status == MCANDLE_OK && checkpoint != NULL) {
        printf("resuming from %s\n", mcandle_string_data(checkpoint));
        status = mcandle_trainer_resume(model, train, valid, a->train,
                                        mcandle_string_data(checkpoint), trainer, error);
    } else if (status == MCANDLE_OK) {
        status = mcandle_trainer_new(model, train, valid, a->train, trainer, error);
    }
    mcandle_string_free(checkpoint);
    return status;
}

static int finetune(const arguments *a) {
    mcandle_error *error = NULL;
    mcandle_model *model = NULL;
    mcandle_dataset *train = NULL, *valid = NULL;
    mcandle_trainer *trainer = NULL;
    mcandle_train_summary *summary = NULL;
    int result = 0;
    if (mcandle_model_load(a->model_dir, a->model, &model, &error) != MCANDLE_OK) {
        result = fail("cannot load the model", error);
    } else if (mcandle_dataset_from_folder(a->data_dir, model, a->dataset, &train, &valid, NULL,
                                           &error) != MCANDLE_OK) {
        result = fail("cannot read the data", error);
    } else if (make_trainer(a, model, train, valid, &trainer, &error) != MCANDLE_OK) {
        result = fail("cannot start", error);
    } else {
        running = trainer;
        signal(SIGINT, on_interrupt);
        if (mcandle_trainer_train(trainer, show, NULL, &summary, &error) != MCANDLE_OK) {
            result = fail("training failed", error);
        } else {
            show_end(summary, a->output_dir);
        }
        signal(SIGINT, SIG_DFL);
        running = NULL;
    }
    mcandle_train_summary_free(summary);
    mcandle_trainer_free(trainer);
    mcandle_dataset_free(valid);
    mcandle_dataset_free(train);
    mcandle_model_free(model);
    return result;
}

/* Takes one option with its value; false where there is no such option or value. */
static bool take(arguments *a, const char *name, const char *value) {
    static const char *const DEVICES[] = {"auto", "cpu", "metal", "cuda", NULL};
    static const char *const DTYPES[] = {"auto", "f32", "f16", "bf16", NULL};
    static const char *const SCHEDULES[] = {"constant", "linear", "cosine", NULL};
    static const struct {
        const char *name;
        void (*set)(mcandle_train_options *, size_t);
    } COUNTS[] = {
        {"--steps", mcandle_train_options_set_steps},
        {"--batch-size", mcandle_train_options_set_batch_size},
        {"--accumulation", mcandle_train_options_set_gradient_accumulation},
        {"--warmup", mcandle_train_options_set_warmup_steps},
        {"--rank", mcandle_train_options_set_rank},
        {"--eval-every", mcandle_train_options_set_eval_every},
        {"--patience", mcandle_train_options_set_early_stopping_patience},
        {"--save-every", mcandle_train_options_set_save_every},
    };
    static const struct {
        const char *name;
        void (*set)(mcandle_train_options *, double);
    } REALS[] = {
        {"--epochs", mcandle_train_options_set_epochs},
        {"--learning-rate", mcandle_train_options_set_learning_rate},
        {"--alpha", mcandle_train_options_set_alpha},
        {"--dropout", mcandle_train_options_set_dropout},
    };
    unsigned long long count = 0;
    double real = 0;
    int choice;
    size_t i;
    for (i = 0; i < sizeof COUNTS / sizeof COUNTS[0]; i++) {
        if (strcmp(name, COUNTS[i].name) == 0) {
            if (!parse_count(value, &count)) {
                return false;
            }
            COUNTS[i].set(a->train, (size_t)count);
            return true;
        }
    }
    for (i = 0; i < sizeof REALS / sizeof REALS[0]; i++) {
        if (strcmp(name, REALS[i].name) == 0) {
            if (!parse_real(value, &real)) {
                return false;
            }
            REALS[i].set(a->train, real);
            return true;
        }
    }
    if (strcmp(name, "--model") == 0) {
        a->model_dir = value;
    } else if (strcmp(name, "--targets") == 0) {
        mcandle_train_options_set_target_modules(a->train, value);
    } else if (strcmp(name, "--seed") == 0 && parse_count(value, &count)) {
        mcandle_train_options_set_seed(a->train, count);
    } else if (strcmp(name, "--max-seq-length") == 0 && parse_count(value, &count)) {
        mcandle_dataset_options_set_max_seq_length(a->dataset, (size_t)count);
    } else if (strcmp(name, "--device") == 0 && (choice = index_of(value, DEVICES)) >= 0) {
        mcandle_model_options_set_device(a->model, choice);
    } else if (strcmp(name, "--dtype") == 0 && (choice = index_of(value, DTYPES)) >= 0) {
        mcandle_model_options_set_dtype(a->model, choice);
    } else if (strcmp(name, "--schedule") == 0 && (choice = index_of(value, SCHEDULES)) >= 0) {
        mcandle_train_options_set_schedule(a->train, choice);
    } else {
        return false;
    }
    return true;
}

/* Reads the command line: 0 to go on, 1 after --help, 2 for a mistake. */
static int parse(arguments *a, int argc, char **argv) {
    int i;
    for (i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--help") == 0) {
            fputs(USAGE, stdout);
            return 1;
        }
        if (strcmp(name, "--resume") == 0) {
            a->resume = true;
        } else if (strcmp(name, "--grad-checkpoint") == 0) {
            mcandle_train_options_set_grad_checkpoint(a->train, true);
        } else if (strncmp(name, "--", 2) != 0) {
            if (a->output_dir != NULL) {
                fprintf(stderr, "finetune: more than two directories: %s (see --help)\n", name);
                return 2;
            }
            *(a->data_dir == NULL ? &a->data_dir : &a->output_dir) = name;
        } else if (i + 1 >= argc) {
            fprintf(stderr, "finetune: %s: no such option, or value missing (see --help)\n", name);
            return 2;
        } else if (!take(a, name, argv[++i])) {
            fprintf(stderr, "finetune: %s %s: no such option, or not a value of it (see --help)\n",
                    name, argv[i]);
            return 2;
        }
    }
    if (a->output_dir == NULL) {
        fprintf(stderr, "finetune: DATA_DIR and OUTPUT_DIR are missing (see --help)\n");
        return 2;
    }
    mcandle_train_options_set_output_dir(a->train, a->output_dir);
    return 0;
}

int main(int argc, char **argv) {
    arguments a = {0};
    int result;
    a.model_dir = "../assets/tiny-coder";
    a.model = mcandle_model_options_new();
    a.dataset = mcandle_dataset_options_new();
    a.train = mcandle_train_options_new();
    result = parse(&a, argc, argv);
    if (result == 0) {
        result = finetune(&a);
    } else if (result == 1) {
        result = 0;
    }
    mcandle_train_options_free(a.train);
    mcandle_dataset_options_free(a.dataset);
    mcandle_model_options_free(a.model);
    return result;
}
