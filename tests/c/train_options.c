/* Options of training: every setter is seen in the JSON, which makes the same options again; and
 * settings that do not go together.
 */
#include "test.h"

static mcandle_string *json_of(const mcandle_train_options *options) {
    mcandle_string *json = NULL;
    SUCCEEDS(mcandle_train_options_to_json(options, &json, error));
    return json;
}

/* Checks that options are written with a part. */
#define HAS(options, part)                                                                         \
    do {                                                                                           \
        mcandle_string *written = json_of(options);                                                \
        if (strstr(mcandle_string_data(written), part) == NULL) {                                  \
            fprintf(stderr, "%s:%d: %s is not in: %s\n", __FILE__, __LINE__, part,                 \
                    mcandle_string_data(written));                                                 \
            exit(1);                                                                               \
        }                                                                                          \
        mcandle_string_free(written);                                                              \
    } while (0)

static mcandle_train_options *read(const char *json) {
    mcandle_train_options *options = NULL;
    SUCCEEDS(mcandle_train_options_from_json(json, strlen(json), &options, error));
    return options;
}

static void reads_back(const mcandle_train_options *options) {
    mcandle_string *json = json_of(options), *again;
    mcandle_train_options *copy = read(mcandle_string_data(json));
    again = json_of(copy);
    CHECK(strcmp(mcandle_string_data(json), mcandle_string_data(again)) == 0);
    mcandle_string_free(again);
    mcandle_train_options_free(copy);
    mcandle_string_free(json);
}

#define SET(setting, value, part)                                                                  \
    mcandle_train_options_set_##setting(options, value);                                           \
    HAS(options, part)

static void every_setter_counts(void) {
    mcandle_train_options *options = mcandle_train_options_new();
    SET(steps, 70, "\"steps\":70");
    HAS(options, "\"epochs\":null");
    SET(epochs, 2.5, "\"epochs\":2.5");
    SET(batch_size, 3, "\"batch_size\":3");
    SET(gradient_accumulation, 5, "\"gradient_accumulation\":5");
    SET(batching, MCANDLE_BATCHING_LENGTH_BUCKETS, "\"batching\":\"length_buckets\"");
    SET(batching, MCANDLE_BATCHING_PACKED, "\"batching\":\"packed\"");
    SET(batching, MCANDLE_BATCHING_PLAIN, "\"batching\":\"plain\"");
    SET(pack_length, 99, "\"pack_length\":99");
    SET(shuffle, false, "\"shuffle\":false");
    SET(seed, 12, "\"seed\":12");
    SET(grad_checkpoint, true, "\"grad_checkpoint\":true");
    SET(learning_rate, 0.5, "\"learning_rate\":0.5");
    SET(min_learning_rate, 0.25, "\"min_learning_rate\":0.25");
    SET(warmup_steps, 7, "\"warmup_steps\":7");
    SET(schedule, MCANDLE_SCHEDULE_LINEAR, "\"schedule\":\"linear\"");
    SET(schedule, MCANDLE_SCHEDULE_COSINE, "\"schedule\":\"cosine\"");
    mcandle_train_options_set_schedule_step(options, 100, 0.5);
    HAS(options, "\"schedule\":{\"name\":\"step\",\"step_size\":100,\"gamma\":0.5}");
    SET(schedule_exponential, 0.75, "\"schedule\":{\"name\":\"exponential\",\"gamma\":0.75}");
    SET(schedule, MCANDLE_SCHEDULE_CONSTANT, "\"schedule\":\"constant\"");
    SET(max_grad_norm, 0, "\"max_grad_norm\":0.0");
    SET(label_smoothing, 0.125, "\"label_smoothing\":0.125");
    SET(eval_every, 11, "\"eval_every\":11");
    SET(eval_batches, 0, "\"eval_batches\":0");
    SET(early_stopping_patience, 4, "\"early_stopping_patience\":4");
    SET(early_stopping_min_delta, 0.5, "\"early_stopping_min_delta\":0.5");
    SET(save_every, 13, "\"save_every\":13");
    SET(keep_checkpoints, 2, "\"keep_checkpoints\":2");
    SET(output_dir, "some/where", "\"output_dir\":\"some/where\"");
    reads_back(options);
    SET(output_dir, NULL, "\"output_dir\":null");
    SET(epochs, 0, "\"epochs\":null");
    SET(label_smoothing, 0, "\"label_smoothing\":0.0");
    mcandle_train_options_set_preference_dpo(options, 0.5, 0.25);
    HAS(options, "\"preference\":{\"name\":\"dpo\",\"beta\":0.5,\"label_smoothing\":0.25}");
    SET(preference_orpo, 0.5, "\"preference\":{\"name\":\"orpo\",\"lambda\":0.5}");
    reads_back(options);
    mcandle_train_options_clear_preference(options);
    HAS(options, "\"preference\":null");
    mcandle_train_options_free(options);
}

