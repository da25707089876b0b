/* Chats, their templates, tool calls, and prompts that fill in the middle.
 *
 * Usage: chat FOLDER, with the inputs that the test harness makes.
 */
/* NULL is passed on purpose. */
#define MCANDLE_NO_NULLABILITY
#include "test.h"

#define NULL_FAILS(name, call) FAILS(call, MCANDLE_NULL_POINTER, "`" name "` is NULL")
#define MESSAGES "[{\"role\": \"user\", \"content\": \"Größe?\"}]"
#define JSON(text) text, strlen(text)

static mcandle_model *model;
static mcandle_model *plain;

static void templates(void) {
    static const char options[] = "{\"add_generation_prompt\": false, \"tools\": [], \"arguments\": {\"x\": 1}}";
    static const char open[] = "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]";
    mcandle_string *text = NULL;
    CHECK(mcandle_model_has_chat_template(model) && !mcandle_model_has_chat_template(plain));
    CHECK(!mcandle_model_has_chat_template(NULL));
    SUCCEEDS(mcandle_model_apply_chat_template(model, JSON(MESSAGES), NULL, 0, &text, error));
    CHECK(strcmp(mcandle_string_data(text),
                 "<|im_start|>user\nGröße?<|im_end|>\n<|im_start|>assistant\n") == 0);
    mcandle_string_free(text);
    SUCCEEDS(
        mcandle_model_apply_chat_template(model, JSON(MESSAGES), JSON(options), &text, error));
    CHECK(strcmp(mcandle_string_data(text), "<|im_start|>user\nGröße?<|im_end|>\n") == 0);
    mcandle_string_free(text);
    SUCCEEDS(mcandle_model_apply_chat_template(
        model, JSON(open), JSON("{\"continue_final_message\": true}"), &text, error));
    CHECK(strcmp(mcandle_string_data(text),
                 "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb") == 0);
    mcandle_string_free(text);
}

static void mistakes_in_conversations(void) {
    mcandle_string *text = NULL;
#define APPLY_FAILS(messages, options, ...)                                                        \
    FAILS(mcandle_model_apply_chat_template(model, JSON(messages), JSON(options), &text, error),   \
          MCANDLE_INVALID_ARGUMENT, __VA_ARGS__)
    APPLY_FAILS("[", "{}", "`messages` is not JSON", "line 1", "expected a list of messages");
    APPLY_FAILS("{}", "{}", "`messages` is {}");
    APPLY_FAILS("[{}]", "{}", "`messages[0].role` is missing", "expected a string");
    APPLY_FAILS(MESSAGES, "", "`options` is not JSON", "expected an object");
    APPLY_FAILS(MESSAGES, "{\"tool\": 1}", "`options.tool` is 1", "add_generation_prompt");
    FAILS(mcandle_model_apply_chat_template(model, "\xFF", 1, NULL, 0, &text, error),
          MCANDLE_INVALID_UTF8, "`messages`");
    FAILS(mcandle_model_apply_chat_template(plain, JSON(MESSAGES), NULL, 0, &text, error),
          MCANDLE_NOT_FOUND, "chat_template.jinja", "expected a chat template");
    NULL_FAILS("model",
               mcandle_model_apply_chat_template(NULL, JSON(MESSAGES), NULL, 0, &text, error));
    NULL_FAILS("messages",
               mcandle_model_apply_chat_template(model, NULL, 1, NULL, 0, &text, error));
    NULL_FAILS("text",
               mcandle_model_apply_chat_template(model, JSON(MESSAGES), NULL, 0, NULL, error));
    CHECK(text == NULL);
}

/* The pieces as one text: T, R or C and the piece, each in brackets. */
typedef struct {
    char text[512];
    size_t length;
} record;

static void on_piece(const mcandle_piece *piece, void *user_data) {
    static const char letters[] = {'T', 'R', 'C'};
    record *r = (record *)user_data;
    size_t name_length = 7, length = 7;
    const char *name = mcandle_piece_name(piece, &name_length);
    const char *text = mcandle_piece_text(piece, &length);
    CHECK(name[name_length] == '\0' && text[length] == '\0');
    CHECK(mcandle_piece_kind_of(piece) == MCANDLE_PIECE_TOOL_CALL || name_length == 0);
    r->length += (size_t)snprintf(r->text + r->length, sizeof r->text - r->length, "%c%s[%s]",
                                  letters[mcandle_piece_kind_of(piece)], name, text);
    CHECK(r->length < sizeof r->text);
}

