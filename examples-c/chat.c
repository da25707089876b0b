/* A chat in the terminal, with a model that has a chat template.
 *
 * The model keeps what it has read, so an answer costs only what is new in the conversation.
 */
#define _POSIX_C_SOURCE 200809L
#include "arguments.h"
#include "metal_candle.h"

#include <signal.h>
#include <stdio.h>

static const char USAGE[] =
    "Usage: chat [OPTIONS]\n"
    "\n"
    "  --model DIR        the model (default ../assets/tiny-coder)\n"
    "  --adapter DIR      a LoRA adapter\n"
    "  --device NAME      auto, cpu, metal or cuda (default auto)\n"
    "  --system TEXT      instructions for the model\n"
    "  --max-tokens N     the longest answer (default 512)\n"
    "  --temperature X    0 for always the most likely token (default 0.7)\n"
    "  --seed N           of sampling (default 0)\n"
    "  --stop TEXT        a string that ends an answer; may be repeated\n"
    "\n"
    "In the chat: /reset forgets the conversation, /save FILE and /load FILE keep it, /quit or Ctrl-D\n"
    "ends. Ctrl-C stops the answer.\n";

/* The conversation as the inside of a JSON array: {"role": ..., "content": ...}, ... */
typedef struct {
    char *text;
    size_t length;
    size_t capacity;
} history;

static void append(history *h, const char *text, size_t length) {
    if (h->length + length + 1 > h->capacity) {
        h->capacity = 2 * (h->length + length + 1);
        h->text = (char *)realloc(h->text, h->capacity);
        if (h->text == NULL) {
            fputs("chat: out of memory\n", stderr);
            exit(1);
        }
    }
    memcpy(h->text + h->length, text, length);
    h->length += length;
    h->text[h->length] = '\0';
}

static void cut(history *h, size_t length) {
    if (h->text != NULL) {
        h->length = length;
        h->text[length] = '\0';
    }
}

static void append_message(history *h, const char *role, const char *content, size_t length) {
    char escaped[8];
    size_t i;
    append(h, h->length > 0 ? ", " : "", h->length > 0 ? 2 : 0);
    append(h, "{\"role\": \"", 10);
    append(h, role, strlen(role));
    append(h, "\", \"content\": \"", 15);
    for (i = 0; i < length; i++) {
        unsigned char c = (unsigned char)content[i];
        if (c == '"' || c == '\\') {
            snprintf(escaped, sizeof escaped, "\\%c", c);
        } else if (c < 0x20) {
            snprintf(escaped, sizeof escaped, "\\u%04x", c);
        } else {
            snprintf(escaped, sizeof escaped, "%c", c);
        }
        append(h, escaped, strlen(escaped));
    }
    append(h, "\"}", 2);
}

/* The generator that Ctrl-C stops. Cancelling stores a flag and does nothing else, so that a signal
 * handler may do it. */
static const mcandle_generator *running;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    mcandle_generator_cancel(running);
}

static void print_error(const char *what, mcandle_error *error) {
    fprintf(stderr, "chat: %s: %s\n", what, mcandle_error_message(error));
    mcandle_error_free(error);
}

static bool print_chunk(const mcandle_chunk *chunk, void *user_data) {
    size_t length = 0;
    const char *text = mcandle_chunk_text(chunk, &length);
    (void)user_data;
    fwrite(text, 1, length, stdout);
    fflush(stdout);
    return true;
}

/* Answers the last message, and adds the answer. A message that cannot be answered is taken back. */
static void answer(mcandle_generator *generator, const mcandle_generate_options *options,
                   history *h, size_t before) {
    mcandle_generation *generation = NULL;
    mcandle_error *error = NULL;
    history messages = {NULL, 0, 0};
    append(&messages, "[", 1);
    append(&messages, h->text, h->length);
    append(&messages, "]", 1);
    if (mcandle_generator_chat(generator, messages.text, messages.length, NULL, 0, options,
                               print_chunk, NULL, &generation, &error) == MCANDLE_OK) {
        size_t length = 0;
        const char *text = mcandle_generation_text(generation, &length);
        bool stopped = mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_CANCELLED;
        append_message(h, "assistant", text, length);
        printf("%s\n", stopped ? " [stopped]" : "");
    } else {
        print_error("cannot answer", error);
        cut(h, before);
    }
    mcandle_generation_free(generation);
    free(messages.text);
}

/* Writes the conversation to FILE, and what the model has read of it to FILE.session. */
static void save(const mcandle_generator *generator, const history *h, const char *path) {
    mcandle_error *error = NULL;
    history session = {NULL, 0, 0};
    FILE *file = fopen(path, "wb");
    bool written = file != NULL && fprintf(file, "[%s]\n", h->length > 0 ? h->text : "") > 0;
    if (file == NULL || fclose(file) != 0 || !written) {
        perror(path);
        return;
    }
    append(&session, path, strlen(path));
    append(&session, ".session", 8);
    if (mcandle_generator_save_session(generator, session.text, &error) != MCANDLE_OK) {
        print_error("cannot save", error);
    }
    free(session.text);
}

