/* Data sets: from files, folders and callbacks, of all shapes of rows.
 *
 * Usage: dataset FOLDER, with train.jsonl and valid.jsonl.
 */
#include "test.h"

static mcandle_model *model;

/* Rows that a callback gives, and what it gives at their end. */
typedef struct {
    const char *const *rows;
    size_t next;
    int32_t end;
} source;

static int32_t next_row(const char **row, size_t *row_length, void *user_data) {
    source *s = (source *)user_data;
    if (s->rows[s->next] == NULL) {
        return s->end;
    }
    *row = s->rows[s->next++];
    *row_length = strlen(*row);
    return 1;
}

static mcandle_status read_from(const char *const *rows, int32_t end,
                                const mcandle_dataset_options *options, mcandle_dataset **dataset,
                                mcandle_error **error) {
    source s = {rows, 0, end};
    return mcandle_dataset_from_callback(next_row, &s, model, options, dataset, error);
}

static void rows_of_all_shapes(void) {
    static const char *const ROWS[] = {
        "{\"text\": \"a b\"}",
        "{\"prompt\": \"a\", \"completion\": \"b\"}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"},"
        " {\"role\": \"assistant\", \"content\": \"b\"}]}",
        "{\"prefix\": \"a\", \"suffix\": \"\", \"middle\": \"b\"}",
        NULL,
    };
    static const char *const PAIRS[] = {
        "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}",
        NULL,
    };
    mcandle_dataset *rows = NULL, *pairs = NULL;
    SUCCEEDS(read_from(ROWS, 0, NULL, &rows, error));
    CHECK(mcandle_dataset_length(rows) == 4);
    CHECK(mcandle_dataset_row_kind(rows) == MCANDLE_ROW_KIND_SAMPLE);
    /* Of each row the answer and its end. */
    CHECK(mcandle_dataset_target_token_count(rows) == 8);
    CHECK(mcandle_dataset_token_count(rows) > 8);
    SUCCEEDS(read_from(PAIRS, 0, NULL, &pairs, error));
    CHECK(mcandle_dataset_length(pairs) == 1);
    CHECK(mcandle_dataset_row_kind(pairs) == MCANDLE_ROW_KIND_PAIR);
    CHECK(mcandle_dataset_token_count(pairs) == 6);
    CHECK(mcandle_dataset_target_token_count(pairs) == 4);
    mcandle_dataset_free(pairs);
    mcandle_dataset_free(rows);
}

static void a_callback_stops_and_fails(void) {
    static const char *const ROWS[] = {"{\"text\": \"a b\"}", "{\"text\": 5}", NULL};
    static const char *const NONE[] = {NULL};
    mcandle_dataset *rows = UNTOUCHED;
    FAILS(read_from(ROWS, 0, NULL, &rows, error), MCANDLE_INVALID_FORMAT, "<rows>:2: `text`");
    FAILS(read_from(NONE, 0, NULL, &rows, error), MCANDLE_INVALID_FORMAT, "at least one row");
    FAILS(read_from(NONE, -1, NULL, &rows, error), MCANDLE_CANCELLED, "cancelled");
    FAILS(read_from(NONE, 1, NULL, &rows, error), MCANDLE_INVALID_ARGUMENT, "`row` is NULL");
    FAILS(read_from(NONE, 2, NULL, &rows, error), MCANDLE_INVALID_ARGUMENT, "`next` is 2");
    CHECK((void *)rows == UNTOUCHED);
}

static void bad_rows_are_skipped(void) {
    static const char *const ROWS[] = {
        "{\"question\": \"a\", \"completion\": \"b\"}",
        "{\"text\": \"\xFF\"}",
        "[]",
        NULL,
    };
    mcandle_dataset_options *options = mcandle_dataset_options_new();
    mcandle_dataset *rows = NULL;
    mcandle_dataset_options_set_on_bad_row(options, MCANDLE_BAD_ROW_SKIP);
    SUCCEEDS(mcandle_dataset_options_set_field(options, "prompt", "question", error));
    SUCCEEDS(read_from(ROWS, 0, options, &rows, error));
    CHECK(mcandle_dataset_length(rows) == 1 && mcandle_dataset_skipped_count(rows) == 2);
    CHECK(mcandle_dataset_skipped_line(rows, 0) == 2);
    CHECK(strstr(mcandle_dataset_skipped_reason(rows, 0), "not UTF-8") != NULL);
    CHECK(mcandle_dataset_skipped_line(rows, 1) == 3);
    CHECK(strstr(mcandle_dataset_skipped_reason(rows, 1), "an array") != NULL);
    CHECK(mcandle_dataset_skipped_line(rows, 2) == 0);
    CHECK(strcmp(mcandle_dataset_skipped_reason(rows, 2), "") == 0);
    mcandle_dataset_free(rows);
    mcandle_dataset_options_free(options);
}

static void options_are_json(void) {
    const char *given = "{\"max_seq_length\": 9, \"mask\": \"none\", \"on_bad_row\": \"skip\","
                        " \"max_bytes_in_memory\": 7, \"fields\": {\"text\": \"t\"}}";
    mcandle_dataset_options *options = mcandle_dataset_options_new(), *same = NULL;
    mcandle_string *json = NULL, *json_of_same = NULL;
    mcandle_dataset_options_set_max_seq_length(options, 9);
    mcandle_dataset_options_set_mask(options, MCANDLE_LOSS_MASK_NONE);
    mcandle_dataset_options_set_on_bad_row(options, MCANDLE_BAD_ROW_SKIP);
    mcandle_dataset_options_set_max_bytes_in_memory(options, 7);
    SUCCEEDS(mcandle_dataset_options_set_field(options, "text", "t", error));
    SUCCEEDS(mcandle_dataset_options_from_json(given, strlen(given), &same, error));
    SUCCEEDS(mcandle_dataset_options_to_json(options, &json, error));
    SUCCEEDS(mcandle_dataset_options_to_json(same, &json_of_same, error));
    CHECK(strcmp(mcandle_string_data(json), mcandle_string_data(json_of_same)) == 0);
    CHECK(strstr(mcandle_string_data(json), "\"max_bytes_in_memory\":7") != NULL);
    mcandle_string_free(json_of_same);
    mcandle_string_free(json);
    mcandle_dataset_options_free(same);
    mcandle_dataset_options_free(options);
}

static void a_folder_has_several(const char *folder) {
    mcandle_dataset_options *options = mcandle_dataset_options_new();
    mcandle_dataset *train = NULL, *validation = NULL, *test = UNTOUCHED, *alone = NULL;
    /* Also where the rows stay in their files. */
    mcandle_dataset_options_set_max_bytes_in_memory(options, 0);
    SUCCEEDS(mcandle_dataset_from_folder(folder, model, options, &train, &validation, &test, error));
    CHECK(mcandle_dataset_length(train) == 2 && mcandle_dataset_length(validation) == 2);
    CHECK(test == NULL);
    SUCCEEDS(mcandle_dataset_from_folder(folder, model, NULL, &alone, NULL, NULL, error));
    CHECK(mcandle_dataset_token_count(alone) == mcandle_dataset_token_count(train));
    mcandle_dataset_free(alone);
    mcandle_dataset_free(validation);
    mcandle_dataset_free(train);
    mcandle_dataset_options_free(options);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    SUCCEEDS(mcandle_model_load(MODEL_DIR, NULL, &model, error));
    rows_of_all_shapes();
    a_callback_stops_and_fails();
    bad_rows_are_skipped();
    options_are_json();
    a_folder_has_several(argv[1]);
    mcandle_model_free(model);
    return 0;
}
