// Many texts at once.
#include "test.hpp"

#include <map>
#include <memory>

using test::tokens;

namespace {

mcandle::generate_options most(std::size_t max_tokens) {
    return mcandle::generate_options().max_tokens(max_tokens);
}

} // namespace

TEST(texts_of_a_batch_get_the_tokens_that_they_get_alone) {
    auto batch = mcandle::batch::create(test::model(), 4);
    const auto ids = test::model().tokenizer().encode(test::PROMPT);
    CHECK(batch.push(test::PROMPT, most(8)) == 0);
    CHECK(batch.push_ids(ids, most(12)) == 1);
    CHECK(batch.push("fn add(", most(1900)) == 2 && batch.size() == 3);
    std::map<std::size_t, tokens> told;
    const auto results = batch.run([&](const mcandle::chunk &chunk) {
        told[chunk.sequence()].push_back(chunk.token());
        return chunk.sequence() != 2;
    });
    CHECK(results.size() == 3 && !results.empty() && batch.size() == 0);
    std::size_t found = 0;
    for (const mcandle::batch_result result : results) {
        const auto generation = result.generation();
        const auto got = test::to_vector(generation.tokens());
        CHECK(!result.error() && got == told[result.sequence()]);
        if (result.sequence() == 2) {
            CHECK(generation.finish_reason() == mcandle::finish_reason::cancelled);
            CHECK(got.size() == 1);
        } else {
            CHECK(got == test::reference(result.sequence() == 0 ? 8 : 12));
        }
        found |= std::size_t(1) << result.sequence();
    }
    CHECK(found == 7);
    CHECK(results[0].sequence() == 2);
}

TEST(batches_go_by_steps) {
    auto batch = mcandle::batch::create(test::model(), 2);
    batch.push(test::PROMPT, most(3));
    std::size_t finished = 0;
    for (std::size_t steps = 0; batch.size() > 0; steps++) {
        CHECK(steps < 20);
        if (steps == 1) {
            CHECK(batch.push("fn a", most(1900)) == 1);
            CHECK(batch.cancel_sequence(1) && !batch.cancel_sequence(7));
        }
        finished += batch.step().size();
    }
    CHECK(finished == 2);
    FAILS(batch.push("x", most(0)), invalid_argument, "max_tokens");
    FAILS(mcandle::batch::create(test::model(), 0), invalid_argument, "max_batch_size");
}

TEST(a_text_that_fails_stops_no_other) {
    auto batch = mcandle::batch::create(test::model(), 2);
    const auto ids = test::model().tokenizer().encode(test::PROMPT);
    auto alive = std::make_shared<int>(0);
    const auto failing = batch.push_ids(ids, most(4), [alive](auto, auto) { return false; });
    CHECK(alive.use_count() == 2);
    batch.push(test::PROMPT, most(4));
    const auto results = batch.run();
    CHECK(results.size() == 2 && alive.use_count() == 1);
    for (const mcandle::batch_result result : results) {
        if (result.sequence() == failing) {
            CHECK(result.error()->status() == mcandle::status::cancelled);
            FAILS(result.generation(), cancelled, "");
        } else {
            CHECK(test::to_vector(result.generation().tokens()) == test::reference(4));
        }
    }
    FAILS(batch.push_ids({99999999}, most(1), [alive](auto, auto) {}), invalid_argument, "ids");
    CHECK(alive.use_count() == 1);
}

TEST(exceptions_end_the_run_of_a_batch) {
    auto batch = mcandle::batch::create(test::model(), 2);
    const auto ids = test::model().tokenizer().encode(test::PROMPT);
    batch.push(test::PROMPT, most(1900).ignore_eos(true));
    batch.push(test::PROMPT, most(1900).ignore_eos(true));
    int number = 0;
    try {
        batch.run([&](const mcandle::chunk &chunk) {
            if (chunk.index() == 2) {
                throw 7;
            }
        });
    } catch (const int thrown) {
        number = thrown;
    }
    CHECK(number == 7 && batch.size() == 0);

    batch.push(test::PROMPT, most(1900).ignore_eos(true));
    batch.push_ids(ids, most(1900), [](auto, auto) { throw 8; });
    try {
        batch.run();
    } catch (const int thrown) {
        number = thrown;
    }
    CHECK(number == 8 && batch.size() == 0);

    batch.push(test::PROMPT, most(4));
    CHECK(test::to_vector(batch.run()[0].generation().tokens()) == test::reference(4));
}

TEST(batches_are_cancelled) {
    auto batch = mcandle::batch::create(test::model(), 2);
    batch.push(test::PROMPT, most(1900).ignore_eos(true));
    const auto results = batch.run([&](const mcandle::chunk &) { batch.cancel(); });
    CHECK(results[0].generation().finish_reason() == mcandle::finish_reason::cancelled);
#if defined(__cpp_lib_jthread)
    std::stop_source source;
    batch.push(test::PROMPT, most(1900).ignore_eos(true));
    batch.push(test::PROMPT, most(1900).ignore_eos(true));
    const auto stopped =
        batch.run([&](const mcandle::chunk &) { source.request_stop(); }, source.get_token());
    CHECK(stopped.size() == 2);
    for (const mcandle::batch_result result : stopped) {
        CHECK(result.generation().finish_reason() == mcandle::finish_reason::cancelled);
        CHECK(result.generation().tokens().size() < 3);
    }
#endif
}

TEST(texts_of_a_batch_have_adapters) {
    auto batch = mcandle::batch::create(test::model(), 2);
    const auto style = mcandle::adapter::load(test::STYLE_ADAPTER, test::model());
    batch.set_adapter(style);
    batch.push(test::PROMPT, most(24));
    batch.clear_adapter();
    batch.push(test::PROMPT, most(24));
    for (const mcandle::batch_result result : batch.run()) {
        const bool plain = test::to_vector(result.generation().tokens()) == test::reference(24);
        CHECK(plain == (result.sequence() == 1));
    }
}