static void load(mcandle_generator *generator, history *h, const char *path) {
    mcandle_error *error = NULL;
    history text = {NULL, 0, 0};
    char part[4096];
    size_t count;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return;
    }
    while ((count = fread(part, 1, sizeof part, file)) > 0) {
        append(&text, part, count);
    }
    fclose(file);
    while (text.length > 0 && (text.text[text.length - 1] == '\n' || text.text[text.length - 1] == ']')) {
        text.length--;
    }
    if (text.length == 0 || text.text[0] != '[') {
        fprintf(stderr, "chat: %s: not a conversation\n", path);
        free(text.text);
        return;
    }
    cut(h, 0);
    append(h, text.text + 1, text.length - 1);
    cut(&text, 0);
    append(&text, path, strlen(path));
    append(&text, ".session", 8);
    /* Without it the conversation is read again, which only takes time. */
    if (mcandle_generator_load_session(generator, text.text, &error) != MCANDLE_OK) {
        print_error("reading the conversation anew", error);
    }
    free(text.text);
}

static void chat(mcandle_generator *generator, const mcandle_generate_options *options,
                 const char *system) {
    history h = {NULL, 0, 0};
    char *line = NULL;
    size_t capacity = 0;
    for (;;) {
        ssize_t length;
        if (h.length == 0 && system != NULL) {
            append_message(&h, "system", system, strlen(system));
        }
        fputs("> ", stdout);
        fflush(stdout);
        length = getline(&line, &capacity, stdin);
        if (length < 0) {
            if (feof(stdin)) {
                break;
            }
            /* Ctrl-C while nothing is generated. */
            clearerr(stdin);
            putchar('\n');
            continue;
        }
        while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r')) {
            line[--length] = '\0';
        }
        if (strcmp(line, "/quit") == 0) {
            break;
        } else if (strcmp(line, "/reset") == 0) {
            cut(&h, 0);
        } else if (strncmp(line, "/save ", 6) == 0) {
            save(generator, &h, line + 6);
        } else if (strncmp(line, "/load ", 6) == 0) {
            load(generator, &h, line + 6);
        } else if (line[0] == '/') {
            fputs("/reset, /save FILE, /load FILE or /quit\n", stderr);
        } else if (length > 0) {
            size_t before = h.length;
            append_message(&h, "user", line, (size_t)length);
            answer(generator, options, &h, before);
        }
    }
    free(line);
    free(h.text);
}

int main(int argc, char **argv) {
    static const char *const DEVICES[] = {"auto", "cpu", "metal", "cuda", NULL};
    const char *model_dir = "../assets/tiny-coder";
    const char *adapter_dir = NULL;
    const char *system = NULL;
    mcandle_model_options *model_options = mcandle_model_options_new();
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_model *model = NULL;
    mcandle_adapter *adapter = NULL;
    mcandle_generator *generator = NULL;
    mcandle_error *error = NULL;
    struct sigaction action;
    int result = 0;
    int i;

    mcandle_generate_options_set_max_tokens(options, 512);
    mcandle_generate_options_set_temperature(options, 0.7);
    for (i = 1; i < argc && result == 0; i++) {
        const char *name = argv[i];
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        unsigned long long count = 0;
        double real = 0;
        int choice;
        if (strcmp(name, "--help") == 0) {
            fputs(USAGE, stdout);
            goto done;
        }
        i++;
        if (i >= argc) {
            result = 2;
        } else if (strcmp(name, "--model") == 0) {
            model_dir = value;
        } else if (strcmp(name, "--adapter") == 0) {
            adapter_dir = value;
        } else if (strcmp(name, "--device") == 0 && (choice = index_of(value, DEVICES)) >= 0) {
            mcandle_model_options_set_device(model_options, choice);
        } else if (strcmp(name, "--system") == 0) {
            system = value;
        } else if (strcmp(name, "--max-tokens") == 0 && parse_count(value, &count)) {
            mcandle_generate_options_set_max_tokens(options, (size_t)count);
        } else if (strcmp(name, "--temperature") == 0 && parse_real(value, &real)) {
            mcandle_generate_options_set_temperature(options, real);
        } else if (strcmp(name, "--seed") == 0 && parse_count(value, &count)) {
            mcandle_generate_options_set_seed(options, count);
        } else if (strcmp(name, "--stop") != 0 ||
                   mcandle_generate_options_add_stop(options, value, strlen(value), NULL) !=
                       MCANDLE_OK) {
            result = 2;
        }
        if (result != 0) {
            fprintf(stderr, "chat: %s %s: no such option, or not a value of it (see --help)\n",
                    name, value);
        }
    }
    if (result != 0) {
        goto done;
    }
    if (mcandle_model_load(model_dir, model_options, &model, &error) != MCANDLE_OK ||
        mcandle_generator_new(model, &generator, &error) != MCANDLE_OK ||
        (adapter_dir != NULL && mcandle_adapter_load(adapter_dir, model, &adapter, &error) != MCANDLE_OK) ||
        mcandle_generator_set_adapter(generator, adapter, &error) != MCANDLE_OK) {
        print_error("cannot load", error);
        result = 1;
        goto done;
    }
    running = generator;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    sigaction(SIGINT, &action, NULL);
    chat(generator, options, system);
    signal(SIGINT, SIG_DFL);
done:
    mcandle_generator_free(generator);
    mcandle_adapter_free(adapter);
    mcandle_model_free(model);
    mcandle_generate_options_free(options);
    mcandle_model_options_free(model_options);
    return result;
}