/* Of two settings for the same thing the last one counts. */
static void methods(void) {
    mcandle_train_options *options = mcandle_train_options_new();
    HAS(options, "\"method\":{\"fine_tune_type\":\"lora\"");
    SET(rank, 3, "\"rank\":3");
    SET(alpha, 5, "\"alpha\":5.0");
    SET(scale, 20, "\"scale\":20.0");
    SET(alpha, 6, "\"alpha\":6.0");
    SET(dropout, 0.5, "\"dropout\":0.5");
    SET(use_rslora, true, "\"use_rslora\":true");
    SET(use_dora, true, "\"use_dora\":true");
    SET(target_pattern, ".*_proj", "\"target_modules\":\".*_proj\"");
    SET(target_modules, "v_proj, q_proj", "\"target_modules\":[\"q_proj\",\"v_proj\"]");
    SET(target_pattern, "x", "\"target_modules\":\"x\"");
    reads_back(options);
    SET(target_pattern, NULL, "\"gate_proj\"");
    SET(num_layers, 2, "\"num_layers\":2");
    SET(method, MCANDLE_METHOD_FULL, "\"method\":{\"fine_tune_type\":\"full\",\"num_layers\":2}");
    SET(num_layers, 0, "\"method\":{\"fine_tune_type\":\"full\"}");
    reads_back(options);
    SET(method, MCANDLE_METHOD_LORA, "\"rank\":3");
    mcandle_train_options_free(options);
}

static void optimizers(void) {
    mcandle_train_options *options = mcandle_train_options_new();
    HAS(options, "\"optimizer\":{\"name\":\"adamw\",\"beta1\":0.9,\"beta2\":0.999");
    /* Settings may come before their optimizer. */
    mcandle_train_options_set_betas(options, 0.5, 0.75);
    HAS(options, "\"beta1\":0.5,\"beta2\":0.75");
    SET(eps, 0.125, "\"eps\":0.125");
    SET(optimizer, MCANDLE_OPTIMIZER_ADAM,
        "{\"name\":\"adam\",\"beta1\":0.5,\"beta2\":0.75,\"eps\":0.125,\"weight_decay\":0.0");
    SET(weight_decay, 0.5, "\"weight_decay\":0.5");
    reads_back(options);
    mcandle_train_options_free(options);

    options = mcandle_train_options_new();
    SET(weight_decay, 0.5, "\"weight_decay\":0.5");
    SET(optimizer, MCANDLE_OPTIMIZER_ADAFACTOR, "\"optimizer\":{\"name\":\"adafactor\"");
    HAS(options, "\"weight_decay\":0.5");
    SET(optimizer, MCANDLE_OPTIMIZER_SGD, "\"optimizer\":{\"name\":\"sgd\",\"momentum\":0.0");
    SET(momentum, 0.25, "\"momentum\":0.25");
    HAS(options, "\"weight_decay\":0.5");
    SET(optimizer, MCANDLE_OPTIMIZER_MUON, "\"optimizer\":{\"name\":\"muon\",\"momentum\":0.25");
    SET(eps, 0.125, "\"eps\":0.125");
    HAS(options, "\"weight_decay\":0.5,\"adjust_lr\"");
    reads_back(options);
    mcandle_train_options_free(options);
}

