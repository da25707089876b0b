// Data sets, training, its events, checkpoints and what comes out of it.
#include "test.hpp"

#include <algorithm>
#include <cmath>
#include <list>
#include <optional>

namespace {

constexpr const char *ROWS = "{\"prompt\": \"one two\", \"completion\": \" three four\"}\n"
                             "{\"prompt\": \"red green\", \"completion\": \" blue\"}\n";

mcandle::train_options three_steps() {
    return mcandle::train_options().steps(3).batch_size(2).rank(2).eval_every(2).learning_rate(
        1e-3);
}

} // namespace

TEST(data_sets_come_from_files_and_folders) {
    const test::folder folder;
    folder.write("train.jsonl", ROWS);
    auto all = mcandle::dataset::from_folder(folder.path(), test::model());
    CHECK(all.train.size() == 2 && !all.validation && !all.test);
    folder.write("valid.jsonl", ROWS);
    folder.write("test.jsonl", "{\"text\": \"a b\"}\n");
    all = mcandle::dataset::from_folder(folder.path(), test::model());
    CHECK(all.validation->size() == 2 && all.test->size() == 1);
    CHECK(all.train.row_kind() == mcandle::row_kind::sample);
    CHECK(all.train.token_count() > all.train.target_token_count());
    CHECK(all.train.target_token_count() > 0 && all.train.truncated_count() == 0);
    FAILS(mcandle::dataset::from_folder(folder / "missing", test::model()), not_found, "missing");

    const auto path = folder.write("bad.jsonl", "{\"text\": \"a b\"}\n{\"prompt\": \"a\"}\n");
    FAILS(mcandle::dataset::from_jsonl(path, test::model()), invalid_format, "completion");
    const auto some = mcandle::dataset::from_jsonl(
        path, test::model(), mcandle::dataset_options().on_bad_row(mcandle::bad_row::skip));
    CHECK(some.size() == 1 && some.skipped_count() == 1);
    CHECK(some.skipped().size() == 1 && some.skipped()[0].line == 2);
    CHECK(some.skipped()[0].reason.find("completion") != std::string::npos);
}

TEST(data_sets_come_from_functions_and_ranges) {
    int left = 3;
    const auto counted = mcandle::dataset::from_callback(
        [&]() -> std::optional<std::string> {
            return left-- > 0 ? std::optional<std::string>("{\"text\": \"row " +
                                                           std::to_string(left) + "\"}")
                              : std::nullopt;
        },
        test::model());
    CHECK(counted.size() == 3);

    const std::list<std::string> rows{
        "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}"};
    const auto pairs = mcandle::dataset::from_rows(rows, test::model());
    CHECK(pairs.size() == 1 && pairs.row_kind() == mcandle::row_kind::pair);
    const char *const texts[] = {"{\"text\": \"a b\"}", "{\"text\": \"c d\"}"};
    CHECK(mcandle::dataset::from_rows(texts, test::model()).size() == 2);
    FAILS(mcandle::dataset::from_rows(std::list<std::string>{"{"}, test::model()), invalid_format,
          "1");

    int number = 0;
    try {
        mcandle::dataset::from_callback([]() -> std::optional<std::string> { throw 7; },
                                        test::model());
    } catch (const int thrown) {
        number = thrown;
    }
    CHECK(number == 7);
}

