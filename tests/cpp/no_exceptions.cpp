// The same operations without exceptions: each gives a value or an error. This file is compiled
// without them, and linked with those that have them.
#include "test.hpp"

#if !defined(MCANDLE_NO_EXCEPTIONS)
#error this file is to be compiled without exceptions
#endif

namespace {

mcandle::expected<std::string> complete(const char *path, std::size_t max_tokens) {
    auto model = mcandle::model::load(path);
    if (!model) {
        return model.error();
    }
    auto generator = mcandle::generator::create(*model);
    if (!generator) {
        return generator.error();
    }
    std::string text;
    const auto generation =
        generator->generate(test::PROMPT, mcandle::generate_options().max_tokens(max_tokens),
                            [&](const mcandle::chunk &chunk) { text += chunk.text(); });
    if (!generation) {
        return generation.error();
    }
    CHECK(generation->tokens().size() == max_tokens && generation->text() == text);
    return text;
}

} // namespace

TEST(operations_give_what_they_do_not_throw) {
    const auto text = complete(test::MODEL, 8);
    CHECK(text && !text->empty());
    const auto missing = complete("missing", 8);
    CHECK(!missing && missing.error().status() == mcandle::status::not_found);
    const auto refused = complete(test::MODEL, 0);
    CHECK(!refused &&
          std::string_view(refused.error().what()).find("max_tokens") != std::string_view::npos);
    const auto attempted = mcandle::attempt([] { return complete("missing", 1); });
    CHECK(!attempted && attempted.error().status() == mcandle::status::not_found);
}

TEST(streams_that_fail_end_and_tell) {
    const auto model = mcandle::model::load(test::MODEL);
    auto generator = mcandle::generator::create(*model);
    std::string text;
    auto stream = generator->stream(test::PROMPT, mcandle::generate_options().max_tokens(20));
    for (const mcandle::token &token : stream) {
        text += token.text;
    }
    auto generation = stream.finish();
    CHECK(generation && generation->text() == text && !text.empty());
    CHECK(!stream.finish());

    auto failing = generator->stream(test::PROMPT, mcandle::generate_options().max_tokens(0));
    CHECK(failing.begin() == failing.end());
    CHECK(failing.finish().error().status() == mcandle::status::invalid_argument);
}

TEST(futures_give_what_they_do_not_throw) {
    auto model = mcandle::model::load_async(test::MODEL).get();
    CHECK(model);
    auto generator = mcandle::generator::create(*model);
    auto generation =
        generator->generate_async(test::PROMPT, mcandle::generate_options().max_tokens(4)).get();
    CHECK(generation && generation->tokens().size() == 4);
    generation =
        generator->generate_async(test::PROMPT, mcandle::generate_options().max_tokens(0)).get();
    CHECK(!generation && generation.error().status() == mcandle::status::invalid_argument);
    CHECK(!mcandle::model::load_async("missing").get());
}

TEST(training_gives_what_it_does_not_throw) {
    const auto model = mcandle::model::load(test::MODEL);
    const auto rows =
        mcandle::dataset::from_rows(std::vector<std::string>{"{\"text\": \"a b\"}"}, *model);
    CHECK(rows && rows->size() == 1);
    auto trainer =
        mcandle::trainer::create(*model, *rows, mcandle::train_options().steps(1).rank(1));
    CHECK(trainer);
    std::size_t events = 0;
    const auto summary = trainer->train([&](const mcandle::train_event &) { events++; });
    CHECK(summary && summary->steps() == 1 && events > 1);
    CHECK(!mcandle::trainer::create(*model, *rows, mcandle::train_options().rank(0)));
}