/* What JSON says stays, but for what a setter changes. */
static void json_and_setters(void) {
    mcandle_train_options *options =
        read("{\"method\": {\"layers\": [1, 3], \"target_modules\": \".*v_proj\"}, \"epochs\": 2,"
             " \"optimizer\": {\"name\": \"muon\", \"ns_steps\": 7}, \"output_dir\": \"o\","
             " \"schedule\": \"cosine\", \"batching\": \"packed\"}");
    SET(rank, 3, "\"rank\":3");
    SET(momentum, 0.5, "\"ns_steps\":7");
    HAS(options, "\"momentum\":0.5");
    HAS(options, "\"layers\":[1,3]");
    HAS(options, "\"target_modules\":\".*v_proj\"");
    HAS(options, "\"output_dir\":\"o\"");
    HAS(options, "\"schedule\":\"cosine\"");
    HAS(options, "\"batching\":\"packed\"");
    SET(optimizer, MCANDLE_OPTIMIZER_MUON, "\"ns_steps\":5");
    SET(output_dir, NULL, "\"output_dir\":null");
    SET(target_modules, NULL, "\"gate_proj\"");
    mcandle_train_options_free(options);
    options = read("{\"method\": {\"fine_tune_type\": \"full\", \"num_layers\": 4}}");
    HAS(options, "\"fine_tune_type\":\"full\",\"num_layers\":4");
    mcandle_train_options_free(options);
}

#define DO_NOT_FIT(options, ...)                                                                   \
    do {                                                                                           \
        mcandle_string *json = UNTOUCHED;                                                          \
        FAILS(mcandle_train_options_to_json(options, &json, error), MCANDLE_INVALID_ARGUMENT,      \
              __VA_ARGS__);                                                                        \
        CHECK((void *)json == UNTOUCHED);                                                          \
    } while (0)

static void settings_that_the_optimizer_does_not_have(void) {
    mcandle_train_options *options = mcandle_train_options_new();
    mcandle_train_options_set_momentum(options, 0.5);
    DO_NOT_FIT(options, "`momentum` is set for adamw", "sgd or muon");
    mcandle_train_options_free(options);
    options = mcandle_train_options_new();
    mcandle_train_options_set_betas(options, 0.5, 0.5);
    mcandle_train_options_set_optimizer(options, MCANDLE_OPTIMIZER_MUON);
    DO_NOT_FIT(options, "`betas` is set for muon", "adamw or adam");
    mcandle_train_options_free(options);
    options = mcandle_train_options_new();
    mcandle_train_options_set_optimizer(options, MCANDLE_OPTIMIZER_SGD);
    mcandle_train_options_set_eps(options, 0.5);
    DO_NOT_FIT(options, "`eps` is set for sgd", "adamw, adam or muon");
    mcandle_train_options_free(options);
}

static void json_that_is_not_understood(void) {
    mcandle_train_options *made = UNTOUCHED;
#define NOT_UNDERSTOOD(json, ...)                                                                  \
    FAILS(mcandle_train_options_from_json(json, strlen(json), &made, error),                       \
          MCANDLE_INVALID_ARGUMENT, "`train options`", __VA_ARGS__)
    NOT_UNDERSTOOD("{\"stepps\": 3}", "unknown field `stepps`", "`steps`");
    NOT_UNDERSTOOD("{\"method\": {\"ranc\": 3}}", "`ranc`");
    NOT_UNDERSTOOD("{\"optimizer\": {\"name\": \"sgd\", \"betas\": 1}}", "`betas`");
    NOT_UNDERSTOOD("{\"steps\": -3}", "-3");
    NOT_UNDERSTOOD("[", "JSON");
    FAILS(mcandle_train_options_from_json("\xFF", 1, &made, error), MCANDLE_INVALID_UTF8, "`json`");
    CHECK((void *)made == UNTOUCHED);
}

int main(void) {
    every_setter_counts();
    methods();
    optimizers();
    json_and_setters();
    settings_that_the_optimizer_does_not_have();
    json_that_is_not_understood();
    return 0;
}