static void tool_calls(void) {
    static const char *const chunks[] = {"hm</thi", "nk>a <tool", "_call>\n{\"name\": \"f\", \"argu",
                                         "ments\": {\"x\": \"ü\"}}\n</tool_call> <", "b <tool_call>{"};
    mcandle_tool_call_parser *parser = mcandle_tool_call_parser_new(true, true);
    record r = {"", 0};
    size_t i;
    for (i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        SUCCEEDS(mcandle_tool_call_parser_push(parser, JSON(chunks[i]), on_piece, &r, error));
    }
    CHECK(strcmp(r.text, "R[hm]T[a ]Cf[{\"x\":\"ü\"}]T[ ]T[<b ]") == 0);
    SUCCEEDS(mcandle_tool_call_parser_finish(parser, on_piece, &r, error));
    CHECK(strcmp(r.text, "R[hm]T[a ]Cf[{\"x\":\"ü\"}]T[ ]T[<b ]T[<tool_call>{]") == 0);
    SUCCEEDS(mcandle_tool_call_parser_push(parser, NULL, 0, NULL, NULL, error));
    SUCCEEDS(mcandle_tool_call_parser_push(parser, JSON("x"), NULL, NULL, error));
    SUCCEEDS(mcandle_tool_call_parser_finish(parser, NULL, NULL, error));
    FAILS(mcandle_tool_call_parser_push(parser, "\xFF", 1, on_piece, &r, error),
          MCANDLE_INVALID_UTF8, "`text`");
    NULL_FAILS("parser", mcandle_tool_call_parser_push(NULL, JSON("x"), on_piece, &r, error));
    NULL_FAILS("text", mcandle_tool_call_parser_push(parser, NULL, 1, on_piece, &r, error));
    NULL_FAILS("parser", mcandle_tool_call_parser_finish(NULL, on_piece, &r, error));
    mcandle_tool_call_parser_free(parser);
    mcandle_tool_call_parser_free(NULL);

    parser = mcandle_tool_call_parser_new(false, false);
    r.length = 0;
    SUCCEEDS(mcandle_tool_call_parser_push(parser, JSON("<think>x"), on_piece, &r, error));
    CHECK(strcmp(r.text, "T[<think>x]") == 0);
    mcandle_tool_call_parser_free(parser);

    i = 7;
    CHECK(mcandle_piece_kind_of(NULL) == -1);
    CHECK(strcmp(mcandle_piece_text(NULL, &i), "") == 0 && i == 0);
    CHECK(strcmp(mcandle_piece_name(NULL, NULL), "") == 0);
}

/* Checks that the tokens are those of a text with special tokens in it. */
static void check_tokens(const mcandle_tokens *tokens, const char *text) {
    mcandle_tokenizer *tokenizer = NULL;
    mcandle_tokens *expected = NULL;
    size_t length = mcandle_tokens_length(tokens);
    SUCCEEDS(mcandle_model_tokenizer(model, &tokenizer, error));
    SUCCEEDS(mcandle_tokenizer_encode(tokenizer, JSON(text), false, &expected, error));
    CHECK(length == mcandle_tokens_length(expected));
    CHECK(memcmp(mcandle_tokens_data(tokens), mcandle_tokens_data(expected),
                 length * sizeof(uint32_t)) == 0);
    mcandle_tokens_free(expected);
    mcandle_tokenizer_free(tokenizer);
}