TEST(training_tells_what_happens) {
    const test::folder folder;
    folder.write("train.jsonl", ROWS);
    folder.write("valid.jsonl", ROWS);
    const auto data = mcandle::dataset::from_folder(folder.path(), test::model());
    const auto out = folder / "out";
    auto trainer =
        mcandle::trainer::create(test::model(), data, three_steps().output_dir(out).save_every(2));
    CHECK(trainer.total_steps() == 3);
    const std::uint64_t weights = trainer.adapter().parameter_count();
    const double before = trainer.evaluate();
    std::string kinds;
    std::vector<double> losses;
    double lowest = INFINITY;
    const auto summary = trainer.train([&](const mcandle::train_event &event) {
        kinds += "SEC<>"[static_cast<int>(event.kind())];
        CHECK(event.json().front() == '{' && event.step() <= 3);
        CHECK(event.summary().has_value() == (event.kind() == mcandle::train_event_kind::end));
        switch (event.kind()) {
        case mcandle::train_event_kind::start:
            CHECK(event.trainable_parameters() == weights);
            CHECK(event.parameters() ==
                  event.trainable_parameters() + test::model().parameter_count());
            CHECK(event.rows() == 2 && event.truncated() == 0 && event.skipped() == 0);
            CHECK(event.batches_per_epoch() == 1 && event.pack_efficiency() == 0);
            CHECK(event.method() == "lora" && event.objective() == "sft");
            break;
        case mcandle::train_event_kind::step:
            losses.push_back(event.loss());
            CHECK(event.epoch() == double(losses.size()) && event.total_steps() == 3);
            CHECK(event.learning_rate() == 1e-3 && event.grad_norm() > 0);
            CHECK(event.tokens() == data.train.token_count());
            CHECK(event.target_tokens() == data.train.target_token_count());
            CHECK(event.tokens_so_far() == losses.size() * data.train.token_count());
            CHECK(event.tokens_per_second() > 0 && event.seconds_elapsed() > 0);
            CHECK(event.seconds_remaining() >= 0 && event.memory() > 0 && event.peak_memory() > 0);
            CHECK(std::isnan(event.reward_chosen()) && std::isnan(event.reward_rejected()));
            CHECK(std::isnan(event.reward_margin()) && std::isnan(event.reward_accuracy()));
            break;
        case mcandle::train_event_kind::evaluation:
            CHECK(std::fabs(event.perplexity() / std::exp(event.loss()) - 1) < 1e-9);
            CHECK(event.best() == (event.loss() < lowest));
            lowest = std::min(lowest, event.loss());
            break;
        case mcandle::train_event_kind::checkpoint:
            CHECK(std::filesystem::is_directory(event.path()));
            break;
        case mcandle::train_event_kind::end:
            CHECK(event.summary()->steps() == 3);
            break;
        }
    });
    CHECK(kinds == "<ESSECSE>" || kinds == "<ESSECSEC>");
    CHECK(summary.steps() == 3 && summary.loss() == losses.back() && !summary.cancelled());
    CHECK(summary.stop_reason() == mcandle::train_stop::finished && summary.seconds() > 0);
    CHECK(summary.tokens() == 3 * data.train.token_count());
    CHECK(summary.validation_loss() < before && summary.best_loss() <= summary.validation_loss());
    CHECK(summary.best_step() > 0 && losses.size() == 3 && losses[2] < losses[0]);

    const auto checkpoints = mcandle::list_checkpoints(out);
    CHECK(!checkpoints.empty() && checkpoints.front().step == 2);
    CHECK(mcandle::latest_checkpoint(out) == checkpoints.back().path);
    CHECK(!mcandle::latest_checkpoint(folder / "missing"));
    const auto best = mcandle::find_best_checkpoint(out);
    CHECK(best.has_value() == !summary.best_path().empty());
    CHECK(!best || (best->path == summary.best_path() && best->loss == summary.best_loss() &&
                    best->step == summary.best_step()));
    CHECK(!mcandle::find_best_checkpoint(folder / "missing"));

    // What was trained is used as it is, from its files, and merged.
    const auto prompt = mcandle::generate_options().max_tokens(4);
    auto generator = mcandle::generator::create(test::model());
    generator.set_adapter(trainer.adapter());
    const auto expected = test::to_vector(generator.generate("one two", prompt).tokens());
    generator.set_adapter(mcandle::adapter::load(out, test::model()));
    CHECK(test::to_vector(generator.generate("one two", prompt).tokens()) == expected);
    auto merged = mcandle::generator::create(trainer.model());
    CHECK(test::to_vector(merged.generate("one two", prompt).tokens()) == expected);

    auto resumed =
        mcandle::trainer::resume(test::model(), data, checkpoints.front().path, three_steps());
    double last = 0;
    resumed.train([&](const mcandle::train_event &event) {
        last = event.kind() == mcandle::train_event_kind::step ? event.loss() : last;
    });
    CHECK(last == losses.back());

    const auto adapter = trainer.adapter();
    auto further =
        mcandle::trainer::from_adapter(test::model(), data.train, adapter, three_steps().steps(1));
    CHECK(std::isnan(further.evaluate()));
    CHECK(further.train().loss() < losses.front());
    further.save_checkpoint(folder / "saved");
    CHECK(std::filesystem::exists(folder / "saved" / "optimizer.safetensors"));
}

TEST(training_is_stopped) {
    const auto rows = mcandle::dataset::from_rows(
        std::vector<std::string>{"{\"text\": \"a b c\"}", "{\"text\": \"d e f\"}"}, test::model());
    auto trainer = mcandle::trainer::create(test::model(), {rows, rows}, three_steps());
    const auto after_one = [&](const mcandle::train_event &event) {
        return event.kind() != mcandle::train_event_kind::step;
    };
    const auto stopped = trainer.train(after_one);
    CHECK(stopped.cancelled() && stopped.steps() == 1);
    CHECK(stopped.stop_reason() == mcandle::train_stop::cancelled);

    int number = 0;
    std::string kinds;
    try {
        trainer.train([&](const mcandle::train_event &event) {
            kinds += "SEC<>"[static_cast<int>(event.kind())];
            if (event.kind() == mcandle::train_event_kind::step) {
                throw 7;
            }
        });
    } catch (const int thrown) {
        number = thrown;
    }
    // The end is not told to a function that threw.
    CHECK(number == 7 && kinds.back() == 'S');
    trainer.cancel();
    CHECK(trainer.train().steps() == 3);

#if defined(__cpp_lib_jthread)
    auto another = mcandle::trainer::create(test::model(), rows, three_steps().steps(1000));
    std::stop_source source;
    std::size_t steps = 0;
    const auto summary = another.train(
        [&](const mcandle::train_event &event) {
            if (event.kind() == mcandle::train_event_kind::step && ++steps == 2) {
                source.request_stop();
            }
        },
        source.get_token());
    CHECK(summary.cancelled() && summary.steps() == 2 && steps == 2);
    CHECK(another.train(nullptr, source.get_token()).steps() == 2);
#endif
}

TEST(what_cannot_be_trained_is_refused) {
    const auto rows =
        mcandle::dataset::from_rows(std::vector<std::string>{"{\"text\": \"a b\"}"}, test::model());
    FAILS(mcandle::trainer::create(test::model(), rows, three_steps().rank(0)), invalid_argument,
          "rank");
    FAILS(mcandle::trainer::create(test::model(), rows, three_steps().target_modules("x")),
          invalid_argument, "x");
    auto moved =
        mcandle::dataset::from_rows(std::vector<std::string>{"{\"text\": \"a b\"}"}, test::model());
    const auto taken = std::move(moved);
    FAILS(mcandle::trainer::create(test::model(), {rows, moved}), null_pointer, "moved from");
    FAILS(mcandle::trainer::create(test::model(), moved), null_pointer, "train");
}