static void middles(void) {
    mcandle_fim_context *context = mcandle_fim_context_new();
    mcandle_tokens *tokens = NULL;
    SUCCEEDS(mcandle_model_fim_prompt(model, JSON("a ="), JSON(";"), NULL, &tokens, error));
    check_tokens(tokens, "<|fim_prefix|>a =<|fim_suffix|>;<|fim_middle|>");
    mcandle_tokens_free(tokens);
    SUCCEEDS(mcandle_model_fim_prompt(model, NULL, 0, NULL, 0, NULL, &tokens, error));
    check_tokens(tokens, "<|fim_prefix|><|fim_suffix|><|fim_middle|>");
    mcandle_tokens_free(tokens);

    SUCCEEDS(mcandle_fim_context_set_repo_name(context, "repo", error));
    SUCCEEDS(mcandle_fim_context_set_path(context, "b.rs", error));
    SUCCEEDS(mcandle_fim_context_add_file(context, "a.rs", JSON("struct A;"), error));
    SUCCEEDS(mcandle_model_fim_prompt(model, JSON("a ="), JSON(";"), context, &tokens, error));
    check_tokens(tokens, "<|repo_name|>repo\n<|file_sep|>a.rs\nstruct A;\n"
                         "<|file_sep|>b.rs\n<|fim_prefix|>a =<|fim_suffix|>;<|fim_middle|>");
    mcandle_tokens_free(tokens);
    SUCCEEDS(mcandle_fim_context_set_repo_name(context, NULL, error));
    SUCCEEDS(mcandle_fim_context_set_path(context, NULL, error));
    SUCCEEDS(mcandle_model_fim_prompt(model, JSON("a"), JSON("b"), context, &tokens, error));
    check_tokens(tokens, "<|file_sep|>a.rs\nstruct A;\n"
                         "<|file_sep|>\n<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>");
    mcandle_tokens_free(tokens);

    SUCCEEDS(mcandle_model_fim_stop_tokens(model, &tokens, error));
    CHECK(mcandle_tokens_length(tokens) == 7 && mcandle_tokens_data(tokens)[0] == 6135);
    mcandle_tokens_free(tokens);
    tokens = NULL;

    FAILS(mcandle_model_fim_prompt(plain, JSON("a"), JSON("b"), NULL, &tokens, error),
          MCANDLE_TOKENIZER, "tokenizer.json");
    FAILS(mcandle_model_fim_stop_tokens(plain, &tokens, error), MCANDLE_TOKENIZER,
          "tokenizer.json");
    FAILS(mcandle_fim_context_set_path(context, "\xFF", error), MCANDLE_INVALID_UTF8, "`path`");
    NULL_FAILS("context", mcandle_fim_context_set_repo_name(NULL, "x", error));
    NULL_FAILS("context", mcandle_fim_context_set_path(NULL, "x", error));
    NULL_FAILS("context", mcandle_fim_context_add_file(NULL, "x", NULL, 0, error));
    NULL_FAILS("path", mcandle_fim_context_add_file(context, NULL, NULL, 0, error));
    NULL_FAILS("text", mcandle_fim_context_add_file(context, "x", NULL, 1, error));
    NULL_FAILS("model", mcandle_model_fim_prompt(NULL, NULL, 0, NULL, 0, NULL, &tokens, error));
    NULL_FAILS("prefix", mcandle_model_fim_prompt(model, NULL, 1, NULL, 0, NULL, &tokens, error));
    NULL_FAILS("suffix", mcandle_model_fim_prompt(model, NULL, 0, NULL, 1, NULL, &tokens, error));
    NULL_FAILS("tokens", mcandle_model_fim_prompt(model, NULL, 0, NULL, 0, NULL, NULL, error));
    NULL_FAILS("model", mcandle_model_fim_stop_tokens(NULL, &tokens, error));
    NULL_FAILS("tokens", mcandle_model_fim_stop_tokens(model, NULL, error));
    CHECK(tokens == NULL);
    mcandle_fim_context_free(context);
    mcandle_fim_context_free(NULL);
}

static bool on_chunk(const mcandle_chunk *chunk, void *user_data) {
    record *r = (record *)user_data;
    size_t length = 0;
    const char *text = mcandle_chunk_text(chunk, &length);
    CHECK(r->length + length < sizeof r->text);
    memcpy(r->text + r->length, text, length + 1);
    r->length += length;
    return true;
}

static bool stop(const mcandle_chunk *chunk, void *user_data) {
    CHECK(mcandle_chunk_index(chunk) == 0 && user_data == NULL);
    return false;
}

/* Checks that the prompt of the last generation was a text with special tokens in it. */
static void check_prompt(mcandle_generator *generator, const mcandle_generation *generation,
                         const char *text) {
    mcandle_tokens *context = NULL;
    SUCCEEDS(mcandle_generator_truncate(generator, mcandle_generation_prompt_tokens(generation),
                                        error));
    SUCCEEDS(mcandle_generator_context(generator, &context, error));
    check_tokens(context, text);
    mcandle_tokens_free(context);
}

static void chats(void) {
    static const char longer[] = "[{\"role\": \"user\", \"content\": \"Größe?\"},"
                                 " {\"role\": \"assistant\", \"content\": \"7\"}]";
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_generator *generator = NULL, *mute = NULL;
    mcandle_generation *generation = NULL;
    record r = {"", 0};
    size_t length = 0;
    const char *text;
    mcandle_generate_options_set_max_tokens(options, 3);
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    SUCCEEDS(mcandle_generator_chat(generator, JSON(MESSAGES), NULL, 0, options, on_chunk, &r,
                                    &generation, error));
    text = mcandle_generation_text(generation, &length);
    CHECK(length > 0 && length == r.length && memcmp(text, r.text, length) == 0);
    CHECK(mcandle_generation_cached_tokens(generation) == 0);
    check_prompt(generator, generation,
                 "<|im_start|>user\nGröße?<|im_end|>\n<|im_start|>assistant\n");
    mcandle_generation_free(generation);

    /* The start of the conversation is known. */
    SUCCEEDS(mcandle_generator_chat(generator, JSON(longer),
                                    JSON("{\"continue_final_message\": true}"), options, stop, NULL,
                                    &generation, error));
    CHECK(mcandle_generation_cached_tokens(generation) > 5);
    CHECK(mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_CANCELLED);
    check_prompt(generator, generation,
                 "<|im_start|>user\nGröße?<|im_end|>\n<|im_start|>assistant\n7");
    mcandle_generation_free(generation);
    generation = NULL;
    SUCCEEDS(mcandle_generator_chat(generator, JSON(MESSAGES), NULL, 0, options, NULL, NULL, NULL,
                                    error));

    SUCCEEDS(mcandle_generator_new(plain, &mute, error));
    FAILS(mcandle_generator_chat(mute, JSON(MESSAGES), NULL, 0, options, NULL, NULL, &generation,
                                 error),
          MCANDLE_NOT_FOUND, "chat_template.jinja", "expected a chat template");
    CHECK(generation == NULL);
    mcandle_generator_free(mute);
    mcandle_generator_free(generator);
    mcandle_generate_options_free(options);
}

static void completions(void) {
    mcandle_generate_options *options = mcandle_generate_options_new();
    mcandle_fim_context *context = mcandle_fim_context_new();
    mcandle_generator *generator = NULL, *mute = NULL;
    mcandle_generation *generation = NULL;
    record r = {"", 0};
    size_t length = 0;
    const char *text;
    mcandle_generate_options_set_max_tokens(options, 3);
    SUCCEEDS(mcandle_generator_new(model, &generator, error));
    SUCCEEDS(mcandle_generator_complete(generator, JSON("let größe ="), JSON(";"), NULL, options,
                                        on_chunk, &r, &generation, error));
    text = mcandle_generation_text(generation, &length);
    CHECK(length == r.length && memcmp(text, r.text, length) == 0);
    check_prompt(generator, generation, "<|fim_prefix|>let größe =<|fim_suffix|>;<|fim_middle|>");
    mcandle_generation_free(generation);
    SUCCEEDS(mcandle_fim_context_set_path(context, "b.rs", error));
    SUCCEEDS(mcandle_fim_context_add_file(context, "a.rs", JSON("struct A;"), error));
    SUCCEEDS(mcandle_generator_complete(generator, JSON("a"), NULL, 0, context, options, stop, NULL,
                                        &generation, error));
    CHECK(mcandle_generation_finish_reason(generation) == MCANDLE_FINISH_CANCELLED);
    check_prompt(generator, generation,
                 "<|file_sep|>a.rs\nstruct A;\n"
                 "<|file_sep|>b.rs\n<|fim_prefix|>a<|fim_suffix|><|fim_middle|>");
    mcandle_generation_free(generation);
    generation = NULL;
    SUCCEEDS(mcandle_generator_complete(generator, NULL, 0, NULL, 0, NULL, options, NULL, NULL, NULL,
                                        error));

    SUCCEEDS(mcandle_generator_new(plain, &mute, error));
    FAILS(mcandle_generator_complete(mute, JSON("a"), JSON("b"), NULL, options, NULL, NULL,
                                     &generation, error),
          MCANDLE_TOKENIZER, "tokenizer.json");
    FAILS(mcandle_generator_complete(generator, "\xFF", 1, JSON("b"), NULL, options, NULL, NULL,
                                     &generation, error),
          MCANDLE_INVALID_UTF8, "`prefix`");
    FAILS(mcandle_generator_complete(generator, JSON("a"), "\xFF", 1, NULL, options, NULL, NULL,
                                     &generation, error),
          MCANDLE_INVALID_UTF8, "`suffix`");
    CHECK(generation == NULL);
    mcandle_generator_free(mute);
    mcandle_generator_free(generator);
    mcandle_fim_context_free(context);
    mcandle_generate_options_free(options);
}

int main(int argc, char **argv) {
    char path[4096];
    CHECK(argc == 2 && (size_t)snprintf(path, sizeof path, "%s/other_model", argv[1]) < sizeof path);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    SUCCEEDS(mcandle_model_load(path, NULL, &plain, error));
    templates();
    mistakes_in_conversations();
    tool_calls();
    middles();
    chats();
    completions();
    mcandle_model_free(plain);
    mcandle_model_free(model);
    return 0;
}
